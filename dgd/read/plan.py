"""Say how many seeds a comparison with the baseline takes, given finished cells as a pilot."""

import math
from collections.abc import Iterable

import pandas as pd

from dgd.metrics import metric_named
from dgd.read.comparisons import BLOCKED, Draft
from dgd.read.statistics import seeds_for, upper_variance
from dgd.read.table import PAIR, Table, number, pair

COLUMNS = ("dataset", "student", "teacher", "method", "metric", "pilot_seeds", "sd", "sd_upper", "half_width")
COLUMNS += ("wanted", "seeds", "seeds_upper")
"""The columns: standard deviations are those of differences by seed, moderated, and `sd_upper` their one-sided 90 % bound."""

HEADERS = ("data set", PAIR, "method", "pilot", "sd of differences", "interval now", "seeds", "seeds, to be safe")


def plan(results: Draft, half_width: float = 0.5) -> Table:
    """Return how many seeds make the 95 % interval of each gain over the baseline that narrow.

    A pilot of three seeds hardly knows a variance: `seeds` goes by its estimate, so that about half of all plans fall short;
    `seeds_upper` by its upper bound, so that one in ten does.

    Args:
        results: From `dgd.read.results.results`.
        half_width: To either side of the gain, in the unit of the metric.

    Raises:
        ValueError: `half_width` is not above 0, or would take more than 100,000 seeds.
    """
    rows = []
    for row, one in zip(results.frame.to_dict("records"), results.compared["gain_p_holm"], strict=True):
        if one.analysis == BLOCKED:
            (variance, freedom), too = one.moments, not math.isnan(one.typical)
            upper = upper_variance(variance, freedom)
            found = {name: row[name] for name in COLUMNS[:5]} | {"pilot_seeds": len(one.differences)}
            found |= {"sd": math.sqrt(variance), "sd_upper": math.sqrt(upper), "wanted": half_width}
            found["half_width"] = (one.primary.high - one.primary.low) / 2
            found |= {"seeds": seeds_for(variance, half_width, too), "seeds_upper": seeds_for(upper, half_width, too)}
            rows.append(found)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return Table(frame, pd.DataFrame([_text(row) for row in rows], columns=list(HEADERS)), tuple(_footnotes(half_width)))


def _text(row: dict) -> dict[str, str]:
    form = metric_named(row["metric"]).form
    values = (
        *(row["dataset"], pair(row["student"], row["teacher"]), row["method"], f"{row['pilot_seeds']} seeds"),
        *(number(row["sd"], form), f"± {number(row['half_width'], form)}", str(row["seeds"]), str(row["seeds_upper"])),
    )
    return dict(zip(HEADERS, values, strict=True))


def _footnotes(half_width: float) -> Iterable[str]:
    yield (
        f"Seeds: how many, of method and baseline alike, make the 95 % interval of the gain ± {half_width:g} or narrower, by "
        "the moderated variance of the pilot's differences by seed. To be safe: by the upper 90 % bound of that variance, "
        "which a pilot of few seeds hardly knows."
    )
    yield "Rows that share fewer than two seeds with the baseline, or are its own network, have no plan."
