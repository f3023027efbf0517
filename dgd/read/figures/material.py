"""Gather what the figures of one student draw, each file of its cells read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dgd.metrics import METRICS, Metric
from dgd.read.files import Traces, has, read_config, read_filters, read_history, read_images, read_pruning, read_traces

PROJECTION = "conv3"
"""Name, within its block, of the convolution that projects in a MobileNetV2 and in bottleneck ResNets. What a convolution is
for stands nowhere but in its name, and the paper's figure of filter norms shows these alone."""


@dataclass(frozen=True)
class Source:
    """A finished cell: its labels, folder and metrics.json."""

    method: str
    seed: int
    folder: Path
    metrics: Mapping


@dataclass
class Material:
    """What the cells of one student left, of network 0, by method; a method is in every mapping, also with nothing to show.

    Attributes:
        title: Names data set and model.
        metric: What the task is measured by.
        histories: A history.csv a seed: the epoch and the metric on the test split.
        pruned: A pruning.csv a seed.
        entropy_sums: The sum over layers of the entropy of their weights, nats, one a seed.
        networks: Networks of a group.
        layers: Convolution layers.
        norms: {seed: L1 norms (filters,)}.
        projections: {seed: L1 norms of the projection filters}; see `PROJECTION`.
        traces: {seed: what was recorded over epochs}.
        over: The row that a method's gain is over.
        made: Images that the first seed generated, uint8 (N, C, H, W), and their labels (N,).
    """

    title: str
    metric: Metric
    histories: dict[str, list[pd.DataFrame]] = field(default_factory=dict)
    pruned: dict[str, list[pd.DataFrame]] = field(default_factory=dict)
    entropy_sums: dict[str, list[float]] = field(default_factory=dict)
    networks: dict[str, int] = field(default_factory=dict)
    layers: int = 0
    norms: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    projections: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    traces: dict[str, dict[int, Traces]] = field(default_factory=dict)
    over: dict[str, str] = field(default_factory=dict)
    made: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def baselines(self, method: str) -> dict[int, np.ndarray]:
        """Return the L1 norms of the baseline of a method, of each seed."""
        return self.norms.get(self.over[method], {})


def gather(sources: Sequence[Source], title: str) -> Material:
    """Read the files of a student's cells; what a cell did not leave is left out.

    Args:
        sources: Finished cells of one data set, and so of one task, and of one student; at least one.
        title: Of the figures.

    Raises:
        ValueError: A file is damaged or missing, or a pruning curve is of other weights than metrics.json.
    """
    found = Material(title, METRICS[read_config(sources[0].folder / "config.yaml").task])
    for source in sources:
        for by_method in (found.histories, found.pruned, found.entropy_sums):
            by_method.setdefault(source.method, [])
        for by_seed in (found.norms, found.projections, found.traces):
            by_seed.setdefault(source.method, {})
        _add(found, source)
    return found


def _add(found: Material, source: Source) -> None:
    method, seed, folder, metric = source.method, source.seed, source.folder, found.metric
    results = source.metrics.get("networks", [])
    found.networks[method] = source.metrics.get("cell", {}).get("networks", len(results))  # sub-nets are none of the group
    if method not in found.over:
        found.over[method] = read_config(folder / "config.yaml").baseline
    if has(folder / "history.csv"):
        found.histories[method].append(read_history(folder / "history.csv", metric))
    if metric is METRICS["generation"] and method not in found.made:
        found.made[method] = read_images(folder / "predictions.npz")
    curve = read_pruning(folder / "pruning.csv", metric, results[0]["last"][metric.name] if results else None)
    if curve is not None:
        found.pruned[method].append(curve)
    l1 = read_filters(folder / "filters.npz").get(0) if has(folder / "filters.npz") else None
    if not l1:  # a transformer has no filters
        return
    found.layers = len(l1)
    if results and results[0]["filters"]["entropy_sum"] is not None:
        found.entropy_sums[method].append(results[0]["filters"]["entropy_sum"])
    found.norms[method][seed] = np.concatenate([*l1.values()])
    projections = [norms for layer, norms in l1.items() if PROJECTION in layer.split(".")[:-1]]
    if projections:
        found.projections[method][seed] = np.concatenate(projections)
    traces = read_traces(folder / "filters.npz")
    if traces:
        found.traces[method][seed] = traces
