"""The manifest of a benchmark's results: SHA256SUMS, with the SHA-256 of each file, as `sha256sum` writes and checks it.

It holds what no cell's seal does: tables, figures, pruning curves, cells of older code, and that no file came or went. Weights,
and the report are in it where they are there, and may be missing: version control does not keep them.
"""

import fnmatch
import os
import re
from collections.abc import Mapping
from pathlib import Path

from dgd import files, seals

MANIFEST = "SHA256SUMS"
NOT_KEPT = ("*.safetensors", "report.html")
"""Files that a folder of results may lack; with its seal, a cell's manifest has the hash of its weights all the same."""
PASSING = (".*", "*.log", "usage.tsv", "resume.pt", "before.resume.pt")
"""Files that come and go with runs, and hold no result."""
CELL = "*/*/*/seed*/*"
"""The files of cells, below the folder of their benchmark."""
LINE = re.compile(r"([0-9a-f]{64})  ([^\\\n]+)\n")


def may_be_missing(name: str) -> bool:
    """Return whether a folder of results may lack a file that its manifest lists."""
    return any(fnmatch.fnmatch(name.rpartition("/")[2], pattern) for pattern in NOT_KEPT)


def listed(folder: str | Path) -> list[str]:
    """Return the files of a benchmark's folder that belong in its manifest, sorted; logs and hidden files do not."""
    found = []
    for place, folders, names in os.walk(folder):
        inner = Path(place).relative_to(folder)
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        folders[:] = [name for name in folders if not name.startswith(".") and (inner / name).as_posix() != "logs"]
        kept = [name for name in (*names, *links) if not any(fnmatch.fnmatch(name, pattern) for pattern in PASSING)]
        found += [(inner / name).as_posix() for name in kept]
    return sorted(name for name in found if name != MANIFEST)


def write(folder: str | Path) -> Path:
    """Write the manifest of a benchmark's results as they are; return its path.

    Raises:
        ValueError: A file's name has a line break or a backslash in it.
    """
    folder = Path(folder)
    hashes = {name: files.file_hash(folder / name) for name in listed(folder)}
    for path in folder.glob(f"{CELL.rpartition('/')[0]}/{seals.RECORD}"):
        for name, value in (seals.seal(path.parent) or {}).items():
            if may_be_missing(name):  # weights that were left out are held to what was trained
                hashes.setdefault(path.with_name(name).relative_to(folder).as_posix(), value)
    try:
        content = text(hashes)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    files.write_text(folder / MANIFEST, content)
    return folder / MANIFEST


def text(hashes: Mapping[str, str]) -> str:
    """Return a manifest of file -> SHA-256.

    Raises:
        ValueError: A file's name has a line break or a backslash in it.
    """
    lines = {name: f"{value}  {name}\n" for name, value in sorted(hashes.items())}
    for name, line in lines.items():
        if not LINE.fullmatch(line):
            raise ValueError(f"{name!r}: a line break or a backslash is in its name; give it another")
    return "".join(lines.values())


def read(folder: str | Path) -> dict[str, str]:
    """Return file -> SHA-256, as a benchmark's manifest has it.

    Raises:
        ValueError: There is none, or it is not what `write` writes: a line of it is no hash and name, or it is not sorted.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the workflow's last step writes it, or `dgd-bench freeze {folder}`")
    try:
        lines = path.read_bytes().decode().splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8, and must be, as sha256sum writes it") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = LINE.fullmatch(line)
        if not match:
            raise ValueError(f"{path}: line {number} is {line.rstrip()!r}, and must be 64 hex digits, two blanks and a file")
        if found and match[2] <= next(reversed(found)):
            raise ValueError(f"{path}: line {number}, {match[2]}, follows {next(reversed(found))}, and files must be sorted")
        found[match[2]] = match[1]
    return found


def refuse_changed(folder: str | Path, frozen: bool) -> None:
    """Raise ValueError where a manifest that is about to be written would accept a change that no training made.

    A cell that is trained anew gets a seal. So a file of a cell without one, and any file of a cell of a frozen benchmark, is
    what the manifest that is there says; and other files are what their seals say.
    """
    folder = Path(folder)
    for path in sorted(folder.glob(f"{CELL.rpartition('/')[0]}/{seals.RECORD}")):
        seals.check_seal(path.parent, [name for name in seals.seal(path.parent) or () if (path.parent / name).is_file()])
    if not (folder / MANIFEST).is_file():
        return
    for name, value in read(folder).items():
        path = folder / name
        if not fnmatch.fnmatch(name, CELL) or (may_be_missing(name) and not path.is_file()):
            continue
        if (frozen or not seals.seal(path.parent)) and (found := _hash(path)) != value:
            raise ValueError(
                f"{path}: its SHA-256 is {found and found[:12]}, and {MANIFEST} has {value[:12]}: no training changed it; put "
                f"back what was there, or delete {folder / MANIFEST} to take what is there"
            )


def _hash(path: Path) -> str | None:
    return files.file_hash(path) if path.is_file() else None


def faults(folder: str | Path, strict: bool = False) -> tuple[list[str], int]:
    """Return what in a benchmark's folder is not as its manifest says, a line each, and how many files are left out.

    Args:
        folder: The benchmark's results.
        strict: Weights, the report and PDFs must be there too.
    """
    folder, lines, absent = Path(folder), [], 0
    try:
        wanted = read(folder)
    except ValueError as error:
        return [str(error)], 0
    for name, value in wanted.items():
        found = _hash(folder / name)
        if found is None and may_be_missing(name) and not strict:
            absent += 1
        elif found is None:
            lines.append(f"{folder / name}: is not there, and {MANIFEST} has it with SHA-256 {value[:12]}")
        elif found != value:
            lines.append(f"{folder / name}: its SHA-256 is {found[:12]}, and {MANIFEST} has {value[:12]}")
    more = [name for name in listed(folder) if name not in wanted]
    return lines + [f"{folder / name}: is there, and {MANIFEST} does not have it" for name in more], absent
