"""Train hundreds of tiny cells by Snakemake while jobs and Snakemake itself are killed: `python -m tests.faults.soak --docs`.

Nothing may be lost, every cell must be the one that it is alone, and neither memory nor open files may grow.
"""

import argparse
import json
import os
import platform
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tabulate import tabulate

from dgd import config, running
from dgd.files import write_text
from tests.faults.commands import Command, benchmark, repository, unfinished
from tests.helpers import ROOT, files_but_timings

METHODS = (
    "baseline",
    "grafting",
    {"slow": {"base": "baseline", "recipe": {"lr": 0.001}}},
    {"averaged": {"base": "baseline", "recipe": {"weight_average": "ema"}}},
    {"noise": {"base": "grafting", "exchange": {"name": "noise"}}},
)
TOGETHER = 25
"""Cells of a job: a process imports torch for some seconds, and a cell trains for less than one."""
PAGE = os.sysconf("SC_PAGE_SIZE") / 2**20
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"


@dataclass
class Sample:
    """What a moment of the run looked like: seconds since its start, cells done, kills so far, and MiB and open files."""

    seconds: float
    done: int
    kills: int
    snakemake: tuple[float, int]
    job: tuple[float, int]


@dataclass
class Soak:
    """A run: its folder, its samples, and what was killed."""

    repo: Path
    cells: int
    kills: int
    seed: int
    samples: list[Sample] = field(default_factory=list)
    killed: Counter = field(default_factory=Counter)
    starts: int = 0

    def run(self, every: tuple[float, float] = (15.0, 60.0)) -> None:
        """Start Snakemake again and again until it ends well; kill something at random moments, some seconds apart."""
        chosen, begun = random.Random(self.seed), time.monotonic()
        path = self.config()
        while True:
            if list((self.repo / ".snakemake" / "locks").glob("*")):
                self.command(path, "--unlock").run()
            command = self.command(path)
            process, self.starts = command.start(), self.starts + 1
            moment = time.monotonic() + chosen.uniform(*every)
            while process.poll() is None:
                time.sleep(1)
                self.sample(command, begun)
                if time.monotonic() > moment and self.killed.total() < self.kills:
                    self.kill(command, chosen)
                    moment = time.monotonic() + chosen.uniform(*every)
            assert command.left(60) == []
            print(f"{time.monotonic() - begun:.0f} s: ended with {process.returncode}, {self.samples[-1]}", flush=True)
            if process.returncode == 0:
                return
            assert self.starts < 10 + 2 * self.kills, command.printed.read_text()[-3000:]

    def config(self) -> Path:
        """Write the benchmark."""
        keys = {"seeds": list(range(self.cells // len(METHODS))), "methods": list(METHODS), "together": TOGETHER}
        data = {"dir": "data", "train_images": 40, "validation_images": 20}
        pairs = [{"student": "cifar_resnet8"}]
        return benchmark(self.repo, {"epochs": 2, "evaluate_every": 2}, pairs=pairs, data=data, **keys)

    def command(self, path: Path, *options: str) -> Command:
        """Return a command line of Snakemake, which plans without torch."""
        words = ["snakemake", "--cores", "2", "--quiet", "rules", "--configfile", path.name, *options]
        return Command(words, self.repo / "printed", self.repo, {"DGD_NETWORKS": "no", "XDG_CACHE_HOME": str(self.repo)})

    def jobs(self, command: Command) -> list[int]:
        """Return the processes that train."""
        return [pid for pid, line in command.processes().items() if "-m pipeline.train" in line and "bash -c" not in line]

    def kill(self, command: Command, chosen: random.Random) -> None:
        """Kill a job, or Snakemake itself in one of three ways."""
        jobs, pid = self.jobs(command), command.process.pid
        with suppress(ProcessLookupError):
            if jobs and chosen.random() < 0.6:
                os.kill(chosen.choice(jobs), signal.SIGKILL)
                self.killed["a job, SIGKILL"] += 1
            else:
                number = chosen.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
                (os.killpg if number == signal.SIGINT else os.kill)(pid, number)
                self.killed[f"Snakemake, {number.name}"] += 1

    def sample(self, command: Command, begun: float) -> None:
        """Look at Snakemake and its jobs."""
        jobs = [looked_at(pid) for pid in self.jobs(command)]
        done = sum(1 for _ in (self.repo / "results").glob("*/*/*/*/seed*/metrics.json"))
        largest = max((memory for memory, _ in jobs), default=0.0), max((files for _, files in jobs), default=0)
        self.samples.append(
            Sample(time.monotonic() - begun, done, self.killed.total(), looked_at(command.process.pid), largest)
        )

    def check(self, alone: int) -> None:
        """Hold all cells to what they should be, some of them to the same cell trained alone."""
        from dgd import train

        cells = config.cells(config.load(self.repo / "t.yaml"))
        assert len(cells) == self.cells
        root = self.repo / "results"
        for cell in cells:
            assert json.loads((root / cell.path / "metrics.json").read_text())["status"] == "finished", cell.path
        assert (left := unfinished(root)) == [], left
        before = Path.cwd()
        os.chdir(self.repo)
        try:
            for cell in random.Random(self.seed).sample(cells, alone):
                train.train_cell(cell, results="alone", data=running.prepared(cell))
                assert files_but_timings(Path("alone") / cell.path) == files_but_timings(root / cell.path), cell.path
        finally:
            os.chdir(before)
        for name in ("cells.csv", "report.html", "tables/results.md"):
            assert (root / "t" / name).is_file()

    def table(self, rows: int = 10) -> str:
        """Return the largest values of parts of the run, of equal length, as Markdown."""
        last, found = self.samples[-1].seconds, []
        for k in range(rows):
            part = [one for one in self.samples if k / rows <= one.seconds / last <= (k + 1) / rows]
            if part:
                most = [max(getattr(one, who)[i] for one in part) for who in ("snakemake", "job") for i in (0, 1)]
                found.append([f"{part[-1].seconds:.0f}", part[-1].done, part[-1].kills, *(f"{value:.0f}" for value in most)])
        headers = ["s", "cells done", "kills", "Snakemake, MiB", "files", "job, MiB", "files"]
        return tabulate(found, headers=headers, tablefmt="pipe", disable_numparse=True)

    def text(self, alone: int) -> str:
        """Return what a reader wants to know of the run, and its table."""
        what = ", ".join(f"{n} of {name}" for name, n in sorted(self.killed.items()))
        day, minutes = datetime.now(UTC).date(), self.samples[-1].seconds / 60
        return (
            f"{self.cells} cells in jobs of {TOGETHER}, `snakemake --cores 2`, on {day}: {cpu()}, {os.cpu_count()} cores, "
            f"at nice {os.nice(0)}. {self.killed.total()} kills ({what}), {self.starts} starts, {minutes:.0f} minutes. All "
            f"{self.cells} cells are there; {alone} of them, drawn at random, were trained again alone and are equal byte for "
            "byte. Memory (resident) and open files are the largest of a tenth of the run, of one process.\n\n"
            f"{self.table()}\n"
        )


def looked_at(pid: int) -> tuple[float, int]:
    """Return the resident MiB and the number of open files of a process; zeros where it has ended."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
        return resident, len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except (OSError, IndexError):
        return 0.0, 0


def cpu() -> str:
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Run the soak and print its figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cells", type=int, default=500, help=f"a multiple of {len(METHODS)}")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--alone", type=int, default=20, help="cells that are trained again alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", action="store_true", help="write the figures into docs/reliability.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(repository(Path(folder)), args.cells, args.kills, args.seed)
        soak.run()
        soak.check(args.alone)
    text = soak.text(args.alone)
    print(text)
    if args.docs:
        path = ROOT / "docs" / "reliability.md"
        before, _, rest = path.read_text().partition(BEGIN)
        write_text(path, f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
