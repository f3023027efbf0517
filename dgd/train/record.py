"""Write the results of a training into its cell's folder, from plain values that know no group or device."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dgd import filters, identity, provenance
from dgd.cell import Cell
from dgd.metrics import METRICS, best
from dgd.task import TASKS
from dgd.train import checkpoint
from dgd.train.outcomes import NoResult

RESUME = "resume.pt"
REPORTED = (
    *("epochs", "batch_size", "lr", "schedule", "step_epochs", "milestones", "gamma"),
    *("weight_decay", "momentum", "nesterov", "weight_average"),
)
"""Keys of the recipe that are in metrics.json too, for readers of that file alone."""


@dataclass
class Trace:
    """The measurements of a training over its epochs, which count from 0.

    Attributes:
        epochs: Epochs after which norms were recorded.
        norms: For each of these epochs and each network: L1 norms (filters,) and entropies in nats (layers,).
        exchanges: Epochs after which networks exchanged weights.
        shares: For each of these epochs and each network: the share (layers,) that each convolution layer kept of itself.
    """

    epochs: list[int] = field(default_factory=list)
    norms: list[list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=list)
    exchanges: list[int] = field(default_factory=list)
    shares: list[list[np.ndarray]] = field(default_factory=list)

    def state(self) -> dict:
        """Return the trace in the types that a resume point can hold."""
        return {name: _each(_to_tensors, value) for name, value in vars(self).items()}

    @classmethod
    def from_state(cls, state: Mapping) -> "Trace":
        """Return the trace that `state` was called on."""
        return cls(**{name: _each(_from_tensors, value) for name, value in state.items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of filters.npz that depend on the epoch."""
        arrays = {"epochs": np.array(self.epochs, np.int64)}
        for i, rows in enumerate(zip(*self.norms)):
            arrays[f"trace/l1/{i}"], arrays[f"trace/entropy/{i}"] = (np.stack(column) for column in zip(*rows))
        if self.exchanges:
            arrays["exchanges"] = np.array(self.exchanges, np.int64)
            arrays |= {f"trace/share/{i}": np.stack(rows) for i, rows in enumerate(zip(*self.shares))}
        return arrays


def _to_tensors(item):
    return torch.from_numpy(item) if isinstance(item, np.ndarray) else _each(_to_tensors, item)


def _from_tensors(item):
    return item.numpy() if isinstance(item, Tensor) else _each(_from_tensors, item)


def _each(change: Callable, item):
    return type(item)(map(change, item)) if isinstance(item, list | tuple) else item


def norms(network) -> tuple[np.ndarray, np.ndarray]:
    """Return the L1 norms of all convolution filters (filters,), and the entropy of each layer in nats (layers,)."""
    found = filters.l1_norms(network)
    if not found:
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    entropies = torch.stack(list(filters.layer_entropies(network).values()))
    return filters.flatten(found).cpu().numpy(), entropies.numpy()


@dataclass
class Result:
    """The results of a finished training.

    Attributes:
        states: State dict of each network: the members', then their sub-nets'.
        history: A row for each epoch.
        predictions: (networks, images) on the test split.
        labels: (images,) of the test split.
        classes: Number of classes of the data set.
        trace: Norms and shares over the epochs.
        parameters: Number of parameters of one network.
        fidelity: Status and deviations of the method.
        ensemble: The metric of the networks' ensemble; None for one network.
        timings: Seconds, images_per_second, memory.
        models: Of a cell whose networks have sub-nets: what each network is and costs.
        retrieval: Recall@1 across inputs, see `dgd.train.retrieval`; None where the teachers take the networks' own input.
    """

    states: Sequence[Mapping[str, Tensor]]
    history: list[dict]
    predictions: Tensor
    labels: Tensor
    classes: int
    trace: Trace
    parameters: int
    fidelity: dict
    ensemble: float | None
    timings: dict
    models: Sequence[dict] = ()
    retrieval: dict | None = None


def write_result(out: Path, cell: Cell, facts: Mapping, result: Result) -> dict:
    """Write the files of a finished cell, and return what metrics.json holds.

    Args:
        out: The cell's folder.
        cell: The cell.
        facts: What provenance.json is to say besides what the process knows of itself.
        result: What was found.
    """
    task, metric = TASKS[cell.task], METRICS[cell.task]
    networks, arrays, weights = [], {}, {}
    for i, state in enumerate(result.states):
        weights |= {f"{i}.{key}": value for key, value in state.items()}
        arrays |= {f"l1/{i}/{key}": value.float().cpu().numpy() for key, value in filters.l1_norms(state).items()}
        entropies = filters.layer_entropies(state)
        arrays[f"entropy/{i}"] = torch.stack(list(entropies.values())).numpy() if entropies else np.zeros(0, np.float32)
        model = result.models[i] if result.models else {}
        networks.append(model | _summary(result.history, i, metric) | {"filters": filters.summary(state)})
    name = metric.name
    reported = ("last", "best_on_test", "validation_selected")
    metrics = {
        "status": "finished",
        "cell": about(cell),
        # The reported network's results as plain numbers, because `dvc metrics show` does not read lists.
        name: {key: networks[0][key] and networks[0][key][name] for key in reported},
        "parameters": result.parameters,
        "conv_filters": networks[0]["filters"]["count"],
        "networks": networks,
        "timings": result.timings,
        "method": result.fidelity,
        "ensemble": None if result.ensemble is None else {name: result.ensemble},
    }
    if result.retrieval:
        metrics["retrieval"] = result.retrieval
    predictions = {key: task.stored(getattr(result, key), result.classes) for key in ("labels", "predictions")}
    return _write(out, cell, facts, metrics, pd.DataFrame(result.history), predictions, arrays | result.trace.arrays(), weights)


def write_failure(out: Path, cell: Cell, facts: Mapping, error: NoResult) -> dict:
    """Write the files of a cell that ended without a result: the reason, and empty outputs."""
    metrics = {"status": error.status, "cell": about(cell), "error": str(error)}
    return _write(out, cell, facts, metrics, pd.DataFrame(), {}, {}, {})


def about(cell: Cell) -> dict:
    """Return what metrics.json says about its cell; config.yaml has all of it."""
    found = {key: getattr(cell, key) for key in ("benchmark", "dataset", "model", "method", "seed", "student", "teacher")}
    found |= {"teachers": cell.taught, "networks": cell.networks}
    found |= {key: getattr(cell.recipe, key) for key in REPORTED}
    return found | {"protocol": cell.protocol, "task": cell.task, "train_images": cell.data.train_images}


def _summary(history: Sequence[Mapping], i: int, metric) -> dict:
    """Return last epoch, best on test, and the test result at the first epoch of best validation, for network i."""
    name, test, validation = metric.name, f"test_{metric.name}_{i}", f"validation_{metric.name}_{i}"
    rows = [row for row in history if row[test] is not None]
    last, peak = rows[-1], rows[best([row[test] for row in rows], metric)]
    chosen = None
    if last[validation] is not None:
        chosen = rows[best([row[validation] for row in rows], metric)]
    return {
        "last": {
            name: last[test],
            f"validation_{name}": last[validation],
            "loss": last[f"test_loss_{i}"],
            "epoch": last["epoch"],
        },
        "best_on_test": {name: peak[test], "epoch": peak["epoch"]},
        "validation_selected": chosen and {name: chosen[test], "epoch": chosen["epoch"]},
    }


def _write(
    out: Path,
    cell: Cell,
    facts: Mapping,
    metrics: dict,
    history: pd.DataFrame,
    predictions: Mapping[str, np.ndarray],
    arrays: Mapping[str, np.ndarray],
    weights: Mapping[str, Tensor],
) -> dict:
    """Write the cell's files and their seal."""
    contents = {}
    for name, content in (("predictions.npz", predictions), ("filters.npz", arrays)):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **content)
        contents[name] = buffer.getvalue()
    contents["model.safetensors"] = checkpoint.weights_bytes(weights)
    contents["history.csv"] = history.to_csv(index=False).encode()
    identity.write_cell(out, cell, contents, provenance.record(cell=cell.path, seed=cell.seed, **facts), metrics)
    checkpoint.remove_state(out / RESUME)
    return json.loads(json.dumps(metrics))
