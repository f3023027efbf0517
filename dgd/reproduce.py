"""Train a finished cell again, its teachers included, and say whether it came out the same, and at which level.

A level is what may differ between here and the machine that the cell's provenance.json names, and what is promised then:

* A, the same processor, versions, code and device: equal bytes.
* B, other numbers of cores, threads or processes, another order, side by side, resumed: equal bytes where no sum is taken in
  another order; else, with other threads or with batches that processes share, equal within a tolerance: rounding grows with
  each step, so the losses of the first epoch agree within `TOLERANCE` and the result is statistically equal.
* C, other versions, code or devices: statistically equal.
"""

import contextlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dgd import frozen, identity, plugins, provenance, running, seals
from dgd.cell import Cell
from dgd.metrics import METRICS
from dgd.read.statistics import paired_interval, prediction_interval
from dgd.signals import cleaning

BYTES = ("history.csv", "predictions.npz", "filters.npz")
UNMEASURED = ("timings", "method")
"""Parts of metrics.json that are no results: times, and the sentences on how today's code stands to a method's sources."""
TOLERANCE = 0.05
"""Largest relative difference of a loss of the first epoch, where sums are taken in another order."""
OUTCOMES = ("equal bytes", "equal within tolerance", "statistically equal", "different")
"""What can come out, best first."""
ENOUGH = 3
"""Seeds of a row whose prediction interval says something; with fewer, the two cells' predictions are compared."""


class Options(NamedTuple):
    """In which way a cell is trained again; None is as its config says."""

    threads: int | None = None
    ranks: int | None = None
    together: int | None = None


class Difference(NamedTuple):
    """One thing that differs between the machine that trained a cell and this one.

    Attributes:
        level: "B" or "C".
        promised: The worst of `OUTCOMES` that is the same still.
        text: What it was and is.
    """

    level: str
    promised: str
    text: str


@dataclass(frozen=True)
class Reproduction:
    """How a cell came out.

    Attributes:
        level: "A", "B" or "C".
        outcome: One of `OUTCOMES`.
        good: The outcome is what the level promises, or better.
    """

    level: str
    outcome: str
    good: bool


def reproduce(
    folder: str | Path, options: Options | None = None, keep: str | Path | None = None, say: Callable[[str], None] = print
) -> Reproduction:
    """Train a finished cell again, and say what differs here, at which level it is compared, and how it came out.

    Its folder is left as it is; the data set is prepared if it is not there. Where a file was changed after it was written, or
    the data are others, nothing is trained, and the outcome is "different".

    Args:
        folder: The cell's folder, below a root of results that has its teachers' config.yaml too.
        options: In which other way to train it.
        keep: Root of results to train in; an interrupted reproduction goes on there. A temporary one by default.
        say: Takes the lines of the report.

    Raises:
        ValueError: The folder holds no finished cell or is a copy, a teacher has no config.yaml, or the cell is in `keep`.
    """
    folder, options = Path(folder), options or Options()
    plugins.load_of(folder / "config.yaml")
    cell = identity.cell_of(folder)
    if cell is None or not (folder / "metrics.json").is_file():
        raise ValueError(f"{folder}: no finished cell in it; give the folder of a trained cell")
    root = seals.root_of(folder / "config.yaml", cell.path)
    if keep and (Path(keep) / cell.path / "metrics.json").exists():
        raise ValueError(f"{Path(keep) / cell.path}: already there; give another folder by --keep")
    try:
        sealed = seals.check_seal(folder, [name for name in identity.OUTPUTS if (folder / name).is_file()])
        record = json.loads((folder / seals.RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        say(f"{folder}: different: {error}")
        return Reproduction("A", "different", False)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    sources = running.with_sources(cell, root)
    found = list(differences(cell, record, metrics, options))
    level = max((one.level for one in found), default="A")
    promised = max((one.promised for one in found), default="equal bytes", key=OUTCOMES.index)
    differ = "; ".join(one.text for one in found) or "nothing differs from what trained it"
    older = "" if sealed else "; not sealed: older code trained it"
    say(f"{folder}: level {level}, {promised} is promised: {differ}{older}")
    data = running.prepared(replace(cell, generated=None))
    if not cell.generated and not frozen.same_data(record, data / "manifest.json"):
        say(f"{folder}: different: the data set in {data} is not that of its {seals.RECORD}")
        return Reproduction(level, "different", False)
    with contextlib.nullcontext(keep) if keep else _temporary() as made:
        teachers = [changed(one, Options()) for one in sources[:-1]]  # with others, the cell would differ by more than rounding
        train([*teachers, changed(cell, options)], Path(made), options.together or 1)
        outcome, text = compare(folder, Path(made) / cell.path, cell)
    good = OUTCOMES.index(outcome) <= OUTCOMES.index(promised)
    say(f"{folder}: {outcome}: {text}" + ("" if good else f"; level {level} promises {promised}"))
    return Reproduction(level, outcome, good)


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    """Give a temporary folder, which is deleted also where a signal ends the process."""
    with tempfile.TemporaryDirectory() as made, cleaning(lambda: shutil.rmtree(made)):
        yield made


def changed(cell: Cell, options: Options) -> Cell:
    """Return the cell as it is trained here: with the options, and on whatever device there is."""
    recipe = cell.recipe
    if options.threads is not None:
        recipe = replace(recipe, threads=options.threads)
    if options.ranks is not None:
        recipe = replace(recipe, ranks_per_network=options.ranks)
    if recipe.device == "cuda" and not _gpu():
        recipe = replace(recipe, device="auto")
    return replace(cell, recipe=recipe)


def train(cells: list[Cell], results: Path, together: int) -> None:
    """Train the last of some cells, which the others come before, with so many cells side by side: itself and further seeds."""
    *sources, cell = cells
    beside = [replace(cell, seed=cell.seed + k) for k in range(together)]
    known = {one.path: one for one in (*sources, *beside)}
    with contextlib.redirect_stdout(sys.stderr):
        running.train(running.Order(beside, known, together), results)


# ------------------------------------------------------------------------------------------------------ what differs


def differences(cell: Cell, record: Mapping, metrics: Mapping, options: Options) -> Iterator[Difference]:
    """Yield what differs between the machine, versions and code that a cell was trained with and those here.

    Args:
        cell: The cell, as its config.yaml has it.
        record: Its provenance.json.
        metrics: Its metrics.json.
        options: In which other way it is trained here.
    """
    here, again = provenance.record(), changed(cell, options)
    was, now = record["machine"], here["machine"]
    exact, rounded, statistical = OUTCOMES[:3]
    if was["cores"] != now["cores"]:
        yield Difference("B", exact, f"cores were {was['cores']} and are {now['cores']}")
    if was["threads"] != again.recipe.threads:
        yield Difference("B", rounded, f"threads were {was['threads']} and are {again.recipe.threads}")
    beside = (metrics.get("timings") or {}).get("together", 1), options.together or 1
    if beside[0] != beside[1]:
        yield Difference("B", exact, f"cells side by side were {beside[0]} and are {beside[1]}")
    ranks = cell.recipe.ranks_per_network, again.recipe.ranks_per_network
    if ranks[0] != ranks[1]:
        # Batch norm's statistics are each process's own where processes share batches.
        promised = exact if max(ranks) <= 1 else statistical
        yield Difference("B", promised, f"processes for each network were {ranks[0]} and are {ranks[1]}")
    versions = [(name, record["packages"].get(name), version) for name, version in here["packages"].items()]
    versions.append(("Python", *(text.rpartition(".")[0] for text in (record["python"], here["python"]))))
    versions.append(("processor", was["cpu"], now["cpu"]))
    versions.append(("CPU capability", was["cpu_capability"], now["cpu_capability"]))
    versions.append(("device", _device(cell, was), _device(again, now)))
    for name, before, after in versions:
        if before != after:
            yield Difference("C", statistical, f"{name} was {before} and is {after}")
    code = _code(cell, record, here)
    if code:
        yield Difference("C", statistical, code)


def _device(cell: Cell, machine: Mapping) -> str:
    gpu = (machine["gpu"] or {}).get("name")
    return gpu if gpu and cell.recipe.device != "cpu" else "CPU"


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _code(cell: Cell, record: Mapping, here: Mapping) -> str:
    """Say which code that the cell uses differs; of a cell of older code only that the package does."""
    if recorded := record.get("identity"):
        was, now = recorded["code"], identity.Identities().code(cell)
        files = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
        more = f" and {len(files) - 2} more" if len(files) > 2 else ""
        return f"the code of {', '.join(files[:2])}{more} differs" if files else ""
    same = record["code_sha256"] == here["code_sha256"]
    return "" if same else f"the code was {record['code_sha256'][:12]} and is {here['code_sha256'][:12]}"


# ------------------------------------------------------------------------------------------------------ what came out


def compare(was: Path, now: Path, cell: Cell) -> tuple[str, str]:
    """Return one of `OUTCOMES` for two folders of a cell, and in words what was compared and what was found."""
    line = difference(was, now)
    if not line:
        return OUTCOMES[0], "history, predictions, filters, and all measured metrics"
    before, after = (json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in (was, now))
    if before["status"] != "finished" or after["status"] != "finished":
        return OUTCOMES[3], line
    equal, text = statistics(was, now, cell, before, after)
    if not equal:
        return OUTCOMES[3], f"{text}; {line}"
    largest, where = first_epoch(was, now)
    said = f"the largest difference of a loss of the first epoch is {100 * largest:.2g} % ({where}); {text}"
    return OUTCOMES[1 if largest <= TOLERANCE else 2], said


def first_epoch(was: Path, now: Path) -> tuple[float, str]:
    """Return the largest relative difference of a training loss of the first epoch, and its column in history.csv."""
    one, other = (pd.read_csv(folder / "history.csv").iloc[0] for folder in (was, now))
    losses = [name for name in one.index if name.startswith("loss_")]
    found = {name: abs(other.get(name, math.nan) - one[name]) / max(abs(one[name]), 1e-12) for name in losses}
    worst = max(found, key=lambda name: math.inf if math.isnan(found[name]) else found[name])
    return (math.inf if math.isnan(found[worst]) else float(found[worst])), worst


def statistics(was: Path, now: Path, cell: Cell, before: Mapping, after: Mapping) -> tuple[bool, str]:
    """Return whether the result of a cell is one that another seed could have, or that the same images could give; in words.

    With `ENOUGH` finished seeds of its row, itself among them, its metric must lie in their 95 % prediction interval. With
    fewer the two predictions of each test image are compared: the 95 % interval of their difference must hold 0.

    Args:
        was: The folder of the cell, beside those of its row's other seeds.
        now: The folder that it was trained in again.
        cell: The cell.
        before: The metrics.json of the first.
        after: That of the second.
    """
    metric = METRICS[cell.task]
    old, new = (content["networks"][0]["last"][metric.name] for content in (before, after))
    changed = f"{metric.label} was {old:{metric.form}} and is {new:{metric.form}} {metric.unit}".rstrip()
    seeds = []
    for path in sorted(was.parent.glob("seed*/metrics.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["status"] == "finished":
            seeds.append(content["networks"][0]["last"][metric.name])
    if len(seeds) >= ENOUGH:
        low, high = prediction_interval(seeds)
        text = f"the 95 % prediction interval of its row's {len(seeds)} seeds is [{low:{metric.form}}, {high:{metric.form}}]"
        return low <= new <= high, f"{changed}; {text}"
    with np.load(was / "predictions.npz") as one, np.load(now / "predictions.npz") as other:
        labels, first, second = one["labels"], one["predictions"][0], other["predictions"][0]
    if cell.task == "classification":
        low, high = paired_interval(first == labels, second == labels)
        text = f"the 95 % interval of the paired difference on {len(labels)} test images is [{low:+.2f}, {high:+.2f}] points"
    elif cell.task == "regression":
        gains = np.square(second.astype(np.float64) - labels) - np.square(first.astype(np.float64) - labels)
        half = 1.96 * gains.std(ddof=1) / math.sqrt(len(gains))
        low, high = gains.mean() - half, gains.mean() + half
        text = (
            f"the 95 % interval of the paired difference of squared errors is [{low:+.3g}, {high:+.3g}], {len(labels)} images"
        )
    else:
        return False, f"{changed}; its row has {len(seeds)} seeds, and {ENOUGH} are needed for an interval"
    return bool(low <= 0 <= high), f"{changed}; {text} (fewer than {ENOUGH} seeds of its row are there)"


def difference(was: Path, now: Path) -> str:
    """Return in one line the first difference between two folders of a cell; "" where none is.

    History, predictions and filters are compared byte by byte, metrics by their values but for those of `UNMEASURED`.
    """
    for name in BYTES:
        if (was / name).read_bytes() != (now / name).read_bytes():
            return f"{name} differs{_where(was / name, now / name)}"
    before, after = (
        {k: v for k, v in json.loads((f / "metrics.json").read_text()).items() if k not in UNMEASURED} for f in (was, now)
    )
    lines = _paths(before, after)
    return f"metrics.json differs: {lines[0]}" if lines else ""


def _where(was: Path, now: Path) -> str:
    if was.suffix == ".csv":
        pairs = zip(was.read_text().splitlines(), now.read_text().splitlines(), strict=False)
        return next((f", first in line {i}: {a} | {b}" for i, (a, b) in enumerate(pairs, 1) if a != b), ", in its length")
    with np.load(was) as before, np.load(now) as after:
        if before.files != after.files:
            return ", in the names of its arrays"
        found = next((key for key in before.files if not np.array_equal(before[key], after[key], equal_nan=True)), None)
    return f", first in {found}" if found else ", in its bytes and not in its arrays"


def _paths(before, after, place: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):  # what later code records besides is no difference
        return [line for key, value in before.items() for line in _paths(value, after.get(key), f"{place}.{key}".strip("."))]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [line for i, pair in enumerate(zip(before, after, strict=True)) for line in _paths(*pair, f"{place}[{i}]")]
    return [] if before == after else [f"{place} was {before} and is {after}"]
