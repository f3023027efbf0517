"""Run the plain code in a process of its own: ours changes settings of its process (allocator, deterministic algorithms).

`python -m speed.plain_process` reads requests and answers each with seconds and CPU-seconds, one line of JSON each.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from dgd.cell import Cell
from speed import ROOT, plain, plain_ffsd

TRAININGS = {"loop": plain.Training, "ffsd": plain_ffsd.Training}


class PlainProcess:
    """Ask the plain code, in another process, to do things and to time them.

    The process starts with the first request and serves all later ones.

    Args:
        threads: CPU threads of torch.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "PlainProcess":
        return self

    def __exit__(self, *_) -> None:
        if self._process:
            self._process.stdin.close()
            self._process.wait()

    def start(self, cell: Cell, images: int) -> None:
        """Set up the plain loop for the group of a cell.

        Args:
            cell: Its student, teachers, number of networks and recipe count.
            images: Number of images of the data set.
        """
        teachers = [cell.teacher] * len(cell.teachers)
        self._start("loop", cell, teachers=teachers, networks=cell.networks, images=images)

    def start_ffsd(self, cell: Cell) -> None:
        """Set up the plain step of FFSD for a cell, and warm it up."""
        self._start("ffsd", cell)
        for name in ("baseline", "train"):
            self.call(name, steps=2)

    def warm_up(self, least_seconds: float) -> float:
        """Train for so many seconds, at least one step and at most ten; return the seconds of the last step."""
        total, steps = 0.0, 0
        while steps == 0 or (total < least_seconds and steps < 10):
            last = self.call("train", steps=1)[0]
            total, steps = total + last, steps + 1
        return last

    def call(self, name: str, **arguments) -> tuple[float, float]:
        """Call a method of the training that was set up last, and return its seconds and CPU-seconds."""
        return self._ask(call=name, arguments=arguments)

    def _start(self, kind: str, cell: Cell, **arguments) -> None:
        arguments |= {"student": cell.student, "batch_size": cell.recipe.batch_size, "recipe": cell.plain()["recipe"]}
        self._ask(start=kind, threads=self.threads, arguments=arguments)

    def _ask(self, **request) -> tuple[float, float]:
        if self._process is None:
            command = [sys.executable, "-m", "speed.plain_process"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the process of the plain code has ended; its message is above")
        return tuple(json.loads(answer))


def cpu_seconds() -> float:
    """Return user and system time of this process and of the workers that it has now."""
    ticks = 0
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()  # from the third field on
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Answer requests until the input ends.

    {"start": "loop" or "ffsd", "threads": 1, "arguments": {...}} makes a training, {"call": "train", "arguments": {...}} calls
    its method.
    """
    torch.backends.cudnn.benchmark = True  # as public training code sets it
    training = None
    for line in sys.stdin:
        request = json.loads(line)
        cpu, start = cpu_seconds(), time.perf_counter()
        if "start" in request:
            torch.set_num_threads(request["threads"])
            training = None  # first: two groups and their workers at once would be in each other's way
            training = TRAININGS[request["start"]](**request["arguments"])
        else:
            getattr(training, request["call"])(**request["arguments"])
        print(json.dumps([time.perf_counter() - start, cpu_seconds() - cpu]), flush=True)


if __name__ == "__main__":
    main()
