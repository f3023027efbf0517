"""Measure speed on this machine, on CUDA where there is one: `python -m benchmarks.measure`, about 25 minutes on a CPU.

Writes benchmarks/results/<machine>.json, which `python -m benchmarks.report` renders; benchmarks/README.md says what each
figure is. What is compared is timed in turn, repeat by repeat: a machine that slows down for a while slows down all of it.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml

from benchmarks import ROOT, copy_workflow
from benchmarks.plain import CLASSES, MEAN, SIZE, STD, random_images
from dgd import methods, models, provenance, training
from dgd.config import cells
from dgd.data import Dataset
from dgd.files import write_bytes
from dgd.memory import EVALUATION_BATCH
from dgd.surgery import SURGERY

BATCH = 64
METHODS = {
    "baseline": ("baseline", 1),
    "kd": ("kd", 1),
    "grafting": ("grafting", 2),
    "grafting-4": ("grafting", 4),
    "dgd": ("dgd", 2),
}
PRECISIONS = ("fp32", "bf16")
VARIANTS = {
    "hkd-512": {"base": "hkd", "objective": {"ce": 1.0, "hkd": {"weight": 3.0, "negatives": 512}}},
    "hkd-4096": {"base": "hkd", "objective": {"ce": 1.0, "hkd": {"weight": 3.0, "negatives": 4096}}},
    "dml-turns": {"base": "dml", "objective": {"ce": 1.0, "mutual": {"weight": 1.0, "batches": "turns"}}},
    "dml-own": {"base": "dml", "objective": {"ce": 1.0, "mutual": {"weight": 1.0, "batches": "own", "reduce": "sum"}}},
    "self-explanation-10": {
        "base": "self-explanation",
        "objective": {"ce": 1.0, "explanation": {"weight": 1.0, "classes": 10}},
    },
}
"""Rows whose options change what a step takes: others have published times of them, or config/zoo.yaml trains them."""

Times = tuple[float, float]  # seconds, CPU-seconds


@dataclass(frozen=True)
class Size:
    """How much is measured: `models` (student -> teacher) and `methods`, and how often and how long each.

    Attributes:
        images: Of the plain loop's data set.
        seconds: What a repeat of the plain loop should last; it is at least two steps.
        headline: The row that is measured with `headline_steps`, `headline_repeats`, and in float32 as well.
        rows: Of the method table, or of `VARIANTS`, whose step is timed as a multiple of baseline's, with the headline's model.
        row_steps: A repeat of these; on CUDA 25 times as many, or what an epoch's end takes would show.
        row_repeats: How many.
        exchange: Models whose exchange is timed, in groups of `groups` networks.
        memory: Model, method and number of networks of the groups whose memory is measured.
        matrix: Side of the matrices that are multiplied; four times that on CUDA.
        copied: Bytes of the block that is copied; alike.
        runs: How often the small benchmark is run from `snakemake` on, of so many cells: `seeds`.
    """

    models: Mapping[str, str]
    methods: Sequence[str]
    images: int
    seconds: float
    repeats: int
    headline: tuple[str, str]
    headline_steps: int
    headline_repeats: int
    rows: Sequence[str]
    row_steps: int
    row_repeats: int
    exchange: Sequence[str]
    groups: Sequence[int]
    memory: Sequence[tuple[str, str, int]]
    matrix: int
    copied: int
    runs: int
    seeds: int


FULL = Size(
    models={
        "cifar_resnet20": "cifar_resnet56",
        "cifar_resnet32": "cifar_resnet56",
        "cifar_resnet56": "cifar_resnet110",
        "cifar_resnet110": "cifar_resnet56",
        "cifar_mobilenetv2": "cifar_resnet56",
        "mobilenetv3_small_100": "cifar_resnet56",
        "resnet18": "cifar_resnet56",
    },
    methods=tuple(METHODS),
    images=50_000,
    seconds=1.5,
    repeats=3,
    headline=("cifar_resnet20", "kd"),
    headline_steps=20,
    headline_repeats=5,
    rows=(*methods.METHODS, *VARIANTS),
    row_steps=2,
    row_repeats=9,
    exchange=("cifar_resnet20", "cifar_resnet56", "cifar_resnet110", "cifar_mobilenetv2"),
    groups=(2, 4, 8),
    memory=(
        *(("cifar_resnet20", "baseline" if n == 1 else "grafting", n) for n in (1, 2, 4, 8)),
        ("cifar_resnet56", "dgd", 2),
        ("cifar_resnet110", "baseline", 1),
        ("cifar_mobilenetv2", "dgd", 2),
        ("resnet18", "baseline", 1),
        ("resnet18", "grafting", 4),
    ),
    matrix=2048,
    copied=1 << 28,
    runs=3,
    seeds=4,
)
QUICK = Size(
    models={"cifar_resnet8": "cifar_resnet8"},
    methods=("kd", "grafting"),
    images=4 * BATCH,
    seconds=0.0,
    repeats=1,
    headline=("cifar_resnet8", "kd"),
    headline_steps=2,
    headline_repeats=2,
    rows=("baseline", "kd", "crd", "dml-turns", "ffsd", "repr"),
    row_steps=1,
    row_repeats=1,
    exchange=("cifar_resnet8",),
    groups=(2,),
    memory=(("cifar_resnet8", "baseline", 1), ("cifar_resnet8", "grafting", 2)),
    matrix=256,
    copied=1 << 20,
    runs=1,
    seeds=1,
)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest, to five digits."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {key: float(f"{value:.5g}") for key, value in found.items()}


def in_turn(arms: Mapping[str, Callable[[], Times]], repeats: int) -> dict[str, list[Times]]:
    """Time each arm once, then each again, and so on."""
    taken = {name: [] for name in arms}
    for _ in range(repeats):
        for name, arm in arms.items():
            taken[name].append(arm())
    return taken


def timed(function: Callable[[], object]) -> Times:
    """Run it, and wait until the device is done."""
    _wait()
    cpu, start = time.process_time(), time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - start, time.process_time() - cpu


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Plain:
    """The plain loop, in its own process."""

    def __init__(self, threads: int):
        self.threads = threads
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.plain"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def ask(self, **request) -> Times:
        """Have a request of `benchmarks.plain` done."""
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the plain loop has ended; what it said is above")
        return tuple(json.loads(answer))

    def start_ffsd(self, cell: Mapping) -> None:
        """Set up `benchmarks.plain_ffsd`, and warm it up."""
        start = {"student": cell["student"], "batch_size": BATCH, "recipe": cell["recipe"]}
        self.ask(threads=self.threads, method="ffsd", start=start)
        for call in ("baseline", "train"):
            self.ask(call=call, steps=2)

    def start(self, cell: Mapping, images: int) -> None:
        """Set up the group of a cell."""
        group = {
            "student": cell["student"],
            "teachers": [cell["teacher"]] * len(cell["teachers"]),
            "networks": cell["networks"],
        }
        rest = {"batch_size": BATCH, "images": images, "recipe": cell["recipe"]}
        self.ask(threads=self.threads, start=group | rest)

    def warm_up(self) -> float:
        """Train for a second, at least one step and at most ten; the seconds of the last one."""
        total, steps = 0.0, 0
        while steps == 0 or (total < 1 and steps < 10):
            last = self.ask(call="train", steps=1)[0]
            total, steps = total + last, steps + 1
        return last


class Ours:
    """A group in our loop, on a data set of so many batches, with the repository's default recipe.

    Args:
        cell: Of `make_cell`.
        steps: Of an epoch.
        images: What the training split is said to have, for terms that hold something for each image; those of an epoch
            where it is left out.
    """

    def __init__(self, cell: Mapping, steps: int, images: int | None = None):
        recipe = cell["recipe"]
        device = training.pick_device(recipe["device"])
        training.set_up(recipe)
        teachers = [
            models.create(cell["teacher"], num_classes=CLASSES, image_size=SIZE, adapt_stem=True) for _ in cell["teachers"]
        ]
        self.steps, self.epoch = steps, 0
        data = dataset(steps * BATCH)
        whole = data if images is None else Dataset(data.manifest, {"train_labels": torch.arange(images) % CLASSES})
        self.group = training.Group(cell, whole, teachers, device)
        if (exchange := self.group.exchange) and exchange["name"] in SURGERY:
            self.group.trade(exchange["normal"] - 1)  # as in the epochs in which filters are dropped
        self.loader = data.loader("train", batch_size=BATCH, device=device, channels_last=recipe["channels_last"])
        self.images, self.labels, _ = next(self.loader.batches())

    def train(self) -> None:
        """One epoch."""
        self.group.train_epoch(self.loader, self.epoch)
        self.epoch += 1

    def limit(self) -> None:
        """As many forward and backward passes on one fixed batch, and nothing else."""
        group = self.group
        group.learners.train()
        for _ in range(self.steps):
            for network in group.networks:
                network.zero_grad(set_to_none=True)
                with group.learners[0].autocast():
                    with torch.no_grad():
                        for teacher in group.teachers:
                            teacher(self.images)
                    logits = network(self.images)
                F.cross_entropy(logits, self.labels).backward()

    def load(self) -> None:
        """The batches of one epoch, augmented."""
        for _ in self.loader.batches(order=training.generator(0, "order"), augment=training.generator(0, "augment")):
            pass


def dataset(images: int) -> Dataset:
    """Random images in the shape of CIFAR-100."""
    manifest = {
        "name": "random",
        "loader": "memory",
        "num_classes": CLASSES,
        "in_chans": 3,
        "image_size": SIZE,
        "mean": list(MEAN),
        "std": list(STD),
        "sizes": {"train": images, "validation": 0, "test": 0},
        "augmentation": {"pad": 4, "flip": True},
    }
    return Dataset(manifest, dict(zip(("train_images", "train_labels"), random_images(images))))


def make_cell(student: str, teacher: str, base: str, networks: int, threads: int, **recipe) -> dict:
    """The resolved cell of a row with so many networks."""
    return resolved(student, teacher, {f"{base}-{networks}": {"base": base, "networks": networks}}, threads, **recipe)


def resolved(student: str, teacher: str, method: str | Mapping, threads: int, **recipe) -> dict:
    """The resolved cell of an item of `methods`: the default recipe, but for what makes rows comparable."""
    benchmark = {
        "benchmark": "speed",
        "seeds": [0],
        "datasets": ["cifar100"],
        "pairs": [{"student": student, "teacher": teacher}],
        "methods": [method],
        "adapt_stem": True,
        # A learning rate at which random labels diverge in no model; it changes no time.
        "recipe": {"batch_size": BATCH, "lr": 1e-3, "threads": threads, **recipe},
    }
    return cells(benchmark)[-1]


def measure_steps(size: Size, threads: int) -> list[dict]:
    """A row a model and method: images/s of the plain loop, of ours, and of the limit."""
    rows = []
    with Plain(threads) as plain:
        for student, teacher in size.models.items():
            for method in size.methods:
                rows.append(_step_row(plain, size, student, teacher, method, threads))
                speed = {arm: round(values["median"], 1) for arm, values in rows[-1]["images_per_second"].items()}
                print(f"{student} {method}: {speed} images/s", flush=True)
    return rows


def _step_row(plain: Plain, size: Size, student: str, teacher: str, method: str, threads: int) -> dict:
    base, networks = METHODS[method]
    cell = make_cell(student, teacher, base, networks, threads)
    headline = (student, method) == size.headline
    repeats = size.headline_repeats if headline else size.repeats
    plain.start(cell, size.images)
    steps = min(max(int(size.seconds / plain.warm_up()), size.headline_steps if headline else 2), 200)
    ours = Ours(cell, steps)
    arms = {"plain": lambda: plain.ask(call="train", steps=steps), "ours": lambda: timed(ours.train)}
    if headline:
        single = Ours(make_cell(student, teacher, base, networks, threads, precision="fp32"), steps)
        arms["ours_fp32"] = lambda: timed(single.train)
    arms["limit"] = lambda: timed(ours.limit)
    for name, arm in arms.items():
        if name != "plain":
            arm()  # warm-up
    taken = in_turn(arms, repeats)
    seconds = {arm: [pair[0] for pair in pairs] for arm, pairs in taken.items()}
    images = networks * BATCH * steps

    def over(slow: str, fast: str) -> dict:
        return summary([a / b for a, b in zip(seconds[slow], seconds[fast])])

    return {
        "model": student,
        "teacher": cell["teacher"],
        "method": method,
        "networks": networks,
        "batch_size": BATCH,
        "steps": steps,
        "recipe": cell["recipe"],
        "seconds": {arm: [round(value, 5) for value in values] for arm, values in seconds.items()},
        "images_per_second": {arm: summary([images / value for value in values]) for arm, values in seconds.items()},
        "cpu_seconds_per_image": {arm: summary([pair[1] / images for pair in pairs]) for arm, pairs in taken.items()},
        "speedup": {arm: over("plain", arm) for arm in seconds if arm.startswith("ours")},
        "share_of_limit": over("limit", "ours"),
    }


def measure_methods(size: Size, threads: int) -> list[dict]:
    """A row a method: seconds of a step of its whole group, and how many times those of baseline's step they are.

    On one thread of a CPU the multiple is one of CPU-seconds, which other processes disturb less. For ffsd also that of the
    plain code's step, and of plain baseline's.
    """
    student = size.headline[0]
    steps = size.row_steps * (25 if torch.cuda.is_available() else 1)

    def group(method: str, precision: str) -> Ours:
        item = {method: VARIANTS[method]} if method in VARIANTS else method
        cell = resolved(student, size.models[student], item, threads, precision=precision)
        ours = Ours(cell, steps, size.images)
        ours.train()  # warm-up
        return ours

    alone = {precision: group("baseline", precision) for precision in PRECISIONS}
    rows = []
    for method in size.rows:
        groups = {precision: group(method, precision) for precision in PRECISIONS}
        arms = {
            (precision, arm): partial(timed, held[precision].train)
            for precision in PRECISIONS
            for arm, held in (("baseline", alone), ("method", groups))
        }
        with Plain(threads) if method == "ffsd" else nullcontext() as plain:
            if plain:
                plain.start_ffsd(groups["fp32"].group.cell)
                arms["plain", "baseline"] = partial(plain.ask, call="baseline", steps=steps)
                arms["plain", "method"] = partial(plain.ask, call="train", steps=steps)
            taken = in_turn(arms, size.row_repeats)
        clock = int(threads == 1 and not torch.cuda.is_available())
        rows.append(_method_row(method, groups[PRECISIONS[0]].group.cell, steps, taken, clock))
        times = {precision: round(values["median"], 2) for precision, values in rows[-1]["multiple"].items()}
        print(f"{student} {method}: {times} times a step of baseline", flush=True)
    return rows


def _method_row(method: str, cell: Mapping, steps: int, taken: Mapping[tuple[str, str], Sequence[Times]], clock: int) -> dict:
    def each(arm: str, clock: int) -> dict:
        return {precision: summary([pair[clock] / steps for pair in taken[precision, arm]]) for precision in PRECISIONS}

    def ratios(precision: str) -> list[float]:
        pairs = zip(taken[precision, "method"], taken[precision, "baseline"], strict=True)
        return [own[clock] / alone[clock] for own, alone in pairs]

    return {
        "method": method,
        "model": cell["student"],
        "teacher": cell["teacher"],
        "networks": cell["networks"],
        "objective": cell["objective"],
        "batch_size": BATCH,
        "steps": steps,
        "repeats": len(ratios(PRECISIONS[0])),
        "seconds": each("method", 0),
        "baseline_seconds": each("baseline", 0),
        "cpu_seconds": each("method", 1),
        "baseline_cpu_seconds": each("baseline", 1),
        "clock": ("seconds", "cpu_seconds")[clock],
        "multiple": {precision: summary(ratios(precision)) for precision in PRECISIONS},
        "plain_multiple": summary(ratios("plain")) if ("plain", "method") in taken else None,
    }


def measure_data(size: Size, threads: int) -> dict:
    """Seconds that our loader takes for a batch, augmentation included."""
    student = size.headline[0]
    ours = Ours(make_cell(student, student, "baseline", 1, threads), min(50, size.images // BATCH))
    ours.load()  # warm-up
    taken = in_turn({"data": lambda: timed(ours.load)}, size.headline_repeats)["data"]
    return {"batch_size": BATCH, "seconds_per_batch": summary([pair[0] / ours.steps for pair in taken])}


def measure_exchange(size: Size, threads: int) -> list[dict]:
    """Seconds of one exchange of a group, loading the blended weights included."""
    rows = []
    with Plain(threads) as plain:
        for student in size.exchange:
            for networks in size.groups:
                cell = make_cell(student, student, "grafting", networks, threads)
                plain.start(cell, BATCH)
                ours = Ours(cell, 1)
                exchange = partial(ours.group.trade, 0)
                exchange()  # warm-up
                arms = {"plain": lambda: plain.ask(call="exchange"), "ours": partial(timed, exchange)}
                taken = in_turn(arms, size.repeats)
                seconds = {arm: [pair[0] for pair in pairs] for arm, pairs in taken.items()}
                rows.append(
                    {
                        "model": student,
                        "networks": networks,
                        "seconds": {arm: summary(values) for arm, values in seconds.items()},
                        "speedup": summary([a / b for a, b in zip(seconds["plain"], seconds["ours"])]),
                    }
                )
                times = rows[-1]["speedup"]["median"]
                print(f"exchange of {networks} {student}: {times:.0f} times as fast as the plain one", flush=True)
    return rows


def measure_memory(size: Size, threads: int) -> list[dict]:
    """MiB that a group takes at its peak, each in a process of its own, and what was expected before it started."""
    rows = []
    for student, base, networks in size.memory:
        cell = make_cell(student, size.models[student], base, networks, threads)
        command = [sys.executable, "-c", "import sys; from benchmarks.measure import hold; hold(sys.argv[1])", json.dumps(cell)]
        peak = json.loads(subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True).stdout)
        where = "_device" if peak["peak_device_memory_mib"] else ""
        rows.append(
            {
                "model": student,
                "method": base,
                "networks": networks,
                "measured_mib": peak[f"peak{where}_memory_mib"],
                "estimated_mib": peak[f"estimated{where}_memory_mib"],
            }
        )
    return rows


def hold(cell: str) -> None:
    """Train, evaluate and exchange twice; print the peak of this process."""
    ours = Ours(json.loads(cell), 4)
    layout = ours.loader.channels_last
    test = dataset(EVALUATION_BATCH).loader(
        "train", batch_size=EVALUATION_BATCH, device=ours.group.device, channels_last=layout
    )
    for _ in range(2):
        ours.train()
        ours.group.evaluate(test)
        if ours.group.exchange:
            ours.group.trade(0)
    print(json.dumps(training.peak_memory(ours.group)))


def measure_overhead(size: Size, threads: int) -> dict:
    """What the harness adds to training: a small benchmark on the embedded digits, from the `snakemake` command on."""
    config = {
        "benchmark": "overhead",
        "seeds": list(range(size.seeds)),
        "datasets": ["digits"],
        "data": {"train_images": 50, "validation_images": 50},
        "pairs": [{"student": "cifar_resnet8"}],
        "methods": ["baseline"],
        "recipe": {"epochs": 2, "batch_size": 10, "threads": threads},
    }
    first, harness = [], []
    for _ in range(size.runs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            copy_workflow(folder)
            (folder / "overhead.yaml").write_text(yaml.safe_dump(config))
            env = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE_")}
            command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "overhead.yaml", "--until", "train"]
            start = time.time()
            done = subprocess.run(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode:
                raise RuntimeError(done.stdout)
            started = []
            for cell in cells(config):
                left = folder / "results" / cell["path"]
                record = json.loads((left / "provenance.json").read_text())
                started.append(datetime.fromisoformat(record["started"]).timestamp())
                job = float((left / "usage.tsv").read_text().splitlines()[1].split("\t")[0])
                harness.append(job - json.loads((left / "metrics.json").read_text())["timings"]["seconds"])
            first.append(min(started) - start)
    return {
        "cells": len(cells(config)),
        "seconds_to_first_step": summary(first),
        "seconds_per_cell": summary(harness),
    }


PARTS = {
    "steps": measure_steps,
    "methods": measure_methods,
    "data": measure_data,
    "exchange": measure_exchange,
    "memory": measure_memory,
    "overhead": measure_overhead,
}


def describe_machine(size: Size, threads: int) -> dict:
    """What this machine is, its rate of matrix multiplication and its memory's bandwidth, each the best of five."""
    record = provenance.record()
    facts = {key: value for key, value in record["machine"].items() if key != "host"}
    device = training.pick_device("auto")

    def best(function: Callable[[], object]) -> float:
        function()  # warm-up
        return min(timed(function)[0] for _ in range(5))

    scale = 4 if device.type == "cuda" else 1
    side, copied = size.matrix * scale, size.copied * scale
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        rates[name] = float(f"{2 * side**3 / best(lambda a=a, b=b: a @ b) / 1e12:.3g}")
    source = torch.ones(copied, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    bandwidth = 2 * copied / best(lambda: target.copy_(source)) / 1e9  # each byte is read and written
    processor = facts["gpu"]["name"] if facts["gpu"] else facts["cpu"]
    return {
        "name": f"{processor}, {threads} thread" + "s" * (threads > 1),
        **facts,
        "threads": threads,
        "python": record["python"],
        "packages": {name: record["packages"][name] for name in ("torch", "torchvision", "timm")},
        "matrix_tflops": rates,
        "bandwidth_gb_s": float(f"{bandwidth:.3g}"),
    }


def fastest(machine: Mapping, before: Mapping) -> dict:
    """The better rates of two times that a machine was described: it may have been busy at one."""
    rates, earlier = machine["matrix_tflops"], before["matrix_tflops"]
    return {
        "matrix_tflops": {name: max(rate, earlier[name]) for name, rate in rates.items()},
        "bandwidth_gb_s": max(machine["bandwidth_gb_s"], before["bandwidth_gb_s"]),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write what was found after each part; parts that are left out stay as they are in the file.

    Each part is written with its command, commit and time, and with the machine's load average at its start and its end.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<CPU or GPU, threads>.json")
    parser.add_argument("--only", default=",".join(PARTS), help="comma-separated parts (default: all): %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process (default: 1)")
    parser.add_argument("--quick", action="store_true", help="only see that it runs, with the smallest model; needs --out")
    args = parser.parse_args(argv)
    only = args.only.split(",")
    if unknown := set(only) - set(PARTS):
        parser.error(f"--only: unknown part {sorted(unknown)[0]!r}; known: {', '.join(PARTS)}")
    if args.quick and not args.out:
        parser.error("--quick needs --out: its numbers are not for benchmarks/results")
    size = QUICK if args.quick else FULL
    torch.set_num_threads(args.threads)
    machine = describe_machine(size, args.threads)
    slug = re.sub(r"[^a-z0-9]+", "-", machine["name"].lower())
    out = args.out or ROOT / "benchmarks" / "results" / f"{slug}.json"
    results = json.loads(out.read_text()) if out.is_file() else {"runs": {}}
    results["machine"] = machine | fastest(machine, results.get("machine", machine))
    command = shlex.join(["python", "-m", "benchmarks.measure", *(sys.argv[1:] if argv is None else argv)])
    for part in only:
        start, load = time.perf_counter(), os.getloadavg()[0]
        results[part] = PARTS[part](size, args.threads)
        results["runs"][part] = {
            "command": command,
            "git": provenance.git(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - start, 1),
            "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        }
        write_bytes(out, (json.dumps(results, indent=1) + "\n").encode())
    print(out)


if __name__ == "__main__":
    main()
