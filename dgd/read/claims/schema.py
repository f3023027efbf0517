"""Read the claims of papers and check them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dgd import keys, metrics
from dgd.cell import Method
from dgd.read import papers as published
from dgd.read.matching import Composition, composition
from dgd.read.readings import Reading
from dgd.read.thresholds import THRESHOLDS, spelled


@dataclass(frozen=True)
class Kind:
    """How a number that claims compare by is read.

    Attributes:
        label: What it is, for a reader.
        form: Format of its numbers.
        column: Column of cells.csv that holds it, or the beginning of one with a threshold; "": it comes from a cell's own
            files.
        needs: Keys that a claim by it must give.
        layers: It can be taken over some layers only.
        by_baseline: The baseline of the same student and seed fixes how many filters it is taken over.
        metric: Metric of the cells that have it; "" where every cell has it.
        measured: Something of ours measures it. A claim by one that nothing measures reads 'not run' for ever.
    """

    label: str
    form: str = ".3f"
    column: str = ""
    needs: tuple[str, ...] = ()
    layers: bool = False
    by_baseline: bool = False
    metric: str = ""
    measured: bool = True


def _of_metric(metric: metrics.Metric) -> dict[str, Kind]:
    """Return the two numbers that every metric of a task gives."""
    unit = f", {metric.unit}" if metric.unit else ""
    return {
        metric.name: Kind(f"{metric.label} at the last epoch{unit}", metric.form, "last", metric=metric.name),
        f"{metric.name}_at_epoch": Kind(f"{metric.label}{unit}", metric.form, needs=("epoch",), metric=metric.name),
    }


KINDS: dict[str, Kind] = {
    **{name: kind for metric in metrics.METRICS.values() for name, kind in _of_metric(metric).items()},
    "invalid_ratio": Kind("share of invalid filters", ".3f", "invalid_ratio", ("threshold",), True),
    "invalid_count": Kind("number of invalid filters", ".1f", "", ("threshold",), True),
    **{
        f"mean_l1_{which}": Kind(
            f"mean L1 of {which} filters, by rank", ".3f", f"mean_l1_{which}_rank", ("threshold",), by_baseline=True
        )
        for which in ("valid", "invalid")
    },
    "mean_l1": Kind("mean L1 of all filters", ".3f", "mean_l1", (), True),
    "median_l1": Kind("median L1 of all filters", ".3f", "", (), True),
    "max_l1": Kind("largest L1 of all filters", ".3f", "", (), True),
    "entropy_sum": Kind("sum of the layers' entropies", ".2f", "entropy_sum", (), True),
    "top5": Kind("top-5 at the last epoch, %", measured=False),
    "map": Kind("mean average precision, %", measured=False),
    "rank1": Kind("rank 1, %", measured=False),
}
"""What a claim can compare by; the names are those of the published rows."""

LAST, ENSEMBLE = "last", "ensemble"
"""The readings of a method that claims know: `<method>`, and `<method>@ensemble`, whose published rows have this as method."""

CLAIM = {"id": str, "claim": str, "source": str, "compares": dict, "reproduced_if": str, "note": str}
COMPARES = {"metric": str, "method": str, "over": str, "better": str, "threshold": float, "epoch": int, "layers": str}
SETTING = {"dataset": str, "student": str, "teacher": str, "published": list}
ONLY = {"dataset": str, "student": str}
BETTER = ("higher", "lower")


@dataclass(frozen=True)
class Measure:
    """One number of a cell: a kind with what it needs.

    Attributes:
        kind: A name of `KINDS`.
        threshold: L1 norm up to which a filter is invalid.
        epoch: Counted from 0, in a training of `epochs`.
        layers: Only layers with this text in their name; as the published row `counts`.
        epochs: The length of the published training.
    """

    kind: str
    threshold: float | None = None
    epoch: int | None = None
    layers: str | None = None
    epochs: int | None = None

    def __str__(self) -> str:
        text = KINDS[self.kind].label
        text += "" if self.layers is None else f", layers with {self.layers!r}"
        text += "" if self.threshold is None else f", threshold {spelled(self.threshold)}"
        return text + ("" if self.epoch is None else f", epoch {self.epoch} of {self.epochs}")

    def epoch_of(self, epochs: int) -> int:
        """Return the epoch after which as large a share of a training of `epochs` is over, counted from 0."""
        return max(0, round((self.epoch + 1) * epochs / self.epochs) - 1)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: what is read of which cells.

    Attributes:
        reading: Its text names a method of the paper.
        composition: What the method minimises and exchanges; see `dgd.read.matching`.
        networks: Networks that learn together.
        teachers: Their number.
        overrides: Keys of the recipe that the method overrides -> the values that they may have.
    """

    reading: Reading
    composition: Composition
    networks: int
    teachers: int
    overrides: Mapping[str, tuple] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Setting:
    """One published comparison of a claim: `side` less `other` by `measure`.

    Attributes:
        dataset: None if the source does not say; then no cell counts as the published one.
        teacher: "" without one.
        gain: The published difference.
        ids: Of the two published rows.
        conditions: What the two rows were measured under.
        here: The names that student and teacher have here, where they are others than ours of the published names.
        reported: Of which epoch the two rows are; see `dgd.read.papers.REPORTED`.
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
    conditions: tuple[published.Conditions, published.Conditions]
    here: tuple[str, str]
    reported: tuple[str | None, str | None]

    @property
    def sides(self) -> tuple[Side, Side]:
        """Return the two sides."""
        return self.side, self.other

    @property
    def comparison(self) -> tuple:
        """Return what it compares, without the data set and the models."""
        return self.side, self.other, self.measure, self.better

    def covers(self, dataset: str, student: str, teacher: str) -> bool:
        """Return whether cells of a data set, student and teacher ("" without one) are of this setting."""
        pairs = (self.student, self.teacher), self.here
        return dataset == self.dataset and (student, teacher) in pairs


@dataclass(frozen=True)
class Claim:
    """A claim of a paper; see `read`.

    Attributes:
        methods: Every method of the paper, by label: a cell is that of the one that says most of what it has.
        conditions: By data set, what the paper's numbers were measured under: key -> the values that it may have.
        only: Of what is at another scale, the claim speaks of data sets and students with this text in their name.
    """

    paper: str
    id: str
    claim: str
    source: str
    reproduced_if: str
    note: str
    settings: tuple[Setting, ...]
    methods: Mapping[str, Side]
    conditions: Mapping[str, Mapping[str, tuple]]
    only: Mapping[str, str]


def read(papers: Iterable[str | Path]) -> list[Claim]:
    """Read and check the claims of papers.

    Args:
        papers: Paths of `papers/*.yaml`. A file without the key `claims` has none.

    Raises:
        ValueError: A field is unknown, missing or of the wrong type; a kind, a method, a reading, a published id or a table is
            unknown; a published row is not of its setting; or the paper's own numbers go against its claim. The message names
            file, id and key.
    """
    claims: list[Claim] = []
    seen: dict[str, Path] = {}
    for path in map(Path, papers):
        document = published.load(path)
        if not document.get("claims"):
            continue
        published.check_form(document, path)
        try:
            rows = {row["id"]: row for row in published.read_papers([document]).to_dict("records")}
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        methods = {name: _side(name, row) for name, row in published.paper_methods(document, path).items()}
        given = {row["id"]: row for row in document["results"] or ()}
        shared = published.shared_conditions(document, path)
        for entry in document["claims"]:
            where = f"{path}: claim {keys.short(entry.get('id'))}"
            _check(where, entry, CLAIM, optional=("note",))
            if entry["id"] in seen:
                raise ValueError(f"{where}: id: already used in {seen[entry['id']]}; give one of them another")
            seen[entry["id"]] = path
            if entry["source"] not in document["headline"]:
                tables_there = ", ".join(document["headline"])
                raise ValueError(
                    f"{where}: source: {keys.short(entry['source'])} is no table of `headline`; there are {tables_there}"
                )
            settings = tuple(_settings(where, entry["compares"], _Paper(rows, given, methods)))
            more = {key: entry[key] for key in ("id", "claim", "source", "reproduced_if")}
            more |= {"note": entry.get("note", ""), "only": entry["compares"].get("only", {})}
            claims.append(Claim(document["paper"], settings=settings, methods=methods, conditions=shared, **more))
    return claims


@dataclass(frozen=True)
class _Paper:
    """The published rows of a paper by id, typed and as given, and its methods by label."""

    rows: Mapping[str, dict]
    given: Mapping[str, dict]
    methods: Mapping[str, Side]


def _side(label: str, method: Method) -> Side:
    composed = composition(method.objective, method.exchange)
    overrides = published.checked_conditions(method.recipe, f"methods.{label}.recipe")
    return Side(Reading(label), composed, method.networks, method.teachers, overrides)


def _check(where: str, entry, fields: Mapping[str, type], optional: Sequence[str]) -> None:
    """Check the fields of a mapping and their types."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: must be a mapping with {', '.join(fields)}, got {keys.short(entry)}")
    for key in entry:
        if key not in fields:
            raise ValueError(f"{where}: {key}: unknown key{keys.nearest(key, fields)}")
    for key, kind in fields.items():
        if key not in entry:
            if key not in optional:
                raise ValueError(f"{where}: {key}: missing")
            continue
        wanted = (int, float) if kind is float else kind
        if not isinstance(entry[key], wanted) or isinstance(entry[key], bool):
            raise ValueError(f"{where}: {key}: must be {kind.__name__}, got {keys.short(entry[key])}")


def _settings(where: str, compares: dict, paper: _Paper) -> Iterable[Setting]:
    """Yield the settings of a claim, each with the keys beside `where` that it does not override."""
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
        yield _setting(name, common | entry, paper)


def _setting(name: str, entry: dict, paper: _Paper) -> Setting:
    """Return one setting, checked."""
    for key in ("metric", "method", "over", "better"):
        if key not in entry:
            raise ValueError(f"{name}: {key}: missing, here and beside `where`")
    _check_kind(name, entry)
    ids = entry["published"]
    if len(ids) != 2 or not all(isinstance(one, str) for one in ids):
        raise ValueError(f"{name}: published: must be two ids, of `method` and of `over`, got {keys.short(ids)}")
    sides = [_reading(f"{name}: {key}", entry[key], KINDS[entry["metric"]], paper.methods) for key in ("method", "over")]
    for row in ids:
        if row not in paper.rows:
            raise ValueError(f"{name}: published: no row of `results` has the id {keys.short(row)}")
    rows = [paper.rows[row] for row in ids]
    (epochs,) = rows[0]["conditions"].own.get("epochs", (0,))[:1] if "epoch" in entry else (None,)
    if epochs is not None and not 0 <= entry["epoch"] < epochs:
        raise ValueError(f"{name}: epoch: must be in 0 ... conditions.{entry['dataset']}.epochs - 1, got {entry['epoch']}")
    measure = Measure(*(entry.get(key) for key in ("metric", "threshold", "epoch", "layers")), epochs)
    gain = rows[0]["value"] - rows[1]["value"]
    where = (entry["dataset"], entry["student"], entry.get("teacher", ""))
    taught = next((row["teacher_here"] for row in rows if row["teachers"]), "")
    conditions = tuple(row["conditions"] for row in rows)
    here = rows[0]["model_here"], taught
    reported = tuple(row["reported"] for row in rows)
    setting = Setting(measure, entry["better"], *sides, *where, gain, tuple(ids), conditions, here, reported)
    for row, side in zip(ids, sides):
        _check_row(f"{name}: published: {row}", paper.given[row], setting, side)
    if gain == 0 or (gain > 0) != (entry["better"] == "higher"):
        raise ValueError(f"{name}: published: {' less '.join(ids)} is {gain:+g}, and the claim says {entry['better']}")
    return setting


def _check_kind(name: str, entry: Mapping) -> None:
    """Check what is compared, and that it has what it needs and nothing else."""
    if entry["metric"] not in KINDS:
        raise ValueError(f"{name}: metric: unknown metric {keys.short(entry['metric'])}; known: {', '.join(KINDS)}")
    kind = KINDS[entry["metric"]]
    if entry["better"] not in BETTER:
        raise ValueError(f"{name}: better: must be one of {', '.join(BETTER)}, got {keys.short(entry['better'])}")
    takes = (*kind.needs, *(["layers"] if kind.layers else []))
    for key in ("threshold", "epoch", "layers"):
        if key in kind.needs and key not in entry:
            raise ValueError(f"{name}: {key}: missing; {entry['metric']} needs it")
        if key in entry and key not in takes:
            raise ValueError(f"{name}: {key}: {entry['metric']} has none")
    # Sets that a baseline fixes are in cells.csv only, at these thresholds.
    if kind.by_baseline and entry["threshold"] not in THRESHOLDS:
        known = ", ".join(map(spelled, THRESHOLDS))
        raise ValueError(f"{name}: threshold: {entry['metric']} is known at {known}, got {entry['threshold']}")


def _reading(name: str, text: str, kind: Kind, methods: Mapping[str, Side]) -> Side:
    """Return the side that `<method>` or `<method>@ensemble` names."""
    reading = Reading.parse(text)
    last_epoch = kind.metric and not kind.needs
    if not reading.method or reading.how not in ((LAST, ENSEMBLE) if last_epoch else (LAST,)):
        raise ValueError(
            f"{name}: {keys.short(text)} is no reading; write <method>, or for a last epoch's metric <method>@{ENSEMBLE}"
        )
    if reading.method not in methods:
        raise ValueError(f"{name}: {keys.short(reading.method)} is not in methods{keys.nearest(reading.method, methods)}")
    row = methods[reading.method]
    return Side(reading, row.composition, row.networks, row.teachers, row.overrides)


def _check_row(name: str, row: dict, setting: Setting, side: Side) -> None:
    """Check that a published row is of this setting and side."""
    measure = setting.measure
    wanted = {
        "dataset": setting.dataset,
        "model": setting.student,
        "method": ENSEMBLE if side.reading.how == ENSEMBLE else side.reading.method,
        "networks": side.networks,
        "metric": measure.kind,
        "threshold": measure.threshold,
        "counts": measure.layers,
    }
    wanted |= {"teacher": setting.teacher} if row["teachers"] else {}
    wanted |= {"epoch": measure.epoch} if measure.epoch is not None else {}
    for key, value in wanted.items():
        if row.get(key) != value:
            raise ValueError(f"{name} has {key} {keys.short(row.get(key))}, and the claim {keys.short(value)}")
