"""Real commands in processes of their own, that are killed at some moment, and what is left of them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dgd import files
from dgd.train.record import RESUME
from speed import PARTS, copy_workflow
from tests.helpers import ROOT, files_but_timings

BIN = Path(sys.executable).parent
SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}
BENCHMARK = {
    "benchmark": "t",
    "seeds": [0],
    "datasets": ["digits"],
    "pairs": [{"student": "cifar_resnet8", "teacher": "cifar_resnet20"}],
    "methods": ["dgd"],
}
RECIPE = {"epochs": 4, "batch_size": 20, "lr": 0.02, "device": "cpu", "precision": "fp32", "channels_last": False}


def benchmark(folder: Path, recipe: Mapping = {}, **keys) -> Path:
    """Write a benchmark of a few digits, whose data lie beside it."""
    data = {"dir": str(folder / "data"), "train_images": 40, "validation_images": 20}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "t.yaml"
    path.write_text(yaml.safe_dump({**BENCHMARK, "data": data, **keys, "recipe": {**RECIPE, **recipe}}, sort_keys=False))
    return path


def repository(folder: Path) -> Path:
    """Copy what the workflow is made of."""
    folder.mkdir(parents=True, exist_ok=True)
    copy_workflow(folder, (*PARTS, "config"))
    return folder


def environment(folder: Path = ROOT, **more: str) -> dict[str, str]:
    """Return the variables of a command whose code lies in a folder."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE_", "DVC_", "DGD_"))}
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), "PATH": f"{BIN}{os.pathsep}{env['PATH']}"}
    return {**env, **own, **more}


def _interruptible() -> None:
    """Take Ctrl-C as a shell's foreground does: these tests may themselves run in a background, where it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Command:
    """A command and all processes that it starts, which have a variable of their own in common.

    Attributes:
        words: The command line.
        printed: The file for what is printed.
        folder: Where it runs.
        variables: Set in its environment.
    """

    words: Sequence[str]
    printed: Path
    folder: Path = ROOT
    variables: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()

    def start(self) -> subprocess.Popen:
        """Start it, in a session and a group of processes of its own, as a terminal does."""
        self.token = uuid.uuid4().hex
        self.printed.parent.mkdir(parents=True, exist_ok=True)
        env = environment(self.folder, **self.variables, DGD_TEST=self.token)
        with self.printed.open("w") as file:
            self.process = subprocess.Popen(
                [*self.prefix, *self.words],
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=_interruptible,
            )
        return self.process

    def run(self, seconds: float = 600) -> str:
        """Run it to its end, which must be a good one; return what it printed."""
        assert self.start().wait(seconds) == 0, self.printed.read_text()
        assert self.left() == []
        return self.printed.read_text()

    def left(self, seconds: float = 20) -> list[str]:
        """Return the command lines of its processes that have not ended after some seconds."""
        deadline = time.monotonic() + seconds
        while (found := list(self.processes().values())) and time.monotonic() < deadline:
            self.process.poll()
            time.sleep(0.05)
        return found

    def processes(self) -> dict[int, str]:
        """Return number -> command line of its processes."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"DGD_TEST={self.token}".encode() in path.read_bytes():
                    line = (path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if line:  # else it has ended and its parent has not asked how
                        found[int(path.parent.name)] = line
        return found

    def kill(self, number: signal.Signals, after: float, whom: Callable[[], int] | None = None) -> bool:
        """Send a signal after some seconds; return whether the command still ran.

        Ctrl-C reaches all processes of the group, as from a terminal; the others one process.

        Args:
            number: The signal.
            after: Seconds after its start.
            whom: Gives the number of another process than the command itself.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(after)
            return False
        self.ready = catches(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGINT:
                os.killpg(self.process.pid, number)
            else:
                os.kill(whom() if whom else self.process.pid, number)
        self.process.wait(120)
        return True

    def lines(self) -> list[str]:
        """Return what was printed, without progress bars and what is said of cells that are done."""
        text = re.split("[\r\n]+", self.printed.read_text())
        return [line for line in text if line.strip() and "epoch" not in line and "already there" not in line]


def catches(pid: int, number: signal.Signals) -> bool:
    """Return whether a process handles a signal: before, it is Python that starts, or a program of another kind."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1)


def dgd_bench(*words: str | Path, printed: Path, **keys) -> Command:
    """Return a command line of `dgd-bench`."""
    return Command([sys.executable, "-m", "dgd.cli", *map(str, words)], printed, **keys)


def snakemake(repo: Path, config: Path, *options: str) -> Command:
    """Return a run of the workflow; it plans without torch."""
    words = ["snakemake", "--cores", "2", "--latency-wait", "2", "--configfile", str(config), *options]
    return Command(words, repo / "printed", repo, {"DGD_NETWORKS": "no", "XDG_CACHE_HOME": str(repo / ".cache")})


def results(root: Path) -> dict[str, tuple]:
    """Return what the cells below a root of results have in common with the same cells elsewhere."""
    return {str(path.parent.relative_to(root)): files_but_timings(path.parent) for path in root.rglob("metrics.json")}


def unfinished(root: Path) -> list[str]:
    """Return what a command that is done must not leave: files that are being written, locks, resume points."""
    names = (path.relative_to(root) for path in root.rglob("*") if path.name.startswith(".") or RESUME in path.name)
    return sorted(str(path) for path in names if path.name != ".snakemake_timestamp")


def check_cells(root: Path, whole: Mapping[str, tuple]) -> None:
    """Hold the cells that are there to those of a run that was not broken off; none may be locked."""
    for name, cell in results(root).items():
        assert cell == whole[name], name
    for path in root.rglob(files.LOCK):
        take_lock(path.parent)


def take_lock(folder: Path, seconds: float = 60) -> None:
    """Take a lock and free it; a process that is ending gives up its files after its memory, by which it was seen."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with files.locked(folder):
                return
        except files.Locked:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
