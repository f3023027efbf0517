"""Judge claims by the cells of benchmarks, setting by setting and as a whole."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dgd.read.claims.measure import Benchmark, Where, has_best
from dgd.read.claims.schema import KINDS, Claim, Setting
from dgd.read.comparisons import NONE, Comparison
from dgd.read.departures import PUBLISHED, Departure, departures, render, size_counts, together, with_evidence
from dgd.read.papers import BEST, Conditions
from dgd.read.statistics import VERDICTS, Difference, mean_interval, verdict
from dgd.read.table import NOT_RUN

TEXT = (
    *("paper", "claim", "sentence", "source", "reproduced_if", "note", "overall", "welch_overall"),
    *("metric", "better", "method", "over", "dataset", "student", "teacher", "benchmark", "row", "over_row", "scale"),
    *("published_ids", "analysis", "verdict", "welch_verdict", "counts", "remark", "seeds", "over_seeds", "folders"),
    *("over_folders", "form"),
)
"""The columns of claims.csv that hold text."""

COLUMNS = (
    *TEXT[: TEXT.index("published_ids")],
    *("mean", "sd", "n", "over_mean", "over_sd", "over_n", "difference", "low", "high", "p", "p_holm"),
    *("welch_low", "welch_high", "welch_p", "published"),
    *TEXT[TEXT.index("published_ids") :],
)
"""The columns of claims.csv. `overall` is the same in all rows of a claim, `counts` says which rows it rests on; `method` and
`over` are the paper's labels, `row` and `over_row` those of the benchmark's rows that were measured."""


BEST_WORDS = {
    (False, False): "",
    (True, True): "of each run's best epoch on the test set, as published",
    (True, False): "the method of each run's best epoch on the test set, as published",
    (False, True): "what it is over of each run's best epoch on the test set, as published",
}
"""What is said of a row by which sides are of their best epochs."""


@dataclass(frozen=True)
class Scale:
    """How two groups of cells stand to a published comparison.

    Attributes:
        found: The conditions in which they depart from it.
        setting: They are of the published data set, student and teacher.
        named: The paper names its data set.
        gain: The published difference.
    """

    found: tuple[Departure, ...]
    setting: bool
    named: bool = True
    gain: float = 0.0

    @property
    def published(self) -> bool:
        """Return whether the published difference applies to them."""
        return self.setting and size_counts(self.found, self.gain)

    @property
    def reduced(self) -> bool:
        """Return whether they saw less training than was published."""
        return any(_less(one) for one in self.found)

    def __str__(self) -> str:
        if self.published:
            return f"{PUBLISHED} but for: {render(self.found)}" if self.found else PUBLISHED
        kind = "reduced" if self.reduced else "other recipe" if self.setting else "other setting"
        parts = [render(self.found)] if self.found else []
        if not self.setting:
            parts.append("not a published setting" if self.named else "the paper names no data set")
        return f"{kind}: {'; '.join(parts)}"


def _less(one: Departure) -> bool:
    """Return whether a departure means fewer training steps."""
    if one.key == "epochs":
        longest = max(one.theirs) if isinstance(one.theirs, tuple) else one.theirs
        return one.ours is not None and one.ours < longest
    return one.key in ("train_images", "validation_images") and bool(one.ours)


def judged(
    claims: Sequence[Claim], benchmarks: Iterable[tuple[pd.DataFrame, str | Path | None]]
) -> tuple[pd.DataFrame, list[Comparison]]:
    """Hold claims against the cells of benchmarks.

    Args:
        claims: From `dgd.read.claims.read`.
        benchmarks: (cells, folder) of each: cells from `dgd.read.cells.collect` or its CSV, and `results/<benchmark>`, where
            the cells' history.csv and filters.npz are read if a claim needs them. Without a folder such claims have no values.

    Returns:
        The frame with `COLUMNS`, without adjusted p-values, and the comparison of each row. The rows are in the claims' order.
        Each published setting has a row, 'not run' if nothing measured it; each pair of rows that a benchmark has at another
        scale has one more. `difference` has its 95 % interval, with Welch's beside it; verdicts are not corrected for their
        number, `overall` is (see there).
    """
    wanted = {setting.measure for claim in claims for setting in claim.settings}
    sources = [Benchmark(cells, folder, wanted) for cells, folder in benchmarks]
    rows = []
    for claim in claims:
        found = [row for source in sources for row in _rows(claim, source)]
        # Of several rows of one published setting the one with the most seeds counts; the others are shown.
        chosen: dict[int, dict] = {}
        for row in found:
            place = row["place"]
            if place is not None and (place not in chosen or row["seen"] > chosen[place]["seen"]):
                chosen[place] = row
        for row in chosen.values():
            row["counts"] = "yes"
        unrun = {"verdict": NOT_RUN, "welch_verdict": NOT_RUN, "n": 0, "over_n": 0}
        for place, setting in enumerate(claim.settings):
            if place not in chosen:
                found.append(_describe(claim, setting) | unrun | {"place": place})
        values, said = [row["values"] for row in chosen.values()], {}
        for start, by in (("", Comparison.at), ("welch_", Comparison.welch_at)):
            elsewhere = [row[f"{start}verdict"] for row in found if row["place"] is None]
            word = overall(values, len(claim.settings), by)
            said[f"{start}overall"] = _overall_text(word, len(chosen), len(claim.settings), elsewhere)
        order = {None: len(claim.settings)}
        rows += [row | said for row in sorted(found, key=lambda row: order.get(row["place"], row["place"]))]
    return typed(pd.DataFrame(rows, columns=list(COLUMNS))), [row.get("comparison", NONE) for row in rows]


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the claims with "" for missing text and NaN for missing numbers, also where they come from claims.csv."""

    def text(value) -> str:
        if pd.isna(value):
            return ""
        # Of a file's column of one seed each and nothing else, pandas makes floats.
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)

    table = table.reindex(columns=list(COLUMNS))  # a file of an older version has fewer
    columns = {name: table[name].astype(object).map(text) if name in TEXT else table[name].astype(float) for name in COLUMNS}
    return pd.DataFrame(columns, columns=list(COLUMNS))


def overall(
    settings: Sequence[tuple[Comparison, float | None]],
    published: int,
    by: Callable[[Comparison, float], Difference] = Comparison.at,
) -> str:
    """Put the published settings of a claim together.

    | no setting was run                                                            | not run        |
    | some setting is not reproduced, by its interval at 1 - 5 % / (settings run)   | not reproduced |
    | every published setting was run, and each is reproduced by its 95 % interval  | reproduced     |
    | the same, and some are reproduced in direction only                           | direction only |
    | anything else, as when some settings were not run                             | inconclusive   |

    'Reproduced' asks for all settings at once, so it is said wrongly no more often than of the hardest one alone, and needs no
    correction. 'Not reproduced' is said for one failure among many, so there the intervals are widened (Bonferroni: it takes an
    interval for each, which Holm's steps do not give).

    Error rates, measured by tests/test_error_rates.py as in `dgd.read.statistics.verdict`: equal sd s, a claimed gain of 2 s
    in each setting, five seeds (reproduced / direction only / not reproduced / inconclusive, in %):

    | settings | true gain           | reproduced | direction only | not reproduced | inconclusive |
    |----------|---------------------|------------|----------------|----------------|--------------|
    | 3        | 0                   | 0          | 0              | 87             | 13           |
    | 3        | 2 s                 | 39         | 1              | 1              | 58           |
    | 3        | 2 s, and 0 in one   | 1          | 0              | 50             | 49           |
    | 8        | 0                   | 0          | 0              | 94             | 6            |
    | 8        | 2 s                 | 8          | 0              | 1              | 90           |
    | 8        | 2 s, and 0 in one   | 0          | 0              | 29             | 71           |

    So five seeds mostly leave a claim of many settings open, also a true one.

    Args:
        settings: (method over the other, claimed gain) of each setting that was run as published. The sign is such that the
            claim is a gain above 0; None: no size was published.
        published: How many settings the claim has.
        by: Which analysis: `Comparison.at`, the primary one, or `Comparison.welch_at`.

    Returns:
        One of `dgd.read.statistics.VERDICTS`, or 'not run'.
    """
    if not settings:
        return NOT_RUN
    plain = [_verdict(by(one, 0.95), claimed) for one, claimed in settings]
    wide = [_verdict(by(one, 1 - 0.05 / len(settings)), claimed) for one, claimed in settings]
    if "not reproduced" in wide:
        return "not reproduced"
    if len(settings) < published or not set(plain) <= {"reproduced", "direction only"}:
        return "inconclusive"
    return "direction only" if "direction only" in plain else "reproduced"


def _verdict(gain: Difference, claimed: float | None) -> str:
    return verdict((gain.low, gain.high), claimed)


def _overall_text(said: str, run: int, published: int, elsewhere: Sequence[str]) -> str:
    """Return the overall verdict with what it rests on: "inconclusive (1 of 3 settings run); at other scales: ..."."""
    text = said if not run else f"{said} ({run} of {published} settings run)"
    if not elsewhere:
        return text
    counts = ", ".join(f"{elsewhere.count(word)} {word}" for word in VERDICTS if word in elsewhere)
    return f"{'not run as published' if not run else text}; at other scales: {counts}"


def _describe(claim: Claim, setting: Setting) -> dict:
    """Return what a row says without cells."""
    return {
        "paper": claim.paper,
        "claim": claim.id,
        "sentence": claim.claim,
        "source": claim.source,
        "reproduced_if": claim.reproduced_if,
        "note": claim.note,
        "metric": str(setting.measure),
        "better": setting.better,
        "method": str(setting.side.reading),
        "over": str(setting.other.reading),
        "dataset": setting.dataset or "not given",
        "student": setting.student,
        "teacher": setting.teacher,
        "published": setting.gain,
        "published_ids": " ".join(setting.ids),
        "form": KINDS[setting.measure.kind].form,
    }


def _rows(claim: Claim, source: Benchmark) -> Iterable[dict]:
    """Yield the rows of a claim in one benchmark: its published settings, and every other pair that it speaks of."""
    comparisons = dict.fromkeys(setting.comparison for setting in claim.settings)
    for comparison in comparisons:
        same = [(place, setting) for place, setting in enumerate(claim.settings) if setting.comparison == comparison]
        example = same[0][1]
        kind = KINDS[example.measure.kind]
        if not kind.measured:
            continue
        for pair in _closest(_pair(claim, same, cells, source) for cells in source.pairs(claim, *comparison[:2], kind)):
            where, ours, theirs, place, scale = pair
            setting = example if place is None else claim.settings[place]
            names = {"dataset": where[0], "student": where[1]}
            if place is None and not all(text in names[key] for key, text in claim.only.items()):
                continue
            epochs = setting.reported if scale.published else (None, None)
            values, missing = source.values(ours, setting.measure, setting.side, epochs[0])
            others, others_missing = source.values(theirs, setting.measure, setting.other, epochs[1])
            if values is None or others is None:  # the network has no such layer
                continue
            row = _describe(claim, setting) | dict(zip(("dataset", "student", "teacher"), where))
            row |= {"benchmark": source.name, "row": ours[0]["method"], "over_row": theirs[0]["method"], "scale": str(scale)}
            best = [epoch == BEST and has_best(setting.measure, side) for epoch, side in zip(epochs, setting.sides)]
            one = source.compared((ours, theirs), (values, others), setting.measure, setting.sides, best[1])
            row |= _judged(setting, values, others, scale, one) | {"place": place if scale.published else None}
            remarks = (BEST_WORDS[tuple(best)], missing, others_missing)
            row["remark"] = "; ".join(dict.fromkeys(text for text in remarks if text))
            for prefix, cells in (("", ours), ("over_", theirs)):
                row[f"{prefix}seeds"] = " ".join(str(cell["seed"]) for cell in cells)
                row[f"{prefix}folders"] = " ".join(cell["folder"] for cell in cells)
            yield row


class _Pair(NamedTuple):
    """Cells of a comparison's two sides, the place of their setting (None: no published one), and how they stand to it."""

    where: Where
    ours: list[dict]
    theirs: list[dict]
    place: int | None
    scale: Scale


def _pair(claim: Claim, same: Sequence[tuple[int, Setting]], cells: tuple, source: Benchmark) -> _Pair:
    where, ours, theirs = cells
    place, setting = next(((place, one) for place, one in same if one.covers(*where)), (None, same[0][1]))
    return _Pair(*cells, place, _scale(claim, setting, where, source, ours, theirs, place is not None))


def _closest(pairs: Iterable[_Pair]) -> Iterable[_Pair]:
    """Yield the pairs without those of which one side could be held against cells that depart less from what was published.

    A baseline by another schedule, say, is not held against a method that overrides the schedule where the plain one is there.
    """
    pairs = list(pairs)
    for pair in pairs:
        rivals = [one for one in pairs if one.where == pair.where and (one.ours is pair.ours or one.theirs is pair.theirs)]
        if len(pair.scale.found) == min(len(one.scale.found) for one in rivals):
            yield pair


def _judged(
    setting: Setting, values: Mapping[int, float], others: Mapping[int, float], scale: Scale, found: Comparison
) -> dict:
    """Return the numbers and the verdict of a row; the difference is plain, and the verdict's sign that of the claim."""
    plain = found if found.sign > 0 else found.turned()
    claimed = plain if setting.better == "higher" else plain.turned()
    size = None if not scale.published else setting.gain if setting.better == "higher" else -setting.gain
    side, other = (mean_interval([*sample.values()]) for sample in (values, others))
    row: dict = {"mean": side.mean, "sd": side.sd, "n": side.n, "over_mean": other.mean, "over_sd": other.sd, "over_n": other.n}
    row |= plain.columns("difference", bare=True) | {"values": (claimed, size), "comparison": found}
    row |= {"verdict": _verdict(claimed.primary, size), "welch_verdict": _verdict(claimed.welch, size)}
    row["seen"] = min(side.n, other.n)
    return row if scale.published else row | {"published": None, "published_ids": ""}


def _scale(
    claim: Claim, setting: Setting, where: Where, source: Benchmark, ours: list[dict], theirs: list[dict], same: bool
) -> Scale:
    """Return how two groups of cells stand to a setting.

    Cells that are not of a published setting are held to what the paper's numbers of their data set were measured under, or
    those of the claim's first one, where the paper has none of theirs.
    """
    shared = claim.conditions.get(where[0]) or claim.conditions.get(claim.settings[0].dataset) or {}
    both = setting.conditions if same else [Conditions({**shared, **side.overrides}, shared, shared) for side in setting.sides]
    evidence = bool(KINDS[setting.measure.kind].metric)
    found = chain(
        _departures(ours, both[0].own, "", evidence),
        _departures(theirs, both[1].own, "", evidence),
        *(
            _departures(source.teachers(where, cells), conditions.teacher, "teacher", evidence)
            for cells, conditions in zip((ours, theirs), both, strict=True)
        ),
        _epochs((*ours, *theirs), setting),
    )
    return Scale(together(found), same, setting.dataset is not None, setting.gain)


def _departures(cells: list[dict], wanted: Mapping[str, tuple], whose: str, evidence: bool) -> Iterable[Departure]:
    # What a published row counts is what the claim measures; see schema._check_row.
    conditions = {key: allowed for key, allowed in wanted.items() if key != "counts"}
    for cell in cells:
        found = departures(cell, conditions, whose)
        yield from with_evidence(found, cell) if evidence else found


def _epochs(cells: Iterable[dict], setting: Setting) -> Iterable[Departure]:
    """Yield the epochs that stand for the published one in trainings of another length."""
    measure = setting.measure
    if measure.epoch is not None:
        lengths = {int(cell["epochs"]) for cell in cells} - {measure.epochs}
        yield from (Departure("epoch", measure.epoch_of(length), measure.epoch) for length in sorted(lengths))
