"""Hold a cell's files to what was written.

A cell's provenance.json has a seal: the hash of each of its files, and one of the record itself. What was changed since is
noticed by all who read the file. Cells of older code have no seal, and are read as they are. Nothing here needs torch.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from dgd import json_files
from dgd.files import file_hash

RECORD = "provenance.json"
"""The file of a cell that holds the record of the others."""
MOVED = "a copy counts as no second cell: move it out of the benchmark's folder, or delete it"
AGAIN = "delete the cell's folder and train it again"
CHANGED = f"was changed or damaged after it was written (by the SHA-256 in {RECORD}): put back what was there, or {AGAIN}"


def sealed(record: Mapping, hashes: Mapping[str, str]) -> dict:
    """Return a provenance record with a seal, instead of the one that it has.

    Args:
        record: The content of provenance.json.
        hashes: File of the cell -> SHA-256 of its content.
    """
    record = {**json.loads(json.dumps(record)), "sealed": True, "seal": {"files": dict(hashes)}}
    record["seal"]["record"] = _content_hash(record)
    return record


def seal(folder: str | Path) -> dict[str, str] | None:
    """Return file -> SHA-256 of a cell's files when they were written; None where the cell is not sealed.

    Raises:
        ValueError: Its provenance.json is not what was written.
    """
    return _read(Path(folder))[1]


def cell_of(folder: str | Path) -> str | None:
    """Return the path of the cell that a folder's provenance.json is of; None where there is none.

    Raises:
        ValueError: It is not what was written.
    """
    return _read(Path(folder))[0]


def _read(folder: Path) -> tuple[str | None, dict[str, str] | None]:
    path = folder / RECORD
    try:
        stat = path.stat()
    except OSError:
        return None, None
    if not path.is_file():
        raise ValueError(f"{path} is no file; {AGAIN}")
    return _parsed(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4096)
def _parsed(path: Path, mtime: int, size: int) -> tuple[str | None, dict[str, str] | None]:
    """Return what is kept of a record while it does not change; a file of thousands of cells is read by several readers."""
    record = json_files.read(path, AGAIN)
    cell = record.get("cell")
    if not (cell is None or (isinstance(cell, str) and cell.isprintable())):
        raise ValueError(f"{path} is no record of a cell; {AGAIN}")
    if not {"seal", "sealed"} & record.keys():  # two names: damage to one of them makes no cell of older code of it
        return cell, None
    try:
        if record["seal"].pop("record") == _content_hash(record):
            return cell, record["seal"]["files"]
    except (AttributeError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} {CHANGED}")


def misplaced(path: str | Path, cell: str, remedy: str = MOVED) -> ValueError:
    """Return the error of a file that is another cell's than its place says; a name that no folder could have is cut."""
    return ValueError(f"{path} is that of the cell {cell[:200]}; {remedy}")


def root_of(path: str | Path, cell: str, *, renamed: bool = False) -> Path:
    """Return the root of the results that a file of a cell lies below.

    Args:
        path: The file, such as the config.yaml of the cell's folder.
        cell: Path of the cell that the file is of.
        renamed: The folder of the benchmark may have another name, as one that was set aside to be read.

    Raises:
        ValueError: The file lies in a folder that is not the cell's: it is a copy.
    """
    folder, parts = Path(path).absolute().parent, cell.split("/")
    if folder.parts[-len(parts) :][renamed:] != tuple(parts)[renamed:]:
        raise misplaced(path, cell)
    return folder.parents[len(parts) - 1]


def check_seal(folder: str | Path, names: Collection[str]) -> bool:
    """Hold files of a cell to its seal.

    Args:
        folder: The cell's folder.
        names: Files in it; one that is not there is not what was written.

    Returns:
        Whether the cell is sealed; without a seal there is nothing that its files can be held to.

    Raises:
        ValueError: One of the files, or the record itself, is not what was written; names the first.
    """
    hashes = seal(folder)
    for path, found, _ in broken(folder, names):
        if found is None:
            raise ValueError(f"{path}: no such file, and {RECORD} has its hash; {AGAIN}")
        raise ValueError(f"{path} {CHANGED}")
    return hashes is not None


def broken(folder: str | Path, names: Collection[str]) -> Iterator[tuple[Path, str | None, str | None]]:
    """Yield the files of a cell that are not what its seal says, with the hash that each has and the one in the seal.

    Args:
        folder: The cell's folder; without a seal there is nothing that its files can be held to.
        names: Files in it. One that is not there has the hash None, and so has one that the seal does not name.

    Raises:
        ValueError: The record itself is not what was written.
    """
    hashes = seal(folder)
    for name in names if hashes is not None else ():
        path = Path(folder) / name
        found = file_hash(path) if path.is_file() else None
        if found is None or (name != RECORD and found != hashes.get(name)):
            yield path, found, hashes.get(name)


def _content_hash(record: Mapping) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
