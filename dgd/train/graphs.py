"""Replay a training step as a CUDA graph: the same kernels with the same numbers, and nothing for the host to do.

A step runs as it is for `WARM_UP` times, which are part of the training, then it is captured, and from then on replayed. A
smaller last batch is a graph of its own.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dgd.task import Prediction
from dgd.train.launches import Lighter
from dgd.train.outcomes import CannotCapture
from dgd.train.streams import Seeds

WARM_UP = 3
"""Steps of a size that run before it is captured: libraries choose their algorithms, optimisers and autograd make what they
keep."""
EAGER = "DGD_EAGER"
"""Environment variable: JSON, cell's path -> why its step cannot be captured, from a process in which that failed."""


class Cursor:
    """The place of a step among those of a pass over a split, on the device, where a step that is replayed can read it.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device):
        self.at = torch.zeros(1, dtype=torch.int64, device=device)
        self.first = self.within = None

    def start(self, parts: Sequence[slice]) -> None:
        """Go to the first of the parts of a pass, which are the same in every pass."""
        if self.first is None:
            self.first = torch.tensor([part.start for part in parts], device=self.at.device)
            self.within = torch.arange(max(part.stop - part.start for part in parts), device=self.at.device)
        self.at.zero_()

    def part(self, size: int) -> Tensor:
        """Return the positions (size,) of the part that is next, which has this many."""
        return self.first.index_select(0, self.at) + self.within[:size]

    def move(self) -> None:
        """Go to the next part."""
        self.at += 1


class Launcher:
    """A launcher runs a step as it is.

    Args:
        step: A function of the number of images of the step's batch.
        how: What metrics.json says of it.
    """

    def __init__(self, step: Callable[[int], None], how: str):
        self.step, self.how = step, how

    def __call__(self, size: int) -> None:
        """Run a step on a batch of this many images."""
        self.step(size)


class Replays(Launcher):
    """A launcher that captures the step of each size of batch, and replays it.

    Args:
        step: As for `Launcher`. It must read nothing from the host that differs between two steps.
        path: The cell's path.
        seeds: The seeds of the step's random numbers.
        lighter: What counts the passes of the step's networks.

    Raises:
        CannotCapture: The capture failed, when it is called; the process cannot go on.
    """

    def __init__(self, step: Callable[[int], None], path: str, seeds: Seeds, lighter: Lighter):
        super().__init__(step, "replayed as a CUDA graph")
        self.path, self.seeds, self.lighter = path, seeds, lighter
        self.passes: dict[int, dict] = {}
        self.ran: Counter[int] = Counter()
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.capturing = True

    def __call__(self, size: int) -> None:
        """See `Launcher.__call__`."""
        if not self.capturing:
            self.step(size)
        elif self.ran[size] < WARM_UP:
            self._warm_up(size)
        else:
            if size not in self.graphs:
                self.graphs[size] = self._capture(size)
            self.graphs[size].replay()
            self.lighter.count(self.passes[size])

    def _warm_up(self, size: int) -> None:
        self.ran[size] += 1
        self.seeds.watched = True
        self.step(size)
        self.seeds.look()
        self.seeds.watched = False
        if self.seeds.drew:
            self.capturing, self.how = False, eager("its networks or terms draw random numbers")

    def _capture(self, size: int) -> torch.cuda.CUDAGraph:
        before, self.seeds.held = self.lighter.passes(), True
        # In deterministic mode torch fills new memory with NaN, a kernel for each tensor; the steps that ran had it, so nothing
        # reads what it has not written.
        fills = torch.utils.deterministic.fill_uninitialized_memory
        torch.utils.deterministic.fill_uninitialized_memory = False
        try:
            graph = self._record(size)
        except Exception as error:
            raise CannotCapture(self.path, " ".join(str(error).split()) or type(error).__name__) from error
        finally:
            self.seeds.held = False
            torch.utils.deterministic.fill_uninitialized_memory = fills
        self.passes[size] = {norm: number - before[norm] for norm, number in self.lighter.passes().items()}
        self.lighter.count({norm: -number for norm, number in self.passes[size].items()})  # nothing has run yet
        return graph

    def _record(self, size: int) -> torch.cuda.CUDAGraph:
        """Return the step as a CUDA graph; it does not run."""
        graph = torch.cuda.CUDAGraph()
        for generator in self.seeds.generators:
            if generator is not None:
                graph.register_generator_state(generator)
        pool = next((made.pool() for made in self.graphs.values()), None)  # graphs of a cell never run at the same time
        stream = torch.cuda.current_stream()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.step(size)
        return graph


def launcher(step: Callable[[int], None], group, loader, seeds: Seeds, lighter: Lighter) -> Launcher:
    """Return what runs the step of a group: `Replays` on CUDA, where nothing stands against it."""
    if group.device.type != "cuda":
        return Launcher(step, "eager")
    why = obstacle(group, loader)
    return Launcher(step, eager(why)) if why else Replays(step, group.cell.path, seeds, lighter)


def evaluation(batch: Callable[[int], None], group, loader) -> Launcher:
    """Return what runs a batch of an evaluation: `Replays` where labels are predicted, on CUDA, where nothing is against it."""
    if group.device.type != "cuda" or not isinstance(group.task, Prediction) or obstacle(group, loader):
        return Launcher(batch, "eager")
    nothing = Seeds(group.cell.seed, group.device, "", [], generators=False)
    return Replays(batch, group.cell.path, nothing, Lighter([], halves=False))


def eager(why: str) -> str:
    """Return what metrics.json says of steps that are not replayed."""
    return f"eager, because {why}"


def obstacle(group, loader) -> str | None:
    """Return why the step of a group is not to be captured; None where that can be tried."""
    recipe, requires = group.recipe, group.requires
    return next(
        (
            why
            for stands, why in (
                (not recipe.graphs, "recipe.graphs is false"),
                (group.cell.processes > 1, "the cell has several processes"),
                (not loader.captured, "its images are read from files"),
                (requires.runs, "its terms run networks themselves"),
                (requires.input_gradient, "its terms differentiate a network by its images"),
                (recipe.compile, "recipe.compile is true"),
                (True, json.loads(os.environ.get(EAGER, "{}")).get(group.cell.path)),
            )
            if stands and why
        ),
        None,
    )
