"""Find all that a report shows of one folder of results: its config, tables, cells and what they left."""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dgd import config, json_files, keys, yaml_files
from dgd.cell import Cell
from dgd.json_files import Each, Null, Value
from dgd.metrics import METRICS
from dgd.read import table
from dgd.read.cells import read_collected
from dgd.read.figures.material import Material, Source, gather
from dgd.read.files import as_written, has, read_history, read_metrics
from dgd.read.table import Table
from dgd.seals import AGAIN, RECORD

TABLES = ("results", "methods", "controls", "claims", "filters", "density", "subnets", "retrieval", "generated")
"""The tables of a benchmark that the page shows where they are there."""

LOG_LINES = 30
"""Lines of a train.log, its last ones, that the page shows."""

PROVENANCE = {
    "machine": {
        "gpu": Null({"name?": Value(str)}),
        "cpu": Value(str),
        "cores": Value(int | None),
        "threads": Value(int),
        "host": Value(str),
    },
    "git": Null({"commit?": Value(str | None), "dirty?": Value(bool | None)}),
    **{"code_sha256": Value(str), "python": Value(str), "packages": Each(Value(str | None))},
}
"""The form of what the page reads of a provenance.json."""


@dataclass(frozen=True)
class Found:
    """One cell as it was found.

    Attributes:
        cell: What was asked for.
        folder: Where its files are; nothing may be there.
        status: How it ended, or "missing".
        standing: "fresh", "frozen", "stale: ..." as cells.csv says; "" where it does not.
        metrics: Its metrics.json; empty where it is missing.
        provenance: Its provenance.json; empty where it is missing.
    """

    cell: Cell
    folder: Path
    status: str
    standing: str
    metrics: Mapping = field(default_factory=dict)
    provenance: Mapping = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Return whether it has a result."""
        return self.status == "finished"

    @property
    def seconds(self) -> float:
        """Return how long its training took; 0 without a result."""
        return self.metrics["timings"]["seconds"] if self.finished else 0.0

    @property
    def gpu(self) -> str:
        """Return the name of the GPU that it was trained on; "" for none."""
        return ((self.provenance.get("machine") or {}).get("gpu") or {}).get("name", "")

    def value(self, part: str = "last", network: int = 0) -> float | None:
        """Return the metric of a network: of its last epoch, or another part of metrics.json; None where there is none."""
        if not self.finished:
            return None
        return (self.metrics["networks"][network][part] or {}).get(METRICS[self.cell.task].name)

    def history(self) -> pd.DataFrame | None:
        """Return the metric on the test split of each epoch that was evaluated, columns `epoch` and `value`; None without."""
        if not self.finished or not has(self.folder / "history.csv"):
            return None
        found = read_history(self.folder / "history.csv", METRICS[self.cell.task])
        return found.set_axis(["epoch", "value"], axis=1).dropna()

    def log(self) -> str:
        """Return the end of its train.log; "" where there is none."""
        path = self.folder / "train.log"
        if not path.is_file():
            return ""
        lines = path.read_bytes()[-20_000:].decode(errors="replace").splitlines()
        return "\n".join(line.rpartition("\r")[2] for line in lines[-LOG_LINES:])


@dataclass(frozen=True)
class Benchmark:
    """One folder of results.

    Attributes:
        folder: `results/<benchmark>`.
        config: Its checked config with every default, as plain values.
        tables: Name -> table, as tables/ has them.
        frame: cells.csv.
        cells: Path -> cell, in the order of the config.
    """

    folder: Path
    config: Mapping
    tables: Mapping[str, Table]
    frame: pd.DataFrame
    cells: Mapping[str, Found]

    @property
    def name(self) -> str:
        """Return the benchmark's name."""
        return self.config["benchmark"]

    @cached_property
    def materials(self) -> list[tuple[str, Material]]:
        """Return what the figures of each data set and student draw, with a name of its own; a teacher's pairs apart."""
        done = [found for found in self.cells.values() if found.finished]
        settings: dict[tuple[str, str], dict[str, list[Source]]] = {}
        for found in done:
            cell = found.cell
            models = settings.setdefault((cell.slug, cell.student), {})
            models.setdefault(cell.model, []).append(Source(cell.method, cell.seed, found.folder, found.metrics))
        made = []
        for (dataset, student), models in settings.items():
            alone = models.pop(student, [])
            for model, sources in (models or {student: []}).items():
                title = f"{dataset}, {model.replace('-by-', ' by ')}"
                made.append((f"{dataset}-{model}", gather([*alone, *sources], title)))
        return made


def read(folder: str | Path) -> Benchmark:
    """Read a folder of results, as the workflow leaves it.

    Raises:
        ValueError: A file that the page needs is not there, is damaged, or was changed.
    """
    folder = Path(folder)
    asked = folder / config.ASKED
    for path in (asked, folder / "cells.csv", folder / "tables" / "results.csv"):
        if not path.is_file():
            raise ValueError(f"{path}: no such file; run the workflow of this benchmark, which writes it")
    given = config.check(yaml_files.read(asked), str(asked), folders=False, run=False)
    if given.benchmark != folder.resolve().name:
        raise ValueError(f"{asked}: benchmark is {given.benchmark}, and the folder is called {folder.resolve().name}")
    frame = read_collected(folder / "cells.csv")
    frame = frame.assign(teacher=frame["teacher"].fillna(""), path=_paths(frame))
    first = frame[frame["network"] == 0].drop_duplicates("path").set_index("path")
    cells = {cell.path: _found(cell, folder, first) for cell in config.cells(given)}
    tables = {name: table.read(folder / "tables" / name) for name in TABLES if (folder / "tables" / f"{name}.csv").is_file()}
    return Benchmark(folder, keys.plain(given), tables, frame[frame["path"].isin(cells)], cells)


def _paths(frame: pd.DataFrame) -> pd.Series:
    parts = [frame[name].astype(str) for name in ("benchmark", "dataset", "model", "method")]
    return parts[0].str.cat([*parts[1:], "seed" + frame["seed"].astype(str)], sep="/")


def _found(cell: Cell, folder: Path, collected: pd.DataFrame) -> Found:
    """Return a cell as it was found, by cells.csv and its own files."""
    own = folder / cell.path.partition("/")[2]
    if cell.path not in collected.index:
        raise ValueError(f"{folder / 'cells.csv'}: no row of {cell.path}, and {config.ASKED} has it; collect the cells again")
    row = collected.loc[cell.path]
    if row["status"] == "missing":
        return Found(cell, own, "missing", "")
    metrics = read_metrics(own / "metrics.json")
    provenance = json_files.read(as_written(own / RECORD), AGAIN)
    for line in json_files.problems(provenance, PROVENANCE):
        raise ValueError(f"{own / RECORD}: {line}; {AGAIN}")
    standing = row["standing"] if isinstance(row.get("standing"), str) else ""
    return Found(cell, own, metrics["status"], standing, metrics, provenance)


# ----------------------------------------------------------------------------------------------------- a cell's details


def details(found: Found, recipe: Mapping) -> dict[str, Any]:
    """Return all that the page shows of one cell, as JSON can hold it.

    Args:
        found: The cell.
        recipe: That of its benchmark: of the cell's own only what differs is shown.
    """
    metric, form = METRICS[found.cell.task], METRICS[found.cell.task].form
    history = found.history()
    return {
        "status": found.status + (f", {found.standing}" if found.standing not in ("", "fresh") else ""),
        "error": str(found.metrics.get("error", "")),
        "metric": metric.words,
        "values": [[label, f"{value:{form}}"] for part, label in PARTS.items() if (value := found.value(part)) is not None],
        "others": [f"{found.value('last', i):{form}}" for i in range(1, len(found.metrics.get("networks", ())))]
        if found.finished
        else [],
        "config": [[name, _short(value)] for name, value in _differences(found.cell, recipe)],
        "command": found.provenance.get("command", ""),
        "provenance": [[name, value] for name, value in _record(found) if value],
        "teachers": found.provenance.get("teachers") or {},
        "log": found.log(),
        "history": [] if history is None else [[int(row.epoch), float(f"{row.value:.5g}")] for row in history.itertuples()],
    }


PARTS = {"last": "last epoch", "best_on_test": "best on test", "validation_selected": "validation-selected"}
"""Parts of a network's record in metrics.json, and what the page calls them."""


def _differences(cell: Cell, recipe: Mapping) -> Iterator[tuple[str, Any]]:
    """Yield what a cell is, and where its recipe is not that of its benchmark."""
    plain = cell.plain()
    yield from ((name, plain[name]) for name in SAID if plain.get(name) not in (None, [], {}))
    for name, value in plain["recipe"].items():
        if value != recipe.get(name):
            yield f"recipe.{name}", f"{_short(value)}, and {_short(recipe.get(name))} in the benchmark"


SAID = ("dataset", "student", "teachers", "networks", "objective", "exchange", "subnets", "generated", "seed")
"""Keys of a cell that the page always shows."""


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _record(found: Found) -> Iterator[tuple[str, str]]:
    """Yield what produced a cell, in words."""
    record = found.provenance
    if not record:
        return
    machine, timings = record["machine"], found.metrics.get("timings") or {}
    yield "trained", " to ".join(record[end][:19] for end in ("started", "finished") if record.get(end))
    yield "seconds", f"{found.seconds:.1f}" if found.finished else ""
    yield "images/s", f"{timings['images_per_second']:,.0f}" if timings.get("images_per_second") else ""
    yield "peak memory, MiB", f"{timings['peak_memory_mib']:,.0f}" if timings.get("peak_memory_mib") else ""
    yield "machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, host {machine['host']}"
    yield "GPU", found.gpu or "none"
    yield "commit", _commit(record)
    yield "code (SHA-256)", record["code_sha256"]
    yield "data (SHA-256)", (record.get("identity") or {}).get("data") or record.get("dataset_sha256") or ""
    yield "versions", _versions(record)


def _commit(record: Mapping) -> str:
    git = record["git"] or {}
    return (git.get("commit") or "not in a repository") + (" and uncommitted changes" if git.get("dirty") else "")


def _versions(record: Mapping) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in record["packages"].items())
    return f"Python {record['python']}, {packages}"


def facts(cells: Mapping[str, Found]) -> pd.DataFrame:
    """Return what should be one and the same in all cells: columns `what`, `value`, and the number of `cells` that have it."""
    rows = []
    for found in cells.values():
        if record := found.provenance:
            machine = record["machine"]
            rows += [
                ("code (SHA-256)", record["code_sha256"]),
                ("commit", _commit(record)),
                ("versions", _versions(record)),
                ("CPU", f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads a cell"),
                ("GPU", found.gpu or "none"),
                ("host", machine["host"]),
            ]
    table = pd.DataFrame(rows, columns=["what", "value"])
    counts = table.value_counts(sort=False).rename("cells").reset_index()
    order = {what: place for place, what in enumerate(table["what"].unique())}
    return counts.sort_values("what", key=lambda column: column.map(order), kind="stable", ignore_index=True)


def csv_text(frame: pd.DataFrame) -> str:
    """Return a frame as compact CSV: the form in which charts hold their data."""
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, float_format="%.5g")
    return buffer.getvalue()


def data_uri(path: Path) -> str:
    """Return an SVG as a page can hold it, as an image."""
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
