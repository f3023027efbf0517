"""Train cells of a benchmark, bundle after bundle, without Snakemake, by the same rules of what is fresh."""

import contextlib
import fnmatch
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from dgd import config, frozen, identity, plugins, seals
from dgd.benchmark import Benchmark
from dgd.bundles import bundles, problem
from dgd.cell import Cell
from dgd.logs import Logs
from dgd.measured import read_metrics
from dgd.metrics import METRICS
from dgd.progress import State
from dgd.progress import progress as how_far
from dgd.signals import cleaning

TRY_AGAIN = os.EX_TEMPFAIL
"""Exit status (75) of a command whose time was over: the same command goes on."""
GOES_ON = "DGD_GOES_ON"
"""Environment variable: JSON, the `Progress` of the process that this one goes on for."""


class Unfinished(Exception):
    """A command that ended because its time was over; the same command goes on."""


@dataclass
class Progress:
    """The time of a command and what it has done so far, which it hands on where it has to start itself again.

    Attributes:
        until: When to stop, as `time.monotonic` counts.
        trained: Paths of the cells that it has trained.
        good: All of them have a result.
        logs: Folder of TensorBoard logs; None writes none.
    """

    until: float = math.inf
    trained: list[str] = field(default_factory=list)
    good: bool = True
    logs: str | None = None

    @classmethod
    def begin(cls, stop_after: float | None, logs: str | None = None) -> "Progress":
        """Return the progress of the process that this one goes on for; else of one that stops after so many seconds."""
        if GOES_ON in os.environ:
            return cls(**json.loads(os.environ.pop(GOES_ON)))
        return cls(math.inf if stop_after is None else time.monotonic() + stop_after, logs=logs)

    def start_again(self, error) -> NoReturn:
        """Replace this process by a new one of the same command, in which the cell of a `CannotCapture` runs as it is."""
        from dgd.train.graphs import EAGER

        eager = json.loads(os.environ.get(EAGER, "{}")) | {error.path: error.why}
        os.environ.update({EAGER: json.dumps(eager), GOES_ON: json.dumps(asdict(self))})
        print(f"\n{error}; starting again, to run this cell's steps as they are", file=sys.stderr)
        for child in multiprocessing.active_children():  # those that read images would wait for ever
            child.terminate()
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@dataclass(frozen=True)
class Order:
    """Cells to train.

    Attributes:
        wanted: The cells that were asked for.
        known: Path -> cell, teachers included.
        together: Cells that are trained side by side, see `dgd.bundles.bundles`.
        stop_after: Seconds after which to stop; None is never.
        results: Root of the results, where the command gives none.
        benchmark: The benchmark that the cells are of, which its folder of results then says; None for cells without one.
    """

    wanted: list[Cell]
    known: dict[str, Cell]
    together: int | None = None
    stop_after: float | None = None
    results: str = "results"
    benchmark: Benchmark | None = None

    @property
    def needed(self) -> list[Cell]:
        """The cells that the wanted ones depend on, and then these."""
        return list({cell.path: cell for cell in [*self._sources(self.wanted), *self.wanted]}.values())

    def _sources(self, cells: list[Cell]) -> list[Cell]:
        """Return the cells that some depend on, each after those that it depends on itself."""
        own = [self.known[path] for cell in cells for path in cell.sources]
        return [*self._sources(own), *own] if own else []


def order(path: str | Path, pattern: str = "*") -> Order:
    """Return the cells of a benchmark whose paths match a pattern, or the one cell of a finished cell's config.yaml.

    Args:
        path: A benchmark's YAML, or the config.yaml of a cell below a root of results that has its teachers' too.
        pattern: Path of cells, or its end, with wildcards as in a shell.

    Raises:
        ValueError: No cell matches, a config.yaml is not in its cell's folder, or a teacher's is missing.
    """
    path = Path(path)
    if path.name == "config.yaml":
        plugins.load_of(path)
    own = identity.cell_of(path.parent) if path.name == "config.yaml" else None
    if own:
        return Order([own], {cell.path: cell for cell in with_sources(own, seals.root_of(path, own.path))})
    benchmark = config.load(path)
    known = {cell.path: cell for cell in config.cells(benchmark)}
    wanted = [cell for name, cell in known.items() if fnmatch.fnmatch(name, pattern) or name.endswith(f"/{pattern}")]
    if not wanted:
        raise ValueError(f"{path}: no cell matches {pattern!r}; `dgd-bench list cells {path}` lists them")
    return Order(wanted, known, benchmark.together, benchmark.stop_after, benchmark.results, benchmark)


def planned(order: Order, results: str | Path) -> list[State]:
    """Return the states of the cells of an order, teachers first; of those that will be not applicable, why."""
    cells = order.needed
    states = how_far(cells, results).cells
    why = [problem(cell) if state.state in ("missing", "stale") else "" for cell, state in zip(cells, states, strict=True)]
    return [
        state._replace(why="; ".join(filter(None, (state.why, no and f"not applicable: {no}"))))
        for state, no in zip(states, why, strict=True)
    ]


def with_sources(cell: Cell, root: Path) -> list[Cell]:
    """Return the cells that a finished cell depends on, by their config.yaml, each before those that depend on it, and itself.

    Raises:
        ValueError: One of them has no config.yaml below the root of the results.
    """
    found = {}
    for path in cell.sources:
        plugins.load_of(root / path / "config.yaml")
        source = identity.cell_of(root / path)
        if source is None:
            raise ValueError(f"{root / path}: no config.yaml of the teacher in it")
        found |= {one.path: one for one in with_sources(source, root)}
    return [*found.values(), cell]


def benchmark_cells(path: str | Path) -> list[Cell]:
    """Return the cells of a benchmark's YAML, teachers first."""
    return config.cells(config.load(path))


def prepared(cell: Cell, results: str | Path = "results") -> Path:
    """Return the folder of a cell's prepared data set; prepare or generate it if it is not there.

    Args:
        cell: The cell.
        results: Root of the results, with the finished cells that generate its images.
    """
    from dgd import data

    options = {name: getattr(cell.data, name) for name in ("train_images", "validation_images", "image_size", "loader")}
    base = folder = identity.prepared_folder(replace(cell, generated=None))
    if not data.is_prepared(folder, cell.dataset, data_dir=cell.data.dir, **options):
        data.prepare(cell.dataset, folder, data_dir=cell.data.dir, **options)
    if cell.generated:
        from dgd.train import generate

        folder = identity.prepared_folder(cell)
        if not generate.is_generated(cell, results=results, base=base, out=folder):
            generate.generate(cell, results=results, base=base, out=folder)
    return folder


def train(order: Order, results: str | Path, *, again: bool = False, logs: str | None = None) -> bool:
    """Train the cells of an order that are not there, teachers first; return whether all have a result.

    A cell that another benchmark below the same root has is taken over. Nothing is trained where a cell that is there is stale:
    it might be wanted as it is.

    Args:
        order: The cells.
        results: Root of the results.
        again: Train the wanted cells anew, and teachers that are stale.
        logs: Folder of TensorBoard logs of the cells that are trained, see `dgd.logs`; None writes none.

    Raises:
        ValueError: A cell that is there is stale, its benchmark is frozen, or there is no TensorBoard.
        Unfinished: The time of the order is over.
    """
    results, needed = Path(results), order.needed
    if logs:
        Logs(logs)  # says what is missing before anything is trained
    for cell in needed:
        if frozen.is_frozen(results / cell.benchmark):
            folder = results / cell.benchmark
            raise ValueError(
                f"{folder} is frozen: it is read and not trained; give another root by --results, or thaw it with "
                f"`dgd-bench freeze --thaw {folder}`"
            )
    if again and order.stop_after is not None:
        raise ValueError("--again trains anew what is there, so it cannot go on after --stop-after; give one of them")
    progress = Progress.begin(order.stop_after, logs)
    found = identity.states(needed, results, order.known.values())
    there = {path for path in found if (results / path / "metrics.json").is_file()}
    if stale := [path for path in there if not found[path].fresh and not again]:
        more = f", and {len(stale) - 1} more cells are not what is asked for" if len(stale) > 1 else ""
        path = sorted(stale)[0]
        raise ValueError(f"{results / path} is {found[path]}{more} (--again trains again)")
    if order.benchmark and (folder := results / order.benchmark.benchmark) and not _asks(folder, order.benchmark):
        config.write_asked(order.benchmark, folder)
    anew = {cell.path for cell in needed if again and (cell in order.wanted or not found[cell.path].fresh)}
    anew -= set(progress.trained)
    waiting = {cell.path: cell for cell in needed if cell.path not in there or cell.path in anew}
    for path in found:
        if path not in waiting and path not in progress.trained:
            print(f"{results / path}: already there (--again trains it again)", file=sys.stderr)
    epoch = -math.inf  # seconds of an epoch of the last bundle: an epoch of the first is always trained
    for bundle in bundles(waiting.values(), order.together):
        if time.monotonic() + epoch >= progress.until:
            break
        own = []
        for cell in bundle:
            prepared(cell, results)
            if cell.path not in anew and (source := _elsewhere(cell, results)):
                identity.adopt(source, results / cell.path, cell)
                print(f"{results / cell.path}: taken over from {source}, the same cell")
                del waiting[cell.path]
            else:
                own.append(cell)
        ended = _train(own, results, progress)
        for cell in ended:
            del waiting[cell.path]
        progress.trained += [cell.path for cell in ended]
        if len(ended) < len(own):
            break
        if own:
            epoch = sum(_seconds(results / cell.path) / cell.recipe.epochs for cell in own)
    if waiting:
        raise Unfinished(
            f"{len(waiting)} of {len(needed)} cells are left after {order.stop_after:g} s, the next is {next(iter(waiting))}; "
            "the same command goes on"
        )
    return progress.good


def _asks(folder: Path, benchmark: Benchmark) -> bool:
    """Return whether a folder of results says that a benchmark was asked for."""
    try:
        return config.asked(folder) == benchmark
    except ValueError:  # of older code, or damaged
        return False


def _elsewhere(cell: Cell, results: Path) -> Path | None:
    data = identity.data_hash(identity.prepared_folder(cell) / "manifest.json")
    return identity.find(results, identity.at(cell, results), data, but=results / cell.path)


def _seconds(folder: Path) -> float:
    """Return how long a cell was trained; 0 where it has no result."""
    path = folder / "metrics.json"
    return read_metrics(path).get("timings", {}).get("seconds") or 0.0 if path.is_file() else 0.0


def _train(cells: Sequence[Cell], results: Path, progress: Progress) -> list[Cell]:
    """Train a bundle and return those of its cells that are done, with or without a result."""
    if not cells or cells[0].processes == 1:
        return train_here(cells, results, progress)
    (cell,) = cells
    given = json.dumps(cell.plain()), str(results), json.dumps(asdict(progress))
    command = [sys.executable, *config.torchrun(cell.processes), "-m", "dgd.running", *given]
    failed = _run(command)
    if failed < 0:
        print(f"\n{results / cell.path}: torchrun was ended by signal {-failed}; the same command goes on", file=sys.stderr)
    progress.good &= not failed
    return [cell] if failed or (results / cell.path / "metrics.json").is_file() else []


def _run(command: Sequence[str]) -> int:
    """Run a torchrun and return its exit status; its workers end when this process ends, however it does.

    Their standard input is a pipe, which only this process holds open. An interrupt of the terminal reaches this process alone:
    torchrun would print pages about it.
    """
    env = os.environ | {"DGD_NETWORKS": "no"}
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=env) as process,
        cleaning(lambda: _kill(process.pid)),
    ):
        try:
            return process.wait()
        except BaseException:
            _kill(process.pid)
            raise


def _kill(pid: int) -> None:
    """Kill a process and its children, these first: they would say that they lost it."""
    with contextlib.suppress(OSError):  # not every system lists them
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            _kill(int(child))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _end_with_launcher() -> None:
    """End this process, a worker of `_run`, when the process that started its torchrun has ended."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def train_here(cells: Sequence[Cell], results: Path, progress: Progress) -> list[Cell]:
    """Train a bundle in this process, or one cell in all those of a torchrun; return the cells that are done.

    One that cannot be trained is said, and the others go on.

    Raises:
        OSError: A file cannot be read or written; the others would train in vain.
    """
    from dgd import train as training

    done = []
    outcomes = side_by_side(cells, [identity.prepared_folder(cell) for cell in cells], results, progress)
    for cell, outcome in zip(cells, outcomes, strict=True):
        out = results / cell.path
        if isinstance(outcome, training.OutOfTime):
            continue
        if isinstance(outcome, OSError):
            raise outcome
        done.append(cell)
        if isinstance(outcome, Exception):
            progress.good = False
            status = outcome.status if isinstance(outcome, training.NoResult) else "failed"
            print(f"{out}: {status}: {outcome}", file=sys.stderr)
        elif outcome:  # under torchrun one process has them
            metric = METRICS[cell.task]
            value = outcome["networks"][0]["last"][metric.name]
            print(f"{out}: {value:{metric.form}} {metric.unit} test {metric.label} at the last epoch")
    return done


def side_by_side(
    cells: Sequence[Cell], data: Sequence[Path], results: Path, progress: Progress
) -> list[dict | Exception | None]:
    """Train cells in this process; start it again where a step cannot be captured, which CUDA does not survive.

    Args:
        cells: A bundle.
        data: Folders of their prepared data sets.
        results: Root of the results.
        progress: Of the command.

    Returns:
        As `dgd.train.train_side_by_side`.
    """
    from dgd import train as training

    watch = Logs(progress.logs) if progress.logs else None
    orders = [training.Order(cell, folder, results / cell.path, watch) for cell, folder in zip(cells, data, strict=True)]
    try:
        return training.train_side_by_side(orders, results=results, until=progress.until) if orders else []
    except training.CannotCapture as error:
        progress.start_again(error)


if __name__ == "__main__":
    _end_with_launcher()
    own = Progress(**json.loads(sys.argv[3]))
    train_here([Cell.from_plain(json.loads(sys.argv[1]))], Path(sys.argv[2]), own)
    sys.exit(not own.good)
