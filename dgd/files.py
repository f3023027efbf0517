"""Write files that are either whole or not there."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically: a reader, or a run after a crash, sees the old file or the whole new one.

    Args:
        path: The file; its folder is made.
        content: All of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        follow_umask(temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def follow_umask(path: str | Path) -> None:
    """Give a file that was made for its owner alone (0600, as tempfile does) the mode that any new file has here."""
    umask = os.umask(0o077)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def write_text(path: str | Path, content: str) -> None:
    """Write UTF-8 text atomically; see `write_bytes`."""
    write_bytes(path, content.encode())


def write_json(path: str | Path, content: Mapping) -> None:
    """Write JSON with two-space indents atomically; NaN is refused, because JSON has none."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
