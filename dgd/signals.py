"""End a command on SIGINT (Ctrl-C) or SIGTERM with one line, whatever it is doing, its imports included.

The process ends in the signal's handler and no exception is raised: one that comes while a module is imported, or out of a
destructor, is printed as a traceback or lost. What would be left behind is taken away by what `cleaning` was told; all else is
safe, because files are written whole and the kernel frees locks.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ENDING = (signal.SIGINT, signal.SIGTERM)
LAUNCHER = "DGD_LAUNCHER"
"""Environment variable: the workflow's process, as `process_name` gives it; a command of the workflow ends with it."""
_CLEANERS: list[Callable[[], object]] = []


def watch() -> None:
    """Handle signals if this process is a command of ours: `dgd-bench`, or `python -m` of one of our modules."""
    name = command()
    if not name:
        return
    pid = os.getpid()

    def end(number: int, _) -> None:
        if os.getpid() == pid:  # a child that was forked inherits the handler, and says nothing
            for other in ENDING:
                signal.signal(other, signal.SIG_IGN)
            _say(name, "interrupted" if number == signal.SIGINT else "ended by SIGTERM")
            _clean()
        os._exit(128 + number)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, end)
    if launcher := os.environ.get(LAUNCHER):
        threading.Thread(target=_end_with, args=(launcher, name), daemon=True).start()


def command() -> str | None:
    """Return the name of the command of ours that this process runs; None where it is another program."""
    if Path(sys.argv[0]).name == "dgd-bench":
        return "dgd-bench"
    words = sys.orig_argv
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    if module.split(".")[0] in ("dgd", "pipeline"):
        return "dgd-bench" if module.startswith("dgd.") else module
    return None


@contextmanager
def cleaning(clean: Callable[[], object]) -> Iterator[None]:
    """Have a function called if a signal ends the process within this block."""
    _CLEANERS.append(clean)
    try:
        yield
    finally:
        _CLEANERS.remove(clean)


def process_name(pid: int) -> str | None:
    """Return a name of a process that no later one gets, its number and start; None where it is gone or cannot be looked up."""
    try:
        return f"{pid}:{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return None


def _clean() -> None:
    for clean in reversed(_CLEANERS):
        with suppress(Exception):
            clean()
    if "multiprocessing" in sys.modules:
        import multiprocessing

        for child in multiprocessing.active_children():
            child.terminate()


def _say(name: str, what: str) -> None:
    if "RANK" not in os.environ:  # for a torchrun's processes their launcher speaks
        with suppress(OSError):
            os.write(2, f"\n{name}: {what}; the same command goes on\n".encode())


def _end_with(launcher: str, name: str) -> None:
    """End this process when the workflow's process is gone, e.g. killed: a new one would find the cell's folder locked."""
    pid = int(launcher.partition(":")[0])
    if process_name(pid) != launcher:  # on another machine, or in a container
        return
    while process_name(pid) == launcher:
        time.sleep(0.5)
    _say(name, "snakemake is gone")
    _clean()
    os._exit(1)
