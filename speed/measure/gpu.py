"""Measure our loop on a GPU: eager, replayed as a CUDA graph, with cells side by side, compiled; the plain loop; the limit.

Each row has a process of its own, `python -m speed.measure.gpu <row as JSON>`, because a capture that fails leaves a process
without CUDA. On a CPU everything runs as it is, and shows only that it runs.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import torch

from dgd import codehash, provenance
from dgd.train import CannotCapture
from dgd.train.graphs import EAGER
from speed import ROOT
from speed.measure.setup import METHODS, Gpu, Setup
from speed.measure.timing import Times, in_turn, summary, timed
from speed.ours import Ours, make_cell, pick_device, train_in_turn, with_networks
from speed.plain_process import PlainProcess

OVER = "the time was over"
STARTED = "SPEED_STARTED"
"""Environment variable: when a row's process was started, as `time.time` counts."""


@dataclass(frozen=True)
class Row:
    """What one process measures: a model with a method, its networks compiled or not."""

    model: str
    teacher: str
    method: str
    compiled: bool

    @property
    def key(self) -> tuple[str, str]:
        """Return what stands for the row in the table."""
        return self.model, self.method

    def __str__(self) -> str:
        return f"{self.model} {self.method}" + ", compiled" * self.compiled


def measure(setup: Setup) -> dict:
    """Return the rows, and those that were left out because the time was over; the most important ones come first.

    Rows of the same code on the same card that were measured before are kept as they are, so that a table can be made in
    several runs.
    """
    until, stamp = time.monotonic() + setup.seconds, {"card": card(), "code_sha256": code()}
    held = {(row["model"], row["method"]): row for row in setup.before.get("rows", ()) if stamp.items() <= row.items()}
    left_out = []
    for wanted in wanted_rows(setup.size.gpu):
        row = held.setdefault(wanted.key, {"model": wanted.model, "method": wanted.method, **stamp, "errors": {}})
        part = "compiled" if wanted.compiled else "loops"
        if row.get(f"{part}_finished"):
            continue
        if time.monotonic() >= until:
            left_out.append(str(wanted))
            continue
        found, error = in_process(setup, wanted, until)
        speeds = row.get("images_per_second", {}) | found.pop("images_per_second", {})
        row |= found | {"images_per_second": speeds, "git": provenance.git()}
        row["errors"].pop(part, None)
        if error:
            row["errors"][part] = error
        if error == OVER:
            left_out.append(str(wanted))
        else:
            row[f"{part}_finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        shown = {arm: round(values["median"], 1) for arm, values in speeds.items()}
        print(f"{wanted}: {shown} images/s" + (f"; {error}" if error else ""), flush=True)
    if left_out:
        print(f"not measured, because {OVER}: {'; '.join(left_out)}", flush=True)
    return {"rows": [row for row in held.values() if row.get("images_per_second") or row["errors"]], "left_out": left_out}


def wanted_rows(gpu: Gpu) -> list[Row]:
    """Return the rows in order of importance; compiling takes longest, so it comes last."""
    return [
        Row(student, teacher, method, compiled)
        for compiled in (False, True)
        for student, teacher in gpu.models.items()
        for method in gpu.methods
    ]


def card() -> str:
    """Return the name of what is measured."""
    device = pick_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def code() -> str:
    """Return a hash of the code of the loop and of its measurement."""
    return codehash.digest(codehash.package_files() | codehash.package_files("speed"))


def in_process(setup: Setup, row: Row, until: float) -> tuple[dict, str | None]:
    """Return what a row's process measured, also where it did not come to its end, and why it did not.

    Where a step cannot be captured, another process measures the row with that step as it is.
    """
    found, error = _ask(setup, row, until, {})
    if eager := found.pop("cannot_capture", None):
        why = error
        found, error = _ask(setup, row, until, eager)
        error = "; ".join(filter(None, (why, error if error != why else None)))
    return found, error


def _ask(setup: Setup, row: Row, until: float, eager: Mapping[str, str]) -> tuple[dict, str | None]:
    request = {"row": vars(row), "gpu": vars(setup.size.gpu), "threads": setup.threads}
    command = [sys.executable, "-m", "speed.measure.gpu", json.dumps(request)]
    env = os.environ | {EAGER: json.dumps(eager), STARTED: str(time.time())}
    left = min(until - time.monotonic(), 1e6)
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=max(left, 0.1))
    except subprocess.TimeoutExpired as over:
        return _last(over.stdout), OVER
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"its process ended with {done.returncode}"]
    return _last(done.stdout), lines[-1].strip()[:300] if done.returncode else None


def _last(printed: str | bytes | None) -> dict:
    """Return what a process printed last, whole."""
    text = printed.decode() if isinstance(printed, bytes) else printed or ""
    lines = [line for line in text.rpartition("\n")[0].splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}


# ---------------------------------------------------------------------------------------------------- a row's process


def main(request: str) -> None:
    """Measure one row, and print what is known of it after each stage, as a line of JSON."""
    asked = json.loads(request)
    row, gpu, threads = Row(**asked["row"]), Gpu(**asked["gpu"]), asked["threads"]
    found = {"images_per_second": {}}
    try:
        (_compiled if row.compiled else _loops)(row, gpu, threads, found)
    except CannotCapture as error:
        print(json.dumps({"cannot_capture": {error.path: error.why}}), flush=True)
        raise


def _loops(row: Row, gpu: Gpu, threads: int, found: dict) -> None:
    """Measure our loop with its steps replayed and as they are, several cells, the plain loop and the limit."""
    networks, cell = METHODS[row.method][1], _cell(row, gpu, threads)
    ours = Ours(cell, gpu.steps)
    ours.train()  # warm-up and capture are in it
    first = time.time() - float(os.environ[STARTED])
    found |= {
        "teacher": cell.teacher,
        "networks": networks,
        "batch_size": gpu.batch_size,
        "recipe": cell.plain()["recipe"],
        "how": {"captured": ours.how},
        "steps": {"captured": gpu.steps, "eager": gpu.eager_steps},
        "repeats": gpu.repeats,
        "cells": gpu.together,
        "moved_bytes": ours.moved_bytes(),
    }
    # What the product does comes first: if the time ends here, it is known.
    _time(found, {"captured": (ours.train, networks * gpu.steps)}, gpu)
    epoch = networks * gpu.steps * gpu.batch_size / found["images_per_second"]["captured"]["median"]
    found["start_seconds"] = round(first - epoch, 1)
    if row.method in ("baseline", "kd"):
        several = [ours, *(Ours(cell, gpu.steps) for _ in range(gpu.together - 1))]
        train_in_turn(several, 1)  # the others' warm-up and capture
        work = partial(train_in_turn, several, gpu.epochs), gpu.together * gpu.epochs * gpu.steps
        _time(found, {"together": work}, gpu)
        del several, work
    eager = Ours(_cell(row, gpu, threads, graphs=False), gpu.eager_steps)
    limit = eager.replayed_limit(gpu.steps)
    arms = {
        "eager": (eager.train, networks * gpu.eager_steps),
        "limit_eager": (eager.run_limit, networks * gpu.eager_steps),
        "limit_captured": (limit, networks * gpu.steps),
    }
    for function, _ in arms.values():
        function()  # warm-up
    _time(found, arms, gpu)
    with PlainProcess(threads) as plain:
        plain.start(cell, gpu.steps * gpu.batch_size)
        plain.warm_up(gpu.warm_up)
        asked = partial(plain.call, "train", steps=gpu.plain_steps)
        _record(found, {"plain": in_turn({"plain": asked}, gpu.repeats)["plain"]}, {"plain": networks * gpu.plain_steps}, gpu)


def _compiled(row: Row, gpu: Gpu, threads: int, found: dict) -> None:
    """Measure our loop with compiled networks."""
    ours = Ours(_cell(row, gpu, threads, compile=True), gpu.eager_steps)
    ours.train()  # compiles
    found["compiled_start_seconds"] = round(time.time() - float(os.environ[STARTED]), 1)
    found["compiled_how"] = ours.how
    _time(found, {"compiled": (ours.train, METHODS[row.method][1] * gpu.eager_steps)}, gpu)


def _cell(row: Row, gpu: Gpu, threads: int, **recipe):
    base, networks = METHODS[row.method]
    item = with_networks(base, networks)
    return make_cell(row.model, row.teacher, item, threads, batch_size=gpu.batch_size, **recipe)


def _time(found: dict, arms: Mapping[str, tuple[Callable[[], object], int]], gpu: Gpu) -> None:
    """Time functions in turn, each with the number of its batches, and print what is known."""
    taken = in_turn({name: partial(timed, function) for name, (function, _) in arms.items()}, gpu.repeats)
    _record(found, taken, {name: batches for name, (_, batches) in arms.items()}, gpu)


def _record(found: dict, taken: Mapping[str, list[Times]], batches: Mapping[str, int], gpu: Gpu) -> None:
    for name, times in taken.items():
        images = batches[name] * gpu.batch_size
        found["images_per_second"][name] = summary([images / seconds for seconds, _ in times])
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
