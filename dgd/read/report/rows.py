"""Turn tables into what the page's template writes: columns, cells that sort by their numbers, links to the cells of a row."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dgd.benchmark import BASELINE
from dgd.metrics import MAKERS, METRICS
from dgd.read import claims
from dgd.read.comparisons import beside
from dgd.read.readings import Reading
from dgd.read.report.found import Benchmark, Found
from dgd.read.table import NOT_RUN, PAIR, Table

NUMBER = re.compile(r"[<≥]?([+-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?)(?=$|[\s,/%)])")
"""A number that a text begins with; a method such as `2x-baseline` is none."""

EMPTY = ("", "–")
"""Texts of a cell that has no value."""

LABELS = ("data set", PAIR, "method", "status", "deviations", "held against", "networks", "network", "direction", "images")
LABELS += ("threshold", "latency of", "label", "number", "beside real ones", "report", "departs in", "precision")
"""Columns that say what a row is of, and are no results of its cells."""

SENTENCE = 60
"""Letters from which on a text is given room to be read as a sentence."""

TUNED = "tuned baseline: "
"""What a control begins with that was chosen among others."""


@dataclass(frozen=True)
class Group:
    """Some cells that a row's numbers come from.

    Attributes:
        name: What they are, such as their method.
        cells: (seed, path, status) of each.
    """

    name: str
    cells: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        id: Names it on the page.
        texts: What its columns say.
        groups: The cells that its numbers come from.
        values: All numbers and labels of it, as the CSV has them, for those who want them exactly.
        notes: What is folded away under the text of a column: {column: sentences}.
        links: Where the texts of some columns lead: {column: address}; those of others that are results lead to `href`.
    """

    id: str
    texts: tuple[str, ...]
    groups: tuple[Group, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def href(self) -> str:
        """Return where a number of it leads: to its one cell, or to a list of its cells; "" without any."""
        paths = [path for group in self.groups for _, path, _ in group.cells]
        return f"#cell/{paths[0]}" if len(paths) == 1 else f"#{self.id}" if paths else ""


@dataclass(frozen=True)
class Shown:
    """A table as the page shows it.

    Attributes:
        id: Names it on the page.
        caption: Says what it is, for those who hear it too.
        columns: Its headers.
        rows: Its rows.
        footnotes: Sentences on how to read it.
    """

    id: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...] = ()

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Return of each column whether it sorts as numbers: each text in it that is no dash begins with one."""
        columns = list(zip(*(row.texts for row in self.rows))) or [()] * len(self.columns)
        filled = [[text for text in column if text not in EMPTY] for column in columns]
        return tuple(bool(texts) and all(map(NUMBER.match, texts)) for texts in filled)

    @property
    def long(self) -> tuple[bool, ...]:
        """Return of each column whether it holds sentences."""
        columns = list(zip(*(row.texts for row in self.rows))) or [()] * len(self.columns)
        return tuple(any(len(text) > SENTENCE for text in column) for column in columns)

    @property
    def linked(self) -> tuple[bool, ...]:
        """Return of each column whether its texts are results of the row's cells."""
        return tuple(not is_label(column) and not is_published(column) for column in self.columns)


def is_label(column: str) -> bool:
    """Return whether a column says what a row is of."""
    return column in LABELS


def is_published(column: str) -> bool:
    """Return whether a column holds what a paper says."""
    return column.startswith(("paper", "published"))


def sort_key(text: str) -> float | str:
    """Return the number that a text begins with; "" for one that has none."""
    found = NUMBER.match(text)
    return float(found[1].replace(",", "")) if found else ""


def shown(name: str, table: Table, benchmark: Benchmark, caption: str) -> Shown:
    """Return a table of a benchmark as the page shows it; a column without any text is left out.

    Args:
        name: The table's, as in tables/.
        table: Its numbers and texts; the claims have a function of their own.
        benchmark: Where its cells are.
        caption: What it is.
    """
    of = Cells(benchmark)
    text = table.text.loc[:, [bool((table.text[column] != "").any()) for column in table.text]]
    if "method" in text:
        text = text[["method", *text.columns.drop("method")]]
    if "data set" in text and text["data set"].nunique() == 1 and len(text.columns) > 1:
        caption = f"{caption} Data set: {text['data set'].iloc[0]}."
        text = text.drop(columns="data set")
    rows = []
    for number, (texts, values) in enumerate(zip(text.to_dict("split")["data"], table.frame.to_dict("records"), strict=True)):
        groups = tuple(group for group in of.row(values) if group.cells)
        plain = {column: value for column, value in values.items() if pd.notna(value) and value != ""}
        rows.append(Row(f"row/{benchmark.name}/{name}/{number}", tuple(texts), groups, plain))
    return Shown(f"{benchmark.name}/{name}", caption, tuple(text), tuple(rows), table.footnotes)


class Cells:
    """The cells of a benchmark, by what the rows of its tables are of."""

    def __init__(self, benchmark: Benchmark):
        self.benchmark, self.groups, self.images = benchmark, {}, {}
        self.over = {(one.cell.slug, one.cell.student, one.cell.method): one.cell.baseline for one in benchmark.cells.values()}
        for path, found in benchmark.cells.items():
            cell, one = found.cell, (found.cell.seed, path, found.status)
            teacher = cell.teacher if cell.taught else ""
            self.groups.setdefault((cell.slug, cell.student, teacher, cell.method), []).append(one)
            if cell.generated:
                self.images.setdefault(cell.data_slug, []).append(one)
            elif cell.task in MAKERS:
                self.images.setdefault(cell.slug, []).append(one)

    def of(self, dataset: str, student: str, teacher: str, method: str, name: str = "") -> Group:
        """Return the cells of a method: with this teacher, or of the same student without one."""
        found = self.groups.get((dataset, student, teacher, method)) or self.groups.get((dataset, student, "", method), ())
        return Group(name or method, tuple(found))

    def row(self, values: Mapping) -> Iterator[Group]:
        """Yield the cells that a row's numbers come from: its own, and those that they are held against."""
        if "images" in values and "method" not in values:
            yield Group("trained on them", tuple(self.images.get(f"{values['dataset']}+{values['images']}", ())))
            yield Group("made by", tuple(self.images.get(values["dataset"], ())))
            return
        teacher = values["teacher"] if isinstance(values["teacher"], str) else ""
        place = values["dataset"], values["student"], teacher
        methods, over = [values["method"]], self.over.get((*place[:2], values["method"]), BASELINE)
        if isinstance(values.get("grafted"), str):
            methods.append(values["grafted"])
        if "control" in values:
            methods.append(Reading.parse(values["control"].removeprefix(TUNED)).method)
        if any(name in values for name in ("gain", "alone_mean", "baseline_valid")):
            methods.append(over)
        for method in dict.fromkeys(methods):
            yield self.of(*place, method)
        if isinstance(values.get("network"), str) and values["network"] != values["student"]:  # a sub-net, trained alone
            yield self.of(values["dataset"], values["network"], "", over, f"{values['network']} alone")


def claims_shown(benchmark: Benchmark) -> tuple[Shown, Shown, int]:
    """Return the claims that have cells, those that have none, and how many measured rows are left out.

    The first has a row for each measured setting, the second one for each claim.
    """
    table = benchmark.tables["claims"]
    judged = claims.typed(table.frame)
    measured, rows = claims.shown(judged), []
    for number, row in enumerate(measured.to_dict("records")):
        text = claims.row_text(row)
        groups = []
        for name, seeds, folders in ((row["method"], "seeds", "folders"), (row["over"], "over_seeds", "over_folders")):
            paths = [f"{row['benchmark']}/{folder}" for folder in row[folders].split()]
            cells = [(int(seed), path, "finished") for seed, path in zip(row[seeds].split(), paths)]
            groups.append(Group(name, tuple(cells)))
        texts = (
            row["sentence"],
            beside(row["verdict"], row["welch_verdict"]),
            *(text[name] for name in ("difference", "published", "ours", "compared")),
        )
        texts += (text["where"], row["scale"], beside(row["overall"], row["welch_overall"]))
        about = [f"{row['paper']}, {row['source']} ({row['claim']}). Reproduced if {row['reproduced_if']}."]
        about += [row["note"]] if row["note"] else []
        rows.append(Row(f"row/{benchmark.name}/claims/{number}", texts, tuple(groups), notes={"claim": about}))
    columns = ("claim", "verdict", "difference", "published", "ours", "compared", "where", "scale", "all settings")
    run = Shown(f"{benchmark.name}/claims", "What the papers claim, held against cells.", columns, tuple(rows), table.footnotes)
    rest = [
        Row(f"row/{benchmark.name}/unrun/{row['claim']}", (row["sentence"], f"{row['paper']}, {row['source']}", row["claim"]))
        for row in claims.summary(judged).to_dict("records")
        if row["overall"] == NOT_RUN
    ]
    caption = "Claims of the papers that have no cell here."
    unrun = Shown(f"{benchmark.name}/unrun", caption, ("claim", "source", "name"), tuple(rest))
    return run, unrun, int((judged["verdict"] != NOT_RUN).sum() - len(measured))


def cells_shown(benchmark: Benchmark) -> Shown:
    """Return the list of all cells, a row each."""
    columns = ("cell", "status", "last epoch", "best on test", "seconds", "images/s", "finished", "code")
    rows = []
    for path, found in benchmark.cells.items():
        form = _form(found)
        record, timings = found.provenance, found.metrics.get("timings") or {}
        values = [found.value(part) for part in ("last", "best_on_test")]
        texts = [path.partition("/")[2], status_text(found)]
        texts += [format(value, form) if value is not None else "" for value in values]
        texts += [f"{found.seconds:,.1f}" if found.finished else ""]
        texts += [f"{timings['images_per_second']:,.0f}" if timings.get("images_per_second") else ""]
        texts += [record.get("finished", "")[:10], record.get("code_sha256", "")[:12]]
        rows.append(Row(f"cell/{path}", tuple(texts), (Group("", ((found.cell.seed, path, found.status),)),)))
    return Shown(f"{benchmark.name}/cells", "All cells: one training each.", columns, tuple(rows))


def holes_shown(benchmark: Benchmark) -> Shown:
    """Return the cells that have no result, and after them those with one that is not asked for today."""
    rows = []
    for path, found in sorted(benchmark.cells.items(), key=lambda item: item[1].finished):
        stale = found.standing.startswith("stale")
        if not found.finished or stale:
            why = str(found.metrics.get("error", "")) or (found.standing if stale else "it was not trained")
            row = (path.partition("/")[2], status_text(found), " ".join(why.split()))
            rows.append(Row(f"hole/{path}", row, (Group("", ((found.cell.seed, path, found.status),)),)))
    caption = "Cells without a result, or with one that is not asked for today."
    return Shown(f"{benchmark.name}/holes", caption, ("cell", "status", "why"), tuple(rows))


def status_text(found: Found) -> str:
    """Return how a cell ended, and that it is stale where it is."""
    return found.status + (", stale" if found.standing.startswith("stale") else "")


def _form(found: Found) -> str:
    return METRICS[found.cell.task].form
