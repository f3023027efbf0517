"""What the papers claim, as data in `papers/*.yaml`, held against our cells: one row a claim, setting and benchmark.

A claim compares a method over another one by a metric, in the settings (data set, student, teacher) that were published.
`evaluate` looks for cells of both methods in every benchmark it is given. A row is

* **as published** if data set, student, teacher, methods, epochs, learning rate and its schedule, batch size and the full
  training set are those of the paper (its `recipe`), for the teacher too. It is judged by `dgd.statistics.verdict` against the
  published difference;
* at **another scale** otherwise, whatever student it is. Then no published size applies: it can be 'direction only', 'not
  reproduced' (the difference goes the other way) or 'inconclusive', never 'reproduced'. Its `scale` says what differs.

A setting without cells is a row that reads 'not run'. `overall` puts a claim's settings together and says how often that errs.

All numbers are those of network 0, which is the one the papers report ("always the first network's performance"), whatever
`report` a config sets for its tables. Differences are method less the other; where less is claimed (`better: lower`) only the
judgement turns the sign. Nothing here needs torch.
"""

import csv
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from dgd import tables
from dgd.statistics import VERDICTS, difference, holm, mean_interval, verdict
from dgd.tables import PUBLISHED

NOT_RUN = "not run"


class Metric(NamedTuple):
    """How a metric is read.

    Attributes:
        label: What it is, for a reader.
        form: Format of its numbers.
        column: Column of cells.csv that holds it, `{threshold}` filled in; None: it comes from a cell's own files.
        needs: Keys that a claim by this metric must give.
        layers: It can be taken over named layers only.
    """

    label: str
    form: str = ".3f"
    column: str | None = None
    needs: tuple[str, ...] = ()
    layers: bool = False


METRICS = {
    "top1": Metric("top-1 at the last epoch, %", ".2f", "top1_last"),
    "top1_at_epoch": Metric("top-1, %", ".2f", None, ("epoch",)),
    "invalid_ratio": Metric("share of invalid filters", ".3f", "invalid_ratio_{threshold}", ("threshold",), True),
    "invalid_count": Metric("number of invalid filters", ".1f", None, ("threshold",), True),
    "mean_l1_valid": Metric("mean L1 of valid filters, by rank", ".3f", "mean_l1_valid_rank_{threshold}", ("threshold",)),
    "mean_l1_invalid": Metric("mean L1 of invalid filters, by rank", ".3f", "mean_l1_invalid_rank_{threshold}", ("threshold",)),
    "mean_l1": Metric("mean L1 of all filters", ".3f", "mean_l1", (), True),
    "median_l1": Metric("median L1 of all filters", ".3f", None, (), True),
    "max_l1": Metric("largest L1 of all filters", ".3f", None, (), True),
    "entropy_sum": Metric("sum of the layers' entropies", ".2f", "entropy_sum", (), True),
    # Published, and nothing of ours measures it: a claim by one of these reads 'not run' for ever.
    "top5": Metric("top-5 at the last epoch, %"),
    "map": Metric("mean average precision, %"),
    "rank1": Metric("rank 1, %"),
}
"""What a claim can compare by; the names are those of the published rows."""

UNMEASURED = ("top5", "map", "rank1")
ENSEMBLE = "ensemble"
"""`<method>@ensemble` reads the mean of the group's probabilities at the last epoch; its published rows have this as method."""

CLAIM = {"id": str, "claim": str, "source": str, "compares": dict, "reproduced_if": str, "note": str}
COMPARES = {"metric": str, "method": str, "over": str, "better": str, "threshold": float, "epoch": int, "layers": str}
SETTING = {"dataset": str, "student": str, "teacher": str, "published": list}
ONLY = {"dataset": str, "student": str}
RECIPE = {"epochs": int, "lr": float, "batch_size": list, "schedule": str, "diverse": str, "step_epochs": int}
RECIPE |= {"milestones": list, "gamma": float, "weight_decay": float, "momentum": float, "nesterov": bool}
RECIPE |= {"weight_average": str}
BETTER = ("higher", "lower")


class Measure(NamedTuple):
    """One number of a cell: a metric with what it needs. `epochs` is the length of the training that `epoch` counts in."""

    metric: str
    threshold: float | None = None
    epoch: int | None = None
    layers: str | None = None
    epochs: int | None = None

    def __str__(self) -> str:
        text = METRICS[self.metric].label
        text += "" if self.layers is None else f", layers with {self.layers!r}"
        text += "" if self.threshold is None else f", threshold {self.threshold:g}"
        return text + ("" if self.epoch is None else f", epoch {self.epoch} of {self.epochs}")


class Side(NamedTuple):
    """One side of a comparison: `name` is `<method>` or `<method>@ensemble`; the counts are those of the published row."""

    name: str
    networks: int
    teachers: int

    @property
    def method(self) -> str:
        """The row of `methods`."""
        return self.name.partition("@")[0]

    @property
    def ensemble(self) -> bool:
        """Whether the whole group is read."""
        return self.name.endswith(f"@{ENSEMBLE}")


@dataclass(frozen=True)
class Setting:
    """One published comparison of a claim: `side` less `other` by `measure`.

    Attributes:
        dataset: None if the source does not say; then no cell counts as the published one.
        teacher: "" without one.
        gain: The published difference.
        ids: Of the two published rows.
    """

    measure: Measure
    better: str
    side: Side
    other: Side
    dataset: str | None
    student: str
    teacher: str
    gain: float
    ids: tuple[str, ...]

    @property
    def comparison(self) -> tuple:
        """What it compares, wherever."""
        return self.side.name, self.other.name, self.measure, self.better


@dataclass(frozen=True)
class Claim:
    """A claim of a paper; see `read`.

    Attributes:
        recipe: The paper's, by data set.
        only: Of what is at another scale, the claim speaks of data sets and students with this text in their name.
    """

    paper: str
    id: str
    claim: str
    source: str
    reproduced_if: str
    note: str
    settings: tuple[Setting, ...]
    recipe: Mapping[str, Mapping]
    only: Mapping[str, str]


# ---------------------------------------------------------------------------------------------------------- reading


def read(papers: Iterable[str | Path]) -> list[Claim]:
    """Read and check the claims of papers.

    Args:
        papers: Paths of `papers/*.yaml`. A file without the key `claims` has none.

    Raises:
        ValueError: A field is unknown, missing or of the wrong type; a metric, a side's reading, a published id or a table is
            unknown; a published row is not of its setting; or the paper's own numbers go against its claim. The message names
            file, id and key.
    """
    claims: list[Claim] = []
    seen: dict[str, Path] = {}
    for path in map(Path, papers):
        # The C parser, where PyYAML has it: these files are long.
        document = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if not isinstance(document, dict) or not document.get("claims"):
            continue
        try:
            tables.read_papers([document])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        rows = {row["id"]: row for row in document["results"]}
        recipe = document.get("recipe") or {}
        for dataset, values in recipe.items():
            _check(f"{path}: recipe.{dataset}", values, RECIPE, optional=tuple(RECIPE))
        for entry in document["claims"]:
            where = f"{path}: claim {entry.get('id')!r}" if isinstance(entry, dict) else f"{path}: claims: {entry!r}"
            _check(where, entry, CLAIM, optional=("note",))
            if entry["id"] in seen:
                raise ValueError(f"{where}: id: already used in {seen[entry['id']]}; give one of them another")
            seen[entry["id"]] = path
            if entry["source"] not in document["headline"]:
                tables_there = ", ".join(document["headline"])
                raise ValueError(f"{where}: source: {entry['source']!r} is no table of `headline`; there are {tables_there}")
            settings = tuple(_settings(where, entry["compares"], rows, recipe))
            more = {key: entry[key] for key in ("id", "claim", "source", "reproduced_if")}
            more |= {"note": entry.get("note", ""), "only": entry["compares"].get("only", {})}
            claims.append(Claim(document["paper"], settings=settings, recipe=recipe, **more))
    return claims


def _check(where: str, entry, fields: Mapping[str, type], optional: Sequence[str]) -> None:
    """Check the fields of a mapping and their types."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: must be a mapping with {', '.join(fields)}, got {entry!r}")
    for key in entry:
        if key not in fields:
            raise ValueError(f"{where}: {key}: unknown key; known: {', '.join(fields)}")
    for key, kind in fields.items():
        if key not in entry:
            if key not in optional:
                raise ValueError(f"{where}: {key}: missing")
            continue
        wanted = (int, float) if kind is float else kind
        if not isinstance(entry[key], wanted) or (isinstance(entry[key], bool) and kind is not bool):
            raise ValueError(f"{where}: {key}: must be {kind.__name__}, got {entry[key]!r}")


def _settings(where: str, compares: dict, rows: Mapping[str, dict], recipe: Mapping) -> Iterable[Setting]:
    """The settings of a claim, each with the keys beside `where` that it does not override."""
    _check(f"{where}: compares", compares, COMPARES | {"only": dict, "where": list}, optional=("only", *COMPARES))
    _check(f"{where}: compares.only", compares.get("only", {}), ONLY, optional=tuple(ONLY))
    if not compares["where"]:
        raise ValueError(f"{where}: compares.where: empty; a claim has at least one setting")
    common = {key: value for key, value in compares.items() if key not in ("where", "only")}
    for place, entry in enumerate(compares["where"], 1):
        name = f"{where}: compares.where[{place}]"
        unknown = isinstance(entry, dict) and "dataset" in entry and entry["dataset"] is None
        own = {key: value for key, value in entry.items() if key != "dataset"} if unknown else entry
        _check(name, own, SETTING | COMPARES, optional=("teacher", *COMPARES, *(["dataset"] if unknown else [])))
        merged = common | entry
        yield _setting(name, merged, rows, recipe)


def _setting(name: str, entry: dict, rows: Mapping[str, dict], recipe: Mapping) -> Setting:
    """One checked setting."""
    for key in ("metric", "method", "over", "better"):
        if key not in entry:
            raise ValueError(f"{name}: {key}: missing, here and beside `where`")
    if entry["metric"] not in METRICS:
        raise ValueError(f"{name}: metric: unknown metric {entry['metric']!r}; known: {', '.join(METRICS)}")
    metric = METRICS[entry["metric"]]
    if entry["better"] not in BETTER:
        raise ValueError(f"{name}: better: must be one of {', '.join(BETTER)}, got {entry['better']!r}")
    takes = (*metric.needs, *(["layers"] if metric.layers else []))
    for key in ("threshold", "epoch", "layers"):
        if key in metric.needs and key not in entry:
            raise ValueError(f"{name}: {key}: missing; {entry['metric']} needs it")
        if key in entry and key not in takes:
            raise ValueError(f"{name}: {key}: {entry['metric']} has none")
    if entry["metric"].startswith("mean_l1_") and f"{entry['threshold']:g}" not in tables.THRESHOLDS:
        known = ", ".join(tables.THRESHOLDS)
        raise ValueError(f"{name}: threshold: {entry['metric']} is known at {known}, got {entry['threshold']}")
    epochs = recipe.get(entry["dataset"], {}).get("epochs")
    if "epoch" in entry and not 0 <= entry["epoch"] < (epochs or 0):
        raise ValueError(f"{name}: epoch: must be in 0 ... recipe.{entry['dataset']}.epochs - 1, got {entry['epoch']}")
    of = epochs if "epoch" in entry else None
    measure = Measure(*(entry.get(key) for key in ("metric", "threshold", "epoch", "layers")), of)
    ids = entry["published"]
    if len(ids) != 2:
        raise ValueError(f"{name}: published: must be two ids, of `method` and of `over`, got {ids!r}")
    sides = []
    for key, row in zip(("method", "over"), ids):
        method, _, how = entry[key].partition("@")
        if not method or how not in ("", ENSEMBLE) or (how and entry["metric"] != "top1"):
            raise ValueError(f"{name}: {key}: {entry[key]!r} is no reading; write <method>, or for top1 <method>@{ENSEMBLE}")
        if row not in rows:
            raise ValueError(f"{name}: published: no row of `results` has the id {row!r}")
        sides.append(Side(entry[key], rows[row]["networks"], rows[row]["teachers"]))
    gain = rows[ids[0]]["value"] - rows[ids[1]]["value"]
    where = (entry["dataset"], entry["student"], entry.get("teacher", ""))
    setting = Setting(measure, entry["better"], *sides, *where, gain, tuple(ids))
    for row, side in zip(ids, sides):
        _check_row(f"{name}: published: {row}", rows[row], setting, side)
    if gain == 0 or (gain > 0) != (entry["better"] == "higher"):
        raise ValueError(f"{name}: published: {' less '.join(ids)} is {gain:+g}, and the claim says {entry['better']}")
    return setting


def _check_row(name: str, row: dict, setting: Setting, side: Side) -> None:
    """Check that a published row is of this setting and side."""
    measure = setting.measure
    wanted = {
        "dataset": setting.dataset,
        "model": setting.student,
        "method": ENSEMBLE if side.ensemble else side.method,
        "metric": measure.metric,
        "threshold": measure.threshold,
    }
    wanted |= {"teacher": setting.teacher} if row["teachers"] else {}
    wanted |= {"epoch": measure.epoch} if measure.epoch is not None else {}
    for key, value in wanted.items():
        if row.get(key) != value:
            raise ValueError(f"{name} has {key} {row.get(key)!r}, and the claim {value!r}")


# ------------------------------------------------------------------------------------------------------- evaluating

COLUMNS = (
    *("paper", "claim", "sentence", "source", "reproduced_if", "note", "overall"),
    *("metric", "better", "method", "over", "dataset", "student", "teacher", "benchmark", "scale"),
    *("mean", "sd", "n", "over_mean", "over_sd", "over_n", "difference", "low", "high", "p", "p_holm"),
    *("published", "published_ids", "verdict", "counts", "remark", "seeds", "over_seeds", "folders", "over_folders", "form"),
)
"""The columns of claims.csv; `overall` is the same in all rows of a claim, `counts` says which rows it rests on."""

TEXT = (
    *("paper", "claim", "sentence", "source", "reproduced_if", "note", "overall"),
    *("metric", "better", "method", "over", "dataset", "student", "teacher", "benchmark", "scale"),
    *("published_ids", "verdict", "counts", "remark", "seeds", "over_seeds", "folders", "over_folders", "form"),
)


def evaluate(claims: Sequence[Claim], benchmarks: Iterable[tuple[pd.DataFrame, str | Path | None]]) -> pd.DataFrame:
    """Hold claims against the cells of benchmarks.

    Args:
        claims: From `read`.
        benchmarks: (cells, folder) of each: cells from `dgd.tables.collect` or its CSV, and `results/<benchmark>`, where the
            cells' history.csv and filters.npz are read if a claim needs them. Without a folder such claims have no values.

    Returns:
        Frame with `COLUMNS`, in the claims' order. Each published setting has a row, 'not run' if nothing measured it; each
        pair of methods that a benchmark has at another scale has one more. `difference` has Welch's 95 % interval, `p_holm`
        is corrected over the rows; verdicts are not, `overall` is (see there).
    """
    wanted = {setting.measure for claim in claims for setting in claim.settings}
    methods = {side.method for claim in claims for setting in claim.settings for side in (setting.side, setting.other)}
    sources = [_Benchmark(cells, folder, methods, wanted) for cells, folder in benchmarks]
    rows = []
    for claim in claims:
        found = [row for source in sources for row in _rows(claim, source)]
        # Of several benchmarks of one published setting the one with the most seeds counts; the others are shown.
        chosen = {}
        for row in found:
            place = row["place"]
            if place is not None and (place not in chosen or row["seen"] > chosen[place]["seen"]):
                chosen[place] = row
        for row in chosen.values():
            row["counts"] = "yes"
        for place, setting in enumerate(claim.settings):
            if place not in chosen:
                found.append(_describe(claim, setting) | {"place": place, "verdict": NOT_RUN, "n": 0, "over_n": 0})
        said = overall([row["values"] for row in chosen.values()], len(claim.settings))
        elsewhere = [row["verdict"] for row in found if row["place"] is None]
        order = {None: len(claim.settings)}
        for row in sorted(found, key=lambda row: order.get(row["place"], row["place"])):
            rows.append(row | {"overall": _overall_text(said, len(chosen), len(claim.settings), elsewhere)})
    table = typed(pd.DataFrame(rows, columns=list(COLUMNS)))
    table["p_holm"] = holm(table["p"])
    return table


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the claims with "" for missing text and NaN for missing numbers, also where they come from claims.csv."""
    columns = {
        name: table[name].astype(object).fillna("").astype(str) if name in TEXT else table[name].astype(float)
        for name in COLUMNS
    }
    return pd.DataFrame(columns)


def overall(settings: Sequence[tuple[Sequence[float], Sequence[float], float | None]], published: int) -> str:
    """Put the published settings of a claim together.

    | no setting was run                                                            | not run        |
    | some setting is not reproduced, by its interval at 1 - 5 % / (settings run)   | not reproduced |
    | every published setting was run, and each is reproduced by its 95 % interval  | reproduced     |
    | the same, and some are reproduced in direction only                           | direction only |
    | anything else, as when some settings were not run                             | inconclusive   |

    'Reproduced' asks for all settings at once, so it is said wrongly no more often than of the hardest one alone, and needs no
    correction. 'Not reproduced' is said for one failure among many, so there the intervals are widened (Bonferroni: it takes an
    interval for each, which Holm's steps do not give).

    Error rates, as measured by tests/test_claims.py as in `dgd.statistics.verdict`: equal sd s, a claimed gain of 2 s in each
    setting, five seeds (reproduced / direction only / not reproduced / inconclusive, in %):

    | settings | true gain           | reproduced | direction only | not reproduced | inconclusive |
    |----------|---------------------|------------|----------------|----------------|--------------|
    | 3        | 0                   | 0          | 0              | 90             | 10           |
    | 3        | 2 s                 | 45         | 1              | 2              | 53           |
    | 3        | 2 s, and 0 in one   | 1          | 0              | 53             | 46           |
    | 8        | 0                   | 0          | 0              | 96             | 4            |
    | 8        | 2 s                 | 12         | 0              | 2              | 86           |
    | 8        | 2 s, and 0 in one   | 0          | 0              | 34             | 66           |

    So five seeds mostly leave a claim of many settings open, also a true one.

    Args:
        settings: (values of the method, values of the other, claimed gain) of each setting that was run as published, one value
            a seed. The sign is such that the claim is a gain above 0; None: no size was published.
        published: How many settings the claim has.

    Returns:
        One of `dgd.statistics.VERDICTS`, or 'not run'.
    """
    if not settings:
        return NOT_RUN
    plain = [_verdict(a, b, claimed) for a, b, claimed in settings]
    wide = [_verdict(a, b, claimed, 1 - 0.05 / len(settings)) for a, b, claimed in settings]
    if "not reproduced" in wide:
        return "not reproduced"
    if len(settings) < published or not set(plain) <= {"reproduced", "direction only"}:
        return "inconclusive"
    return "direction only" if "direction only" in plain else "reproduced"


def _verdict(a: Sequence[float], b: Sequence[float], claimed: float | None, confidence: float = 0.95) -> str:
    gain = difference(a, b, confidence)
    return verdict((gain.low, gain.high), claimed)


def _overall_text(said: str, run: int, published: int, elsewhere: Sequence[str]) -> str:
    """The overall verdict with what it rests on: "inconclusive (1 of 3 settings run); at other scales: 1 direction only"."""
    text = said if not run else f"{said} ({run} of {published} settings run)"
    if not elsewhere:
        return text
    counts = ", ".join(f"{elsewhere.count(word)} {word}" for word in VERDICTS if word in elsewhere)
    return f"{'not run as published' if not run else text}; at other scales: {counts}"


def _describe(claim: Claim, setting: Setting) -> dict:
    """What a row says without cells."""
    return {
        "paper": claim.paper,
        "claim": claim.id,
        "sentence": claim.claim,
        "source": claim.source,
        "reproduced_if": claim.reproduced_if,
        "note": claim.note,
        "metric": str(setting.measure),
        "better": setting.better,
        "method": setting.side.name,
        "over": setting.other.name,
        "dataset": setting.dataset or "not given",
        "student": setting.student,
        "teacher": setting.teacher,
        "published": setting.gain,
        "published_ids": " ".join(setting.ids),
        "form": METRICS[setting.measure.metric].form,
    }


def _rows(claim: Claim, source: "_Benchmark") -> Iterable[dict]:
    """The rows of a claim in one benchmark: its published settings, and every other pair of cells that it speaks of."""
    comparisons = dict.fromkeys(setting.comparison for setting in claim.settings)
    for comparison in comparisons:
        same = [(place, s) for place, s in enumerate(claim.settings) if s.comparison == comparison]
        example = same[0][1]
        if example.measure.metric in UNMEASURED:
            continue
        for where, ours, theirs in source.pairs(example.side.method, example.other.method):
            match = [(place, s) for place, s in same if (s.dataset, s.student, s.teacher) == where]
            place, setting = match[0] if match else (None, example)
            names = {"dataset": where[0], "student": where[1]}
            if not match and not all(text in names[key] for key, text in claim.only.items()):
                continue
            values, missing = source.values(ours, setting.measure, setting.side)
            others, others_missing = source.values(theirs, setting.measure, setting.other)
            if values is None or others is None:  # the network has no such layer
                continue
            scale = _scale(claim, setting, where, source, ours, theirs, bool(match))
            sign = 1 if setting.better == "higher" else -1
            gain = difference(values, others)
            side, other = mean_interval(values), mean_interval(others)
            row = _describe(claim, setting) | dict(zip(("dataset", "student", "teacher"), where))
            row |= {"benchmark": source.name, "scale": scale, "mean": side.mean, "sd": side.sd, "n": side.n}
            row |= {"over_mean": other.mean, "over_sd": other.sd, "over_n": other.n}
            row |= {"difference": gain.difference, "low": gain.low, "high": gain.high, "p": gain.p}
            signed = [sign * value for value in values], [sign * value for value in others]
            size = sign * setting.gain if scale == PUBLISHED else None
            row |= {"verdict": _verdict(*signed, size), "values": (*signed, size)}
            row |= {"place": place if scale == PUBLISHED else None, "seen": min(side.n, other.n)}
            if scale != PUBLISHED:
                row |= {"published": None, "published_ids": ""}
            row["remark"] = "; ".join(dict.fromkeys(text for text in (missing, others_missing) if text))
            for prefix, cells in (("", ours), ("over_", theirs)):
                row[f"{prefix}seeds"] = " ".join(str(cell["seed"]) for cell in cells)
                row[f"{prefix}folders"] = " ".join(cell["folder"] for cell in cells)
            yield row


def _scale(claim: Claim, setting: Setting, where: tuple, source: "_Benchmark", ours: list, theirs: list, same: bool) -> str:
    """'as published', or what differs from it."""
    recipe = claim.recipe.get(where[0]) or claim.recipe.get(claim.settings[0].dataset) or {}
    parts = [part for cell in (*ours, *theirs) for part in tables.departures(source.recipe(cell), recipe)]
    taught = [part for cell in source.teachers(where) for part in tables.departures(source.recipe(cell), recipe)]
    parts += [f"teacher: {part}" for part in taught if part not in parts]
    smaller = any(" of " in part or part.endswith(("images", "validation")) for part in parts)
    for cells, side in ((ours, setting.side), (theirs, setting.other)):
        for cell in cells:
            for what in ("networks", "teachers"):
                count = getattr(side, what)
                if cell[what] != count:
                    parts.append(f"{side.method} with {int(cell[what])} {what}, not {count}")
    epoch, epochs = setting.measure.epoch, setting.measure.epochs
    if epoch is not None:
        lengths = {int(cell["epochs"]) for cell in (*ours, *theirs)} - {epochs}
        parts += [f"epoch {_scaled(epoch, epochs, length)} stands for {epoch}" for length in sorted(lengths)]
    if same and not parts:
        return PUBLISHED
    kind = "reduced" if smaller else "other recipe" if same else "other setting"
    text = ", ".join(dict.fromkeys(parts))
    if not same:
        pair = "the paper names no data set" if setting.dataset is None else "not a published setting"
        text += "; " * bool(text) + pair
    return f"{kind}: {text}"


def _scaled(epoch: int, of: int, epochs: int) -> int:
    """The epoch after which the same share of `epochs` is over as of `of` after `epoch`; both are counted from 0."""
    return max(0, round((epoch + 1) * epochs / of) - 1)


def _pair(student: str, teacher: str) -> str:
    return f"{student} ← {teacher}" if teacher else student


class _Benchmark:
    """The finished cells of one benchmark, and what claims need from their files, each read once."""

    def __init__(self, cells: pd.DataFrame, folder: str | Path | None, methods: set[str], wanted: set[Measure]):
        self.name = str(cells["benchmark"].iloc[0]) if len(cells) else ""
        self.folder = Path(folder) if folder is not None else None
        self.norms = [
            measure for measure in wanted if measure.metric in (*OF_NORMS, "entropy_sum") and _source(measure) == "filters.npz"
        ]
        first = cells[(cells["status"] == "finished") & (cells["network"] == 0)]
        first = first.assign(teacher=first["teacher"].fillna(""))
        self.groups: dict[tuple, list[dict]] = {}
        for cell in first.to_dict("records"):
            if cell["method"] in methods or cell["method"] == "baseline":
                dataset = cell["dataset"].removeprefix("imagefolder-").lower()
                self.groups.setdefault((cell["method"], dataset, cell["student"], cell["teacher"]), []).append(cell)
        self.by_method: dict[str, list[tuple]] = {}
        for method, *where in self.groups:
            self.by_method.setdefault(method, []).append(tuple(where))
        self._history = cache(self._read_history)
        self._filters = cache(self._read_filters)
        self.recipes: dict[str, dict] = {}

    def pairs(self, method: str, over: str) -> Iterable[tuple[tuple[str, str, str], list[dict], list[dict]]]:
        """((dataset, student, teacher), cells of the method, of the other) wherever both are, with the same teacher if any."""
        for dataset, student, teacher in self.by_method.get(method, ()):
            for *where, other in self.by_method.get(over, ()):
                if where == [dataset, student] and (teacher == other or not teacher or not other):
                    ours, theirs = self.groups[method, dataset, student, teacher], self.groups[over, dataset, student, other]
                    yield (dataset, student, teacher or other), ours, theirs

    def teachers(self, where: tuple[str, str, str]) -> list[dict]:
        """The cells of a pair's teacher that are in this benchmark."""
        return self.groups.get(("baseline", where[0], where[2], ""), []) if where[2] else []

    def values(self, cells: list[dict], measure: Measure, side: Side) -> tuple[list[float] | None, str]:
        """One value a cell that has one, and a remark on those that have none; None if the network has no such layer."""
        found = [self._value(cell, measure, side) for cell in cells]
        if any(value is None for value in found):
            return None, ""
        values = [value for value in found if math.isfinite(value)]
        if len(values) == len(found):
            return values, ""
        why = {"mean_l1_invalid": "the baseline has no such filter", "top1_at_epoch": "no accuracy of that epoch"}
        why = "no ensemble recorded" if side.ensemble else why.get(measure.metric, "not recorded")
        return values, f"{len(found) - len(values)} of {len(found)} cells of {side.method} without a value: {why}"

    def _value(self, cell: dict, measure: Measure, side: Side) -> float | None:
        source = _source(measure)
        if side.ensemble:
            return _number(cell.get("ensemble_top1"))
        if source == "history.csv":
            return self._history(cell["folder"]).get(_scaled(measure.epoch, measure.epochs, int(cell["epochs"])), math.nan)
        if source == "filters.npz":
            return self._filters(cell["folder"]).get(measure, math.nan)
        return _number(cell.get(METRICS[measure.metric].column.format(threshold=_threshold(measure))))

    def _read_history(self, folder: str) -> dict[int, float]:
        """{epoch: test accuracy of network 0} of the evaluated epochs."""
        path = self.folder / folder / "history.csv" if self.folder else None
        if path is None or not path.is_file():
            return {}
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            head = next(lines, [])
            try:
                epoch, top1 = head.index("epoch"), head.index("test_top1_0")
                return {int(line[epoch]): float(line[top1]) for line in lines if line[top1]}
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}: {error}; delete the cell's folder and train it again") from error

    def _read_filters(self, folder: str) -> dict[Measure, float | None]:
        """Every number that claims want from a filters.npz; None where no layer has the name."""
        path = self.folder / folder / "filters.npz" if self.folder else None
        if path is None or not path.is_file():
            return {}
        layers, entropy = _read_layers(path)
        found: dict[Measure, float | None] = {}
        for measure in self.norms:
            names = [name for name in layers if measure.layers is None or measure.layers in name]
            if not names:
                found[measure] = None
            elif measure.metric == "entropy_sum":
                of = dict(zip(layers, entropy, strict=True))
                found[measure] = float(sum(of[name] for name in names))
            else:
                norms = np.concatenate([layers[name] for name in names]).astype(float)
                found[measure] = float(OF_NORMS[measure.metric](norms, measure.threshold))
        return found

    def recipe(self, cell: dict) -> dict:
        """A cell with what it was trained with: cells of an older version say it in their config, and not in cells.csv."""
        if cell["folder"] not in self.recipes:
            path = self.folder / cell["folder"] / "config.yaml" if self.folder else None
            if any(_or_none(cell.get(key)) is None for key in tables.WORDS) and path is not None and path.is_file():
                asked = yaml.safe_load(path.read_text(encoding="utf-8"))
                said = {"weight_average": "none"} | asked["recipe"] | {"train_images": asked["data"].get("train_images")}
                cell = cell | {key: said.get(key) for key in tables.RECIPE}
            self.recipes[cell["folder"]] = cell
        return self.recipes[cell["folder"]]


OF_NORMS = {
    "invalid_ratio": lambda norms, threshold: np.mean(norms <= threshold),
    "invalid_count": lambda norms, threshold: np.sum(norms <= threshold),
    "mean_l1": lambda norms, _: np.mean(norms),
    "median_l1": lambda norms, _: np.median(norms),
    "max_l1": lambda norms, _: np.max(norms),
}
"""Metrics of the L1 norms (filters,) of some layers."""


def _read_layers(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Of network 0 in a filters.npz: {layer: L1 norms (filters,)} and the layers' entropies (layers,)."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.startswith("l1/0/")]
            norms = {name.removeprefix("l1/0/").removesuffix(".npy"): tables._vector(archive.read(name)) for name in names}
            return norms, tables._vector(archive.read("entropy/0.npy"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path}: {error}; delete the cell's folder and train it again") from error


def _source(measure: Measure) -> str:
    """The file that a measure is read from."""
    column = METRICS[measure.metric].column
    if measure.metric == "top1_at_epoch":
        return "history.csv"
    if column is None or measure.layers is not None:
        return "filters.npz"
    return "cells.csv" if measure.threshold is None or _threshold(measure) in tables.THRESHOLDS else "filters.npz"


def _threshold(measure: Measure) -> str:
    return "" if measure.threshold is None else f"{measure.threshold:g}"


def _number(value) -> float:
    return math.nan if value is None else float(value)


def _or_none(value):
    return None if value is None or pd.isna(value) else value


# ---------------------------------------------------------------------------------------------------------- writing


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a claim, in order: what is the same in all rows of it."""
    return (
        table[["paper", "claim", "sentence", "source", "reproduced_if", "note", "overall"]]
        .drop_duplicates("claim")
        .reset_index(drop=True)
    )


def write(table: pd.DataFrame, stem: str | Path) -> list[Path]:
    """Write the claims as CSV (all of `COLUMNS`), Markdown and LaTeX; see `dgd.tables.write`."""
    return tables.write(table, stem, to_text(table), notes(table))


def markdown(table: pd.DataFrame) -> str:
    """Return the claims as Markdown."""
    return tables.markdown(table, to_text(table), notes(table))


def to_text(table: pd.DataFrame) -> pd.DataFrame:
    """The readable form: the rows of `shown`, and one for each claim that has none of them."""
    rows = []
    measured = dict(list(_by_claim(shown(table))))
    for name, group in _by_claim(table):
        # Where there is none, the first row is a published setting that was not run.
        for place, row in enumerate(measured.get(name, group.iloc[:1]).itertuples()):
            first = {
                "claim": f"{row.claim}: {row.sentence}",
                "source": f"{row.paper}, {row.source}",
                "all settings": row.overall,
            }
            rows.append((first if place == 0 else dict.fromkeys(first, "")) | row_text(row._asdict()))
    return pd.DataFrame(rows, columns=list(HEADERS))


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The measured rows that a reader gets to see: all, or of more than `LISTED` those that the claims' verdicts rest on."""
    measured = table[table["verdict"] != NOT_RUN]
    return measured if len(measured) <= LISTED else measured[measured["counts"] == "yes"]


LISTED = 1000
"""Rows that a table for readers still holds; the CSV has all of them."""

HEADERS = (
    "claim",
    "source",
    "all settings",
    "compared",
    "where",
    "scale",
    "ours",
    "difference",
    "published",
    "verdict",
    "seeds",
)


def row_text(row: Mapping) -> dict[str, str]:
    """One measured row as a reader sees it; a row that is not run is empty but for its verdict."""
    if row["verdict"] == NOT_RUN:
        return dict.fromkeys(HEADERS[3:], "") | {"verdict": NOT_RUN}
    form = row["form"]

    def side(prefix: str) -> str:
        mean, sd = float(row[f"{prefix}mean"]), float(row[f"{prefix}sd"])
        return "–" if math.isnan(mean) else f"{mean:{form}}" + ("" if math.isnan(sd) else f" ± {sd:{form}}")

    gain = "" if math.isnan(row["difference"]) else f"{row['difference']:+{form}}"
    gain += "" if math.isnan(row["low"]) else f" [{row['low']:+{form}}, {row['high']:+{form}}]"
    return {
        "compared": f"{row['method']} over {row['over']}: {row['metric']}, {row['better']}",
        "where": f"{row['dataset']}, {_pair(row['student'], row['teacher'])} ({row['benchmark']})",
        "scale": row["scale"],
        "ours": f"{side('')} over {side('over_')}",
        "difference": gain,
        "published": "" if math.isnan(row["published"]) else f"{row['published']:+{form}}",
        "verdict": row["verdict"] + (f" ({row['remark']})" if row["remark"] else ""),
        "seeds": f"{int(row['n'])}, {int(row['over_n'])}",
    }


def notes(table: pd.DataFrame) -> list[str]:
    """What a reader needs under the table."""
    hidden = (table["verdict"] != NOT_RUN).sum() - len(shown(table))
    return [f"{hidden:,} rows that no claim's verdict rests on are only in claims.csv."] * bool(hidden) + [
        "Network 0, the one that the papers report. Ours: mean ± standard deviation over seeds, of the method and of what it "
        "is held against. Difference: with Welch's 95 % interval. Seeds: of each side.",
        "Verdict, as published: as in the results table, with g the published difference (where less is claimed, after "
        "changing all signs). At another scale no size is claimed: direction only if the interval lies on the claimed side of "
        "0, not reproduced if on the other, inconclusive otherwise. Verdicts of single rows are not corrected for their "
        "number.",
        "All settings: reproduced if all published settings were run and each is reproduced; direction only if some are so in "
        "direction only; not reproduced if one is not, by its interval at 1 - 5 % / (settings run); inconclusive otherwise.",
    ]


def listing(table: pd.DataFrame) -> str:
    """The claims as `dgd-bench claims` prints them: each with its verdict, what would reproduce it, and its measured rows."""
    lines = []
    for _, group in _by_claim(table):
        row = group.iloc[0]
        lines += [f"{row['claim']} ({row['paper']}, {row['source']}): {row['overall']}", f"    {row['sentence']}"]
        lines.append(f"    reproduced if {row['reproduced_if']}")
        lines += [f"    note: {row['note']}"] if row["note"] else []
        for row in group[group["verdict"] != NOT_RUN].to_dict("records"):
            text = row_text(row)
            published = f" (published {text['published']})" if text["published"] else ""
            lines.append(f"  - {text['compared']}; {text['where']}; {text['scale']}")
            lines.append(f"      {text['ours']}: {text['difference']}{published}, seeds {text['seeds']}: {text['verdict']}")
        lines.append("")
    done = table[table["verdict"] != NOT_RUN]["claim"].nunique()
    return "\n".join([*lines, f"{table['claim'].nunique()} claims, {done} with cells"])


def _by_claim(table: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    return table.groupby("claim", sort=False)
