"""Make the table of sub-nets: each one, and its full net, trained jointly against trained alone, with what it costs to run."""

from typing import Any

import pandas as pd

from dgd.metrics import metric_named
from dgd.read.cells import baseline_of, is_baseline, metric_of
from dgd.read.comparisons import CONDITIONAL, Draft, Settings, by_seed, footnote
from dgd.read.results import metrics_in
from dgd.read.statistics import mean_interval
from dgd.read.table import NOT_RUN, Table, gain, interval, number, p_value

SIDE = ("n", "mean", "sd", "low", "high")

COLUMNS = (
    *("dataset", "student", "teacher", "method", "network", "role", "metric"),
    *SIDE,
    *(f"alone_{name}" for name in SIDE),
    *("gain", "gain_low", "gain_high", "gain_p", "gain_p_holm"),
    *("gain_welch_low", "gain_welch_high", "gain_welch_p", "gain_analysis", "minimum_detectable_effect"),
    *("parameters", "multiply_adds", "latency_ms", "latency_of"),
)
"""The columns of the table: results and gains in the metric's unit, latency in milliseconds for one image."""


def subnets_table(cells: pd.DataFrame) -> Table:
    """Return the table of `subnets`, its p-values adjusted over its own comparisons."""
    return subnets(cells).table()


def subnets(cells: pd.DataFrame, settings: Settings | None = None) -> Draft:
    """Set every network of the methods with sub-nets beside the same network trained alone.

    One row a data set, student, teacher, method and network, the full net first. Of a group the first member and its sub-nets
    count. `alone_` are the results of the `baseline` cells of that network; without any they and the gain are NaN. The gain is
    positive where joint training is better.

    Args:
        cells: From `dgd.read.cells.collect`, or its CSV. Without sub-nets the table is empty.
        settings: Those of the cells, by their first networks, where other tables use them too.
    """
    rows, compared = [], []
    settings = settings or Settings(cells)
    cells = cells.assign(teacher=cells["teacher"].fillna(""), subnet=cells["subnet"].fillna("") if "subnet" in cells else "")
    finished = cells[cells["status"] == "finished"]
    alone = dict(list(finished[is_baseline(finished) & (finished["network"] == 0)].groupby(["dataset", "student", "method"])))
    for key, group in finished.groupby(["dataset", "student", "teacher", "method"], sort=False):
        if not (group["subnet"] != "").any():
            continue
        first = group.drop_duplicates(["seed", "subnet"])  # members come before their sub-nets, and the first before the second
        for subnet, own in first.groupby("subnet", sort=False):
            name, metric = subnet or key[1], metric_of(own)
            values, others = (by_seed(part) for part in (own, alone.get((key[0], name, baseline_of(group)), own.iloc[:0])))
            row: dict[str, Any] = dict(zip(COLUMNS[:4], key, strict=True)) | {"network": name, "metric": metric.name}
            row |= {"role": "sub-net" if subnet else "full net"} | mean_interval([*values.values()])._asdict()
            row |= {f"alone_{field}": value for field, value in mean_interval([*others.values()])._asdict().items()}
            one = settings.of(key[0], name).of(values, others)
            compared.append(one)
            row |= one.columns("gain") | {"minimum_detectable_effect": one.minimum_detectable_effect}
            row |= {field: own.iloc[0][field] for field in ("parameters", "multiply_adds")}
            row |= {"latency_ms": own["latency_ms"].median(), "latency_of": "; ".join(own["latency_of"].unique())}
            rows.append(row)
    return Draft(pd.DataFrame(rows, columns=list(COLUMNS)), {"gain_p_holm": compared}, _table)


def _table(frame: pd.DataFrame, size: int) -> Table:
    text = pd.DataFrame([_text(row) for row in frame.itertuples()], columns=HEADERS)
    return Table(frame, text, tuple(_footnotes(frame, size)))


# -------------------------------------------------------------------------------------------------------------- text

HEADERS = ["data set", "full net", "method", "network", "trained jointly", "trained alone", "gain", "p (Holm)"]
HEADERS += ["minimum detectable effect", "parameters", "multiply-adds", "latency"]


def _text(row: Any) -> dict[str, str]:
    """Return the readable form of one row."""
    form = metric_named(row.metric).form

    def result(n: float, mean: float, sd: float, low: float, high: float) -> str:
        if not n:
            return NOT_RUN
        return number(mean, form) + ("" if pd.isna(sd) else f" ± {sd:{form}}") + f" ({n:.0f})" + interval(low, high, form)

    values = (
        *(row.dataset, row.student + (f" ← {row.teacher}" if row.teacher else ""), row.method),
        row.network + (" (full)" if row.role == "full net" else ""),
        result(*(getattr(row, name) for name in SIDE)),
        result(*(getattr(row, f"alone_{name}") for name in SIDE)),
        gain(row.gain, row.gain_low, row.gain_high, form),
        p_value(row.gain_p_holm),
        number(row.minimum_detectable_effect, form),
        f"{row.parameters:,.0f}",
        f"{row.multiply_adds / 1e6:,.1f} M",
        f"{row.latency_ms:.2f} ms",
    )
    return dict(zip(HEADERS, values, strict=True))


def _footnotes(frame: pd.DataFrame, size: int) -> list[str]:
    """Return the footnotes of the table, of a family of so many comparisons."""
    if not len(frame):
        return ["No cell with sub-nets has finished."]
    labels = " or ".join(metric.words for metric in metrics_in(frame))
    measured = "; ".join(dict.fromkeys(text for texts in frame["latency_of"] for text in texts.split("; ")))
    return [
        f"Last epoch: {labels} on the test split, mean ± standard deviation (seeds) and the 95 % t-interval of the mean. "
        "Jointly: within the full net, whose layers the sub-nets share; of a group, its first network. Alone: the baseline of "
        "the same network, data and recipe. Gain: jointly over alone, positive where joint training is better, with its "
        "95 % interval. Minimum detectable effect: the smallest true difference that so many seeds, spread like these, show in "
        "four of five repetitions.",
        footnote(size),
        CONDITIONAL,
        "Parameters and multiply-adds (convolutions and matrix products, for one image) are those of the network by itself, "
        f"trained either way. Latency: the least time of 50 for one image after training, median over seeds ({measured}); of a "
        "shared machine only large differences count.",
    ]
