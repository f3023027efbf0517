"""Frozen benchmarks: results that are read and never trained again, because older code made them and they are committed.

A benchmark is frozen by a marker, frozen.yaml, in the folder of its results. It says when, and which code made the cells.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import yaml

from dgd import identity, json_files, manifest, source_files, yaml_files
from dgd.cell import Cell
from dgd.files import write_text
from dgd.json_files import Null, Value
from dgd.seals import AGAIN, RECORD, check_seal, root_of

MARKER = "frozen.yaml"
MADE_BY = {"commit": Value(str | None), "dirty": Value(bool), "code_sha256": Value(str), "cells": Value(int, least=1)}
"""The form of a row of the marker's `made_by`."""
PROVENANCE = {
    **{"cell?": Value(str | None), "code_sha256": Value(str), "identity?": {"data?": Value(str | None)}},
    "git?": Null({"commit?": Value(str | None), "dirty?": Value(bool | None)}),
}
"""The form of what is read here of a provenance.json."""


def is_frozen(folder: str | Path) -> bool:
    """Return whether the results in this folder are those of a frozen benchmark."""
    return (Path(folder) / MARKER).is_file()


def made_by(folder: str | Path) -> list[dict]:
    """Return which code made the cells of a frozen benchmark: `commit`, `dirty`, `code_sha256` and the number of `cells`.

    An empty list where the benchmark is not frozen.

    Raises:
        ValueError: The marker cannot be read.
    """
    path = Path(folder) / MARKER
    if not path.is_file():
        return []
    found = yaml_files.read_mapping(path)
    for line in json_files.problems(found, {"made_by": [MADE_BY]}):
        raise ValueError(f"{path}: {line}; freeze the benchmark again: `dgd-bench freeze {folder}`")
    return found["made_by"]


def sentence(row: dict) -> str:
    """Return a row of `made_by` in words."""
    commit = f"commit {row['commit'][:12]}" if row["commit"] else "no commit"
    changed = " with uncommitted changes" if row["dirty"] else ""
    cells = f"{row['cells']} cell{'s' if row['cells'] != 1 else ''}"
    return f"{cells} made by {commit}{changed}, code {row['code_sha256'][:12]}"


def standing(cells: Iterable[Cell], results: str | Path) -> dict[str, str]:
    """Return path -> "frozen", "fresh", or "stale: " and why, of cells of one benchmark.

    Args:
        cells: The cells, teachers included.
        results: Root of the results.
    """
    cells = list(cells)
    if cells and is_frozen(Path(results) / cells[0].benchmark):
        return {cell.path: "frozen" for cell in cells}
    return {path: str(state) for path, state in identity.states(cells, results).items()}


def footnotes(folder: str | Path, standing: Iterable[str]) -> tuple[str, ...]:
    """Return what a reader of a benchmark's tables has to know of its cells: by which code they were made, which are stale.

    Args:
        folder: The benchmark's results.
        standing: Of each cell, as in cells.csv.
    """
    if rows := made_by(folder):
        return (f"Frozen: {'; '.join(map(sentence, rows))}. They are read by later code, and were not trained again.",)
    stale = [text for text in standing if text.startswith("stale")]
    if not stale:
        return ()
    return (f"{len(stale)} cells are not what is asked for today, e.g. {stale[0]}.",)


def freeze(folder: str | Path) -> list[dict]:
    """Freeze a benchmark's results and write their manifest; return which code made its cells.

    Args:
        folder: Such as results/quick.

    Raises:
        ValueError: There is no cell in it, one was changed after it was written, or one is a copy.
    """
    rows = makers(folder)
    if not rows:
        raise ValueError(f"{folder}: no cell of a benchmark in it; give the folder of a benchmark's results")
    manifest.refuse_changed(folder, is_frozen(folder))
    content = {"frozen": datetime.now(UTC).date().isoformat(), "made_by": rows}
    write_text(Path(folder) / MARKER, yaml.safe_dump(content, sort_keys=False))
    manifest.write(folder)
    return rows


def makers(folder: str | Path) -> list[dict]:
    """Return which code made the cells of a benchmark, by their records, as `made_by` returns it.

    Raises:
        ValueError: A record was changed after it was written, or is in a folder of another cell.
    """
    counts: Counter = Counter()
    for path in sorted({*Path(folder).glob(f"*/*/*/seed*/{RECORD}"), *_finished(folder)}):
        check_seal(path.parent, [path.name])
        record = _record(path.parent)
        if cell := record.get("cell"):
            root_of(path, cell, renamed=True)
        git = record.get("git") or {}
        counts[git.get("commit"), bool(git.get("dirty")), record["code_sha256"]] += 1
    return [
        {"commit": commit, "dirty": dirty, "code_sha256": code, "cells": n} for (commit, dirty, code), n in counts.most_common()
    ]


def _finished(folder: str | Path) -> list[Path]:
    """Return the paths that the records of all cells with a result must have."""
    return [path.with_name(RECORD) for path in Path(folder).glob("*/*/*/seed*/metrics.json")]


def thaw(folder: str | Path) -> None:
    """Take the marker and the manifest away: the benchmark's cells are trained again where they are stale.

    Raises:
        ValueError: The benchmark is not frozen.
    """
    if not is_frozen(folder):
        raise ValueError(f"{folder}: not frozen, there is no {MARKER} in it")
    (Path(folder) / MARKER).unlink()
    (Path(folder) / manifest.MANIFEST).unlink(missing_ok=True)


def differences(folder: str | Path, cells: Iterable[Cell], data: dict[str, str | Path]) -> str:
    """Say in one line in what the cells of a config differ from those of a frozen benchmark; "" where they do not.

    Args:
        folder: The benchmark's results.
        cells: The cells that are asked for.
        data: Folder name of a data set -> its prepared folder, compared where that is there.
    """
    folder, found = Path(folder), {}
    for cell in cells:
        for line in _differences(folder.parent / cell.path, cell, Path(data[cell.data_slug]) / "manifest.json"):
            found.setdefault(line, []).append(cell.path)
    lines = [f"{line} ({paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''})" for line, paths in found.items()]
    if not lines:
        return ""
    return (
        f"{folder} is frozen, and what is asked for differs: {'; '.join(lines)}. Give the benchmark another name, or thaw it "
        f"with `dgd-bench freeze --thaw {folder}`"
    )


def refuse(folder: str | Path, cells: Iterable[Cell], data: dict[str, str | Path]) -> None:
    """Raise ValueError with what differs where a benchmark is frozen and its cells are not those that are asked for."""
    if is_frozen(folder) and (line := differences(folder, cells, data)):
        raise ValueError(line)


def _record(folder: Path) -> dict:
    """Return a cell's provenance.json, as far as it is read here in the form that it must have."""
    record = json_files.read(folder / RECORD, AGAIN)
    for line in json_files.problems(record, PROVENANCE):
        raise ValueError(f"{folder / RECORD}: {line}; {AGAIN}")
    return record


def _differences(folder: Path, cell: Cell, manifest: Path) -> list[str]:
    frozen = identity.cell_of(folder)
    if frozen is None:
        return ["a cell is asked for that is not there"]
    lines = identity.field_differences(identity.fields(frozen), identity.fields(cell))
    if len(frozen.sources) != len(cell.sources):
        lines.append(f"teachers was {len(frozen.sources)} and is {len(cell.sources)}")
    check_seal(folder, [RECORD])
    record = _record(folder)
    if manifest.is_file() and not same_data(record, manifest):
        lines.append("the data set differs")
    return lines


def same_data(record: dict, manifest: Path) -> bool:
    """Return whether a prepared data set, by its manifest, is the one that a cell's provenance.json names."""
    if "identity" in record:
        return record["identity"].get("data") == identity.data_hash(manifest)
    # Cells of older code recorded a hash of the manifest's bytes, which had no seal.
    unsealed = source_files.seal_of(source_files.read_unchecked(manifest))
    return record.get("dataset_sha256") in (identity.file_hash(manifest), unsealed)
