"""Write files that are either whole or not there, and lock folders that one process at a time writes."""

import errno
import fcntl
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path

from dgd.signals import cleaning

UNFINISHED = ".tmp"
"""How the name of a file ends that is being written; it begins with a dot and the name that it will have."""
LOCK = ".lock"
"""The file in a folder that says who writes the folder."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system without locks answers."""


PATIENCE = 4, 0.02
"""How often a lock is asked for, and seconds between: who reads who holds it, as `holder` does, has it for a moment."""


class Locked(RuntimeError):
    """A folder that another process writes."""


class Lock:
    """The lock on a folder while it is held, and what its holder says there of itself.

    Args:
        handle: The open file; None where the file system has no locks, and nothing is said.
        doing: What is done to the folder.
    """

    def __init__(self, handle: int | None, doing: str):
        self._handle = handle
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._about = {"pid": os.getpid(), "host": platform.node(), "since": since, "doing": doing}

    def say(self, **facts) -> None:
        """Write who holds the lock, and such facts as how far it is."""
        if self._handle is not None:
            content = json.dumps(self._about | facts).encode()
            os.pwrite(self._handle, content, 0)
            os.truncate(self._handle, len(content))


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_if_there(path: Path) -> str | None:
    """Return the SHA-256 of a file's content, read once while it does not change; None where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return _hashed(path, stat.st_mtime_ns, stat.st_size) if path.is_file() else None


@lru_cache(maxsize=4096)
def _hashed(path: Path, mtime: int, size: int) -> str:
    return file_hash(path)


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file atomically: a reader, or a run after a crash, sees the old file or the whole new one.

    Args:
        path: The file; its folder is made.
        content: All of it.

    Raises:
        OSError: It cannot be written; the message names it.
    """
    path = Path(path)
    with _named(path):
        _write(path, content)


def _write(path: Path, content: bytes | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    unlink = partial(Path(temporary).unlink, missing_ok=True)
    try:
        with cleaning(unlink):
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            follow_umask(temporary)
            os.replace(temporary, path)
    except BaseException:
        unlink()
        raise
    _sync(path.parent)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have an error of the file system name the file that was to be written; that of a full disk names none, or a temporary."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", str(path)) from error


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
    write_bytes(path, json_bytes(content))


def json_bytes(content: Mapping) -> bytes:
    """Return what `write_json` writes."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def remove(path: str | Path) -> None:
    """Delete a file if it is there, so that it is gone after a crash of the machine too."""
    path = Path(path)
    if path.exists():
        path.unlink(missing_ok=True)
        _sync(path.parent)


def remove_unfinished(folder: str | Path, names: Collection[str]) -> None:
    """Delete what processes that were killed while they wrote some files left of these; call it with the folder locked."""
    for name in names:
        for path in Path(folder).glob(f".{name}.*{UNFINISHED}"):
            path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk: a rename or a deletion may otherwise be lost, or come before an earlier one."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # not every file system can do this for a folder
        pass
    finally:
        os.close(handle)


@contextmanager
def locked(folder: str | Path, doing: str = "written") -> Iterator[Lock]:
    """Hold the lock on a folder, which is made; the kernel frees it when the process ends, however that ends.

    On a file system without locks it is said once, and nothing is locked.

    Args:
        folder: The folder; it has a file `LOCK` as long as the lock is held.
        doing: What is done to the folder, for others who want the lock.

    Raises:
        Locked: Another process, or another part of this one, has the lock; the message names it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, handle = folder / LOCK, None
    try:
        with _named(path):
            handle = _take(path)
            lock = Lock(handle, doing)
            lock.say()
        with cleaning(partial(path.unlink, missing_ok=True)) if handle is not None else nullcontext():
            yield lock
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)  # before the lock is freed: nobody else's can have this name
            os.close(handle)


def holder(folder: str | Path) -> dict | None:
    """Return what the process that holds the lock on a folder says there of itself; None where none does, or none can."""
    try:
        handle = os.open(Path(folder) / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        found = _about(os.pread(handle, 4096, 0))
        return found if isinstance(found, dict) else {}
    except OSError:
        return None
    finally:
        os.close(handle)


def _about(text: bytes):
    """Return what a lock's file says, whatever is left behind it of a longer text; None where its holder is just writing it."""
    try:
        return json.JSONDecoder().raw_decode(text.decode())[0]
    except ValueError:
        return None


def _take(path: Path) -> int | None:
    """Return the open file whose lock is taken; None where there are no locks."""
    tries, seconds = PATIENCE
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(handle, path):
                return handle
            os.close(handle)  # its holder deleted it after it was opened here
        except BlockingIOError:
            text = os.pread(handle, 4096, 0)
            os.close(handle)
            tries -= 1
            if tries:
                time.sleep(seconds)
                continue
            raise Locked(f"{path.parent} {_holder(text)}; wait for it, or end it") from None
        except OSError as error:
            os.close(handle)
            if error.errno not in NO_LOCKS:
                raise
            path.unlink(missing_ok=True)
            _say_once(f"{path.parent}: no locks on this file system ({error.strerror}): start nothing twice on one folder")
            return None


def _is(handle: int, path: Path) -> bool:
    """Return whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _holder(text: bytes) -> str:
    try:
        return "is being {doing} by process {pid} on {host} since {since}".format(**_about(text))
    except (TypeError, KeyError):
        return "is being written by another process"


_SAID: set[str] = set()


def _say_once(line: str) -> None:
    kind = line.partition(": ")[2]
    if kind not in _SAID:
        _SAID.add(kind)
        print(line, file=sys.stderr)
