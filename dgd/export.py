"""Hand cells to others as one file, and take such a file in: how a group with a GPU hands its cells to one without.

A bundle is a tar: results of benchmarks as they lie in their folders, what made them, the licence, and the hash of each file.
The same results give the same bytes. Nothing of it is run, and nothing is put in place before all of it is checked.
"""

import fnmatch
import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from tabulate import tabulate

from dgd import config, files, frozen, identity, manifest, running, seals, verify
from dgd.cell import Cell

TOP = "bundle"
"""The folder that all of a bundle lies in."""
ABOUT, LICENCE = "README.md", "LICENSE"
CURVE = "pruning.csv"
CELL = (*identity.OUTPUTS, CURVE)
"""The files of a cell that a bundle may hold, and usage.tsv where an older manifest lists it."""
TABLES = re.compile(r"cells\.csv|SHA256SUMS|frozen\.yaml|" + re.escape(config.ASKED) + r"|(tables|figures)/[^/]+")
"""The other files of a benchmark: those that are made of its cells."""
README = """\
# Results of dgd-bench

Trainings of filter grafting, knowledge distillation and the methods around them: {cells}{weights}. Each is a *cell*, a folder
`results/<benchmark>/<data set>/<model>/<method>/seed<k>/`: metrics.json (the result), history.csv (an epoch a row), config.yaml
(all that was asked for), provenance.json (command, commit, versions, hashes), predictions.npz, filters.npz.

Check the files with `sha256sum -c SHA256SUMS` in this folder; take them in with `dgd-bench import <this file>.tar`, which also
holds each cell to its own seal, and its numbers to each other. LICENSE is the licence of the results.

{made_by}
"""


NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*")
"""One part of a path in a bundle: neither hidden nor a way out of the folder."""


IN, THERE, LEFT = "came in", "there already", "left out"
"""What can come of a cell of a bundle."""


@dataclass
class Taken:
    """What came of the cells of a bundle, and of the tables of its benchmarks.

    Attributes:
        lines: One for each, in words.
        counts: How many cells came in, were there already, and were left out.
    """

    lines: list[str] = field(default_factory=list)
    counts: Counter = field(default_factory=lambda: Counter(dict.fromkeys((IN, THERE, LEFT), 0)))

    def __str__(self) -> str:
        return ", ".join(f"{n} {kind}" for kind, n in self.counts.items())


# ---------------------------------------------------------------------------------------------------------- export


def export(
    folders: Iterable[str | Path], out: str | Path, pattern: str = "*", weights: bool = False, papers: str | Path = "papers"
) -> int:
    """Write a bundle of cells with their teachers, and of the tables of benchmarks that are whole; return the number of cells.

    Args:
        folders: Results of benchmarks, or their root.
        out: The tar to write.
        pattern: Path of cells, or its end, with wildcards as in a shell.
        weights: Weights too. Without them the cells can be read, and Snakemake would train them again.
        papers: Folder of the published numbers, by which tables are checked.

    Raises:
        ValueError: No cell matches, weights are missing, or a file is not what was written.
    """
    content: dict[str, Path | bytes] = {}
    records = []
    for folder in dict.fromkeys(one for given in folders for one in verify.benchmarks_in(Path(given))):
        cells = _needed(folder, pattern)
        for name in _files(folder, cells, weights, Path(papers)) if cells else ():
            content[f"results/{folder.resolve().name}/{name}"] = folder / name
        records += [json.loads((_folder(folder, cell) / seals.RECORD).read_bytes()) for cell in cells]
    if not records:
        raise ValueError(f"{', '.join(map(str, folders))}: no cell matches {pattern!r}; a cell's path is such as */dgd/seed0")
    content |= {ABOUT: _readme(records, weights).encode(), LICENCE: _licence()}
    hashes = {name: files.file_hash(what) if isinstance(what, Path) else _hash(what) for name, what in content.items()}
    content[manifest.MANIFEST] = manifest.text(hashes).encode()
    _write(Path(out), content)
    return len(records)


def _needed(folder: Path, pattern: str) -> list[Cell]:
    """Return the cells of a benchmark whose paths match, each after the teachers that it needs."""
    wanted = [
        cell
        for cell in identity.folder_cells(folder)
        if fnmatch.fnmatch(cell.path, pattern) or fnmatch.fnmatch(cell.path, f"*/{pattern}")
    ]
    root = folder.resolve().parent
    return list({one.path: one for cell in wanted for one in running.with_sources(cell, root)}.values())


def _folder(folder: Path, cell: Cell) -> Path:
    return folder / cell.path.partition("/")[2]


def _files(folder: Path, cells: list[Cell], weights: bool, papers: Path) -> list[str]:
    """Return the names of a benchmark's files that a bundle holds, which are checked."""
    own = [_folder(folder, cell) for cell in cells]
    listed = manifest.read(folder) if (folder / manifest.MANIFEST).is_file() else {}
    whole = bool(listed) and set(own) == set(verify.cell_folders(folder))
    if whole:
        faults = verify.verify([folder], papers).faults
        found = [name for name in listed if not manifest.may_be_missing(name)] + [manifest.MANIFEST]
    else:
        faults = verify.cell_faults(folder, own)
        found = [(path / name).relative_to(folder).as_posix() for path in own for name in CELL if (path / name).is_file()]
        found = [name for name in found if not manifest.may_be_missing(name)]
        changed = (name for name in found if name in listed and files.file_hash(folder / name) != listed[name])
        faults += [f"{folder / name}: its SHA-256 is not the one in {manifest.MANIFEST}" for name in changed]
    if faults:
        more = f" (and {len(faults) - 1} more faults; `dgd-bench verify {folder}` lists them)" if len(faults) > 1 else ""
        raise ValueError(f"{faults[0]}{more}")
    for path in own if weights else ():
        if not (path / identity.WEIGHTS).is_file():
            raise ValueError(f"{path / identity.WEIGHTS}: no such file; leave --weights out, or train the cell here")
        found.append((path / identity.WEIGHTS).relative_to(folder).as_posix())
    return found


def _readme(records: list[Mapping], weights: bool) -> str:
    counts: Counter = Counter()
    for record in records:
        git, machine, packages = (record.get(name) or {} for name in ("git", "machine", "packages"))
        counts[
            str(record.get("cell")).partition("/")[0],
            (git.get("commit") or "none")[:12] + (" with changes" if git.get("dirty") else ""),
            record["code_sha256"][:12],
            record.get("python"),
            ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm", "numpy") if name in packages),
            (machine.get("gpu") or {}).get("name") or machine.get("cpu"),
        ] += 1
    headers = ["benchmark", "commit", "code", "python", "packages", "device", "cells"]
    rows = [[*row, n] for row, n in sorted(counts.items(), key=str)]
    cells = f"{len(records)} cell{'s' if len(records) > 1 else ''}"
    made_by = tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)
    return README.format(cells=cells, weights=", with weights" if weights else "", made_by=made_by)


def _licence() -> bytes:
    """Return the text of the licence: that of the repository, or of the installed package."""
    path = Path(__file__).parents[1] / LICENCE
    if path.is_file():
        return path.read_bytes()
    found = [file for file in metadata.files("dgd-bench") or () if file.name == LICENCE]
    if not found:
        raise ValueError(f"{path}: no such file, and a bundle goes with the licence")
    return Path(found[0].locate()).read_bytes()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(out: Path, content: Mapping[str, Path | bytes]) -> None:
    """Write a tar with nothing in it of this machine, its user or the time; whole, or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.", suffix=files.UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as raw:
            with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for name, what in sorted(content.items()):
                    entry = tarfile.TarInfo(f"{TOP}/{name}")
                    entry.size = what.stat().st_size if isinstance(what, Path) else len(what)
                    with what.open("rb") if isinstance(what, Path) else io.BytesIO(what) as file:
                        tar.addfile(entry, file)
            raw.flush()
            os.fsync(raw.fileno())
        files.follow_umask(temporary)
        os.replace(temporary, out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


# ---------------------------------------------------------------------------------------------------------- import


def take(bundle: str | Path, results: str | Path = "results", replace: bool = False) -> Taken:
    """Put the cells of a bundle into a root of results, after all of the bundle is checked.

    A cell comes in whole or not at all. One of which another result is there is left out, and so are those that learned
    from it; tables come in where the benchmark has no other cells than the bundle's.

    Args:
        bundle: The tar that `export` wrote.
        results: Root of the results.
        replace: Put the bundle's cells and tables in the place of others.

    Raises:
        ValueError: It is no bundle, a file in it was changed or does not belong there, or a benchmark is frozen here.
        Locked: Another process writes one of the cells.
    """
    results = Path(results)
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=results, prefix=".import-") as stage:
        top = _unpack(Path(bundle), Path(stage))
        _check(top, bundle)
        benchmarks = sorted((top / "results").iterdir())
        for source in benchmarks:
            _refuse_frozen(source, results / source.name)
        found = Taken()
        for source in benchmarks:
            _take(source, results / source.name, replace, found)
    return found


def _unpack(bundle: Path, stage: Path) -> Path:
    """Unpack a bundle, all of whose names must be those that `export` writes; return its folder."""
    seen: set[str] = set()
    try:
        with tarfile.open(bundle, "r:") as tar:
            for entry in tar:
                if why := _misplaced(entry, seen):
                    raise ValueError(f"{bundle}: {entry.name!r} {why}; nothing was taken in")
                seen.add(entry.name)
                tar.extract(entry, stage, filter="data")
    except tarfile.TarError as error:
        raise ValueError(f"{bundle}: no whole tar, as `dgd-bench export` writes it: {error}; nothing was taken in") from None
    return stage / TOP


def _misplaced(entry: tarfile.TarInfo, seen: Iterable[str]) -> str:
    """Say why a bundle may not have such an entry; "" where it may."""
    top, *parts = entry.name.split("/")
    if not entry.isreg() or entry.issparse():
        return "is no plain file, and a bundle has no others"
    if entry.name in seen:
        return "is there twice"
    if top != TOP or not parts or not all(map(NAME.fullmatch, parts)):
        return f"is no name of a file in the folder {TOP}"
    if len(parts) == 1 and parts[0] in (ABOUT, LICENCE, manifest.MANIFEST):
        return ""
    inner = "/".join(parts[2:])
    own = len(parts) == 7 and fnmatch.fnmatch(inner, manifest.CELL) and parts[-1] in (*CELL, "usage.tsv")
    if parts[0] != "results" or not (own or TABLES.fullmatch(inner)):
        return "is no file of a benchmark's results"
    return ""


def _check(top: Path, bundle: str | Path) -> None:
    """Raise ValueError where a file of an unpacked bundle is not what was written, or a cell is not what it says."""
    nothing = "nothing was taken in"
    if not (top / manifest.MANIFEST).is_file() or not (top / "results").is_dir():
        raise ValueError(f"{bundle}: no {TOP}/{manifest.MANIFEST} or no results in it, so it is no bundle; {nothing}")
    wanted = manifest.read(top)
    names = {path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file()} - {manifest.MANIFEST}
    for name in sorted(names ^ wanted.keys()):
        where = f"is there, and {manifest.MANIFEST} does not have it" if name in names else f"is missing ({manifest.MANIFEST})"
        raise ValueError(f"{bundle}: {name} {where}; {nothing}")
    for name, value in wanted.items():
        if files.file_hash(top / name) != value:
            raise ValueError(f"{bundle}: {name} was changed or damaged, by {manifest.MANIFEST}; {nothing}")
    for folder in sorted((top / "results").iterdir()):
        faults = verify.cell_faults(folder, verify.cell_folders(folder))
        if (folder / manifest.MANIFEST).is_file():
            faults += manifest.faults(folder)[0]
        elif extra := [path for path in sorted(folder.iterdir()) if not path.is_dir() or not list(path.glob("*/*/seed*"))]:
            faults.append(f"{extra[0]}: tables without a {manifest.MANIFEST} of their benchmark")
        for fault in faults[:1]:
            raise ValueError(f"{bundle}: {fault.replace(f'{top}/', '')}; {nothing}")


def _refuse_frozen(source: Path, folder: Path) -> None:
    """Raise ValueError where a benchmark is frozen here, and the bundle has other results of it."""
    if frozen.is_frozen(folder) and (
        other := [path for path in verify.cell_folders(source) if _other(path, folder / path.relative_to(source)) is not None]
    ):
        raise ValueError(
            f"{folder} is frozen, and {folder / other[0].relative_to(source)} is not that of the bundle; give another root by "
            f"--results, or thaw it with `dgd-bench freeze --thaw {folder}`; nothing was taken in"
        )


def _take(source: Path, folder: Path, replace: bool, found: Taken) -> None:
    """Take the cells and tables of one benchmark in."""
    sums = folder / manifest.MANIFEST
    own = {path.relative_to(source) for path in verify.cell_folders(source)}
    # Of a folder that has other cells and no manifest, the workflow is not done yet: it will write one.
    only = not sums.is_file() and {path.relative_to(folder) for path in verify.cell_folders(folder)} <= own
    right = sums.is_file() and not manifest.faults(folder)[0]
    left, came = set(), False
    for cell in _ordered(source):
        path, here = _folder(source, cell), _folder(folder, cell)
        other = _other(path, here)
        if taught := [teacher for teacher in cell.sources if teacher in left]:
            kind, text = LEFT, f"left out, for it learned from {taught[0]}, which is another one here"
        elif other is None:
            kind, text = (IN, "its weights came in") if _add_weights(path, here) else (THERE, THERE)
        elif other and not replace:
            kind, text = LEFT, f"left out: {other} (--replace takes the bundle's)"
        else:
            _put(path, here)
            kind, text = IN, f"{IN}, in the place of another: {other}" if other else IN
        left |= {cell.path} if kind == LEFT else set()
        came |= kind == IN
        found.lines.append(f"{here}: {text}")
        found.counts[kind] += 1
    took = (source / manifest.MANIFEST).is_file() and _take_tables(source, folder, replace or came, found)
    if not took and ((right and came) or (only and not left)):
        manifest.write(folder)


def _ordered(source: Path) -> list[Cell]:
    """Return the cells of a bundle's benchmark, each after those that it learned from."""
    cells = identity.folder_cells(source)
    return list({one.path: one for cell in cells for one in running.with_sources(cell, source.parent)}.values())


def _other(path: Path, here: Path) -> str | None:
    """Say in what the result that is here is another than the bundle's; None where it is the same, "" where there is none."""
    if not (here / "metrics.json").is_file():
        return ""
    names = [name for name in identity.OUTPUTS if name != identity.WEIGHTS]
    changed = [name for name in names if identity.file_hash(path / name) != identity.file_hash(here / name)]
    if not changed:
        return None
    try:
        own, there = (json.loads((one / seals.RECORD).read_bytes()).get("identity") for one in (path, here))
    except (OSError, ValueError, AttributeError):
        own = there = None
    if own and there and own["hash"] != there["hash"]:
        lines = identity.field_differences(there["fields"], own["fields"])
        return f"another cell is here: {lines[0] if lines else 'of other code or teachers'}"
    if own and there and own["data"] != there["data"]:
        return "another cell is here: the data set differs"
    return f"another result of the cell is here: its {changed[0]} differs"


def _add_weights(path: Path, here: Path) -> bool:
    """Add the weights of a bundle to the same cell, which has none; return whether they came in."""
    if not (path / identity.WEIGHTS).is_file() or (here / identity.WEIGHTS).is_file():
        return False
    with files.locked(here, "imported"):
        files.write_bytes(here / identity.WEIGHTS, (path / identity.WEIGHTS).read_bytes())
    return True


def _put(path: Path, here: Path) -> None:
    """Put the files of a cell in place: metrics.json goes first and comes last, so that with it the others are there."""
    with files.locked(here, "imported"):
        for name in ("metrics.json", *CELL, "usage.tsv"):
            if name == "metrics.json" or not (path / name).is_file():
                files.remove(here / name)
        names = [file.name for file in path.iterdir() if file.name != "metrics.json"]
        for name in (*names, "metrics.json"):
            files.write_bytes(here / name, (path / name).read_bytes())


def _take_tables(source: Path, folder: Path, put: bool, found: Taken) -> bool:
    """Take a benchmark's tables, figures and manifest in, if its cells are the bundle's; return whether they are here."""
    cells = {path.relative_to(source) for path in verify.cell_folders(source)}
    same = all(_other(source / path, folder / path) is None for path in cells)
    if not same or cells != {path.relative_to(folder) for path in verify.cell_folders(folder)}:
        found.lines.append(f"{folder}: its tables were left out, for its cells are not the bundle's; the workflow makes them")
        return False
    sums = manifest.MANIFEST
    same = identity.file_hash(folder / sums) == identity.file_hash(source / sums) and not manifest.faults(folder)[0]
    if same or frozen.is_frozen(folder):
        return True
    if (folder / sums).is_file() and not put:
        found.lines.append(f"{folder}: its tables were left as they are, for they are not the bundle's (--replace takes those)")
        return False
    files.remove(folder / sums)
    for path in [path for path in _tables(folder) if not (source / path).is_file()]:
        files.remove(folder / path)
    for path in _tables(source):
        files.write_bytes(folder / path, (source / path).read_bytes())
    files.write_bytes(folder / sums, (source / sums).read_bytes())
    found.lines.append(f"{folder}: its tables came in")
    return True


def _tables(folder: Path) -> list[Path]:
    """Return the files of a benchmark that are made of its cells, below its folder; its manifest is not among them."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    made = [path for path in found if TABLES.fullmatch(path.as_posix()) or path.as_posix() == "report.html"]
    return [path for path in made if path.name != manifest.MANIFEST]
