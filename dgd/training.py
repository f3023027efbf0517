"""One loop for every method: a group of networks learns together in one process.

What differs between methods comes in as data: the objective's terms, the teachers' logits, and the exchange at an epoch's end.
Every random number is drawn from a stream named by seed, purpose, network and epoch, so an epoch can be run again by itself: a
killed training goes on from its last epoch and ends in the same bytes.
"""

import hashlib
import io
import json
import math
import os
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from tqdm import tqdm

from dgd import checkpoint, filters, models, provenance
from dgd import data as datasets
from dgd.grafting import EXCHANGES, GraftingError
from dgd.objectives import Batch, Objective

OUTPUTS = (
    "metrics.json",
    "history.csv",
    "config.yaml",
    "provenance.json",
    "predictions.npz",
    "filters.npz",
    "model.safetensors",
)
RESUME = "resume.pt"
EVALUATION_BATCH = 500


class NoResult(RuntimeError):
    """The cell ended without a result, and running it again would end the same; `status` says why in a word."""

    status = "failed"


class Diverged(NoResult):
    """A loss was not finite."""

    status = "diverged"


class CannotExchange(NoResult):
    """The method has its networks exchange weights, and these networks cannot."""

    status = "cannot exchange"


class NoTeacher(NoResult):
    """The teacher's own cell has no result."""

    status = "no teacher"


def stream(seed: int, *names) -> int:
    """The seed of one stream of random numbers: a hash of the cell's seed and what the stream is for."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names) -> torch.Generator:
    """A CPU generator for one stream."""
    return torch.Generator().manual_seed(stream(seed, *names))


def learning_rates(recipe: Mapping, networks: int) -> Callable[[float], list[float]]:
    """The learning rate of each network as a function of time in epochs (a fraction within an epoch).

    `slr`: one rate for all, times gamma every `step_epochs`. `difflr`: network i of N (from 1) starts at
    `lr * (1 + cos(pi (N - i) / N)) / 2`, so the first, reported one has the lowest; steps as slr (the released code's default).
    `dlr`: the same starts, cosine decay in every step (the README's "dlr"). With one network all starts are `lr`.
    """
    lr, epochs, schedule = recipe["lr"], recipe["epochs"], recipe["schedule"]
    starts = [lr] * networks
    if schedule in ("dlr", "difflr"):
        starts = [lr * (1 + math.cos(math.pi * (networks - i) / networks)) / 2 for i in range(1, networks + 1)]

    def at(time: float) -> list[float]:
        if schedule == "dlr":
            factor = (1 + math.cos(math.pi * time / epochs)) / 2
        else:
            factor = recipe["gamma"] ** (int(time) // recipe["step_epochs"])
        return [start * factor for start in starts]

    return at


def pick_device(name: str) -> torch.device:
    """'auto' is CUDA where there is one.

    Raises:
        ValueError: CUDA is asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("recipe.device is 'cuda' and no CUDA device is available; use 'auto' or 'cpu'")
    return torch.device(name)


class Group:
    """The networks of a cell, their optimiser, teachers, objective and exchange."""

    def __init__(self, cell: Mapping, dataset, teachers: list[nn.Module], device: torch.device):
        self.cell, self.recipe, self.device = cell, cell["recipe"], device
        recipe = self.recipe
        networks = []
        for i in range(cell["networks"]):
            torch.manual_seed(stream(cell["seed"], "init", i))
            networks.append(_create(cell["student"], dataset, cell))
        torch.manual_seed(stream(cell["seed"], "init", "objective"))
        self.networks = nn.ModuleList(self._place(net) for net in networks)
        self.teachers = [self._place(t).eval().requires_grad_(False) for t in teachers]
        self.objectives = nn.ModuleList(Objective(cell["objective"]).to(device) for _ in networks)
        self.rates = learning_rates(recipe, cell["networks"])
        self.optimiser = torch.optim.SGD(
            [{"params": [*net.parameters(), *obj.parameters()]} for net, obj in zip(self.networks, self.objectives)],
            lr=recipe["lr"],
            momentum=recipe["momentum"],
            weight_decay=recipe["weight_decay"],
            fused=True,
        )
        self.forwards = [torch.compile(net) if recipe["compile"] else net for net in self.networks]
        exchange = dict(cell["exchange"] or {})
        self.exchange = EXCHANGES[exchange.pop("name")] if exchange else None
        self.exchange_options = exchange
        if self.exchange:  # now, not after an epoch
            try:
                self._exchanged()
            except GraftingError as error:
                raise CannotExchange(f"{cell['student']} cannot take part in {cell['method']!r}: {error}") from None

    def _place(self, net: nn.Module) -> nn.Module:
        layout = torch.channels_last if self.recipe["channels_last"] else torch.preserve_format
        return net.to(self.device, memory_format=layout)

    def _autocast(self):
        if self.recipe["precision"] == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def train_epoch(self, loader, epoch: int) -> list[dict[str, float]]:
        """Train every network for an epoch; means over the epoch for each network: loss, each term, train_top1 (percent).

        Nothing waits for the device within the epoch: sums stay there and are read once at its end.

        Raises:
            Diverged: A network's loss was not finite.
        """
        seed = self.cell["seed"]
        torch.manual_seed(stream(seed, "dropout", epoch))
        self.networks.train()
        batches = [
            loader.batches(order=generator(seed, "order", i, epoch), augment=generator(seed, "augment", i, epoch))
            for i in range(len(self.networks))
        ]
        names = ["loss", *self.objectives[0].terms, "correct"]
        sums = torch.zeros(len(self.networks), len(names), device=self.device)
        seen = 0
        for step, group in enumerate(zip(*batches)):
            for settings, lr in zip(self.optimiser.param_groups, self.rates(epoch + step / len(loader))):
                settings["lr"] = lr
            self.optimiser.zero_grad(set_to_none=True)
            for i, (images, labels, index) in enumerate(group):
                sums[i] += self._learn(i, images, labels, index)
            self.optimiser.step()
            seen += len(group[0][1])
        means = [[value / seen for value in row] for row in sums.tolist()]
        for i, (row, net) in enumerate(zip(means, self.networks)):
            # What the last step did to weights and batch statistics shows in no loss of this epoch.
            held = [v.isfinite().all() for v in net.state_dict().values() if v.is_floating_point()]
            if not math.isfinite(row[0]) or not torch.stack(held).all():
                raise Diverged(
                    f"the loss of network {i} is not finite in epoch {epoch} at learning rate "
                    f"{self.rates(epoch)[i]:g}; lower recipe.lr or change the seed"
                )
        rows = [dict(zip(names, row)) for row in means]
        return [{"train_top1": 100 * row.pop("correct"), **row} for row in rows]

    def _learn(self, i: int, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Add network i's gradients for one batch; returns sums over the batch: total, terms, correct."""
        with self._autocast():
            with torch.no_grad():
                teacher_logits = [teacher(images) for teacher in self.teachers]
            logits = self.forwards[i](images)
        total, parts = self.objectives[i](Batch(images, labels, index, logits, teacher_logits))
        total.backward()
        with torch.no_grad():
            correct = (logits.argmax(1) == labels).float().sum()
            return torch.stack([*(value.detach() * len(labels) for value in (total, *parts.values())), correct])

    @torch.no_grad()
    def evaluate(self, loader) -> tuple[list[float], list[float], Tensor]:
        """Top-1 (percent) and mean cross-entropy of each network, and predictions (networks, images) on the CPU."""
        self.networks.eval()
        correct = torch.zeros(len(self.networks), device=self.device)
        loss = torch.zeros(len(self.networks), device=self.device)
        predictions = []
        for images, labels, _ in loader.batches():
            with self._autocast():
                logits = torch.stack([forward(images) for forward in self.forwards]).float()
            predicted = logits.argmax(2)
            correct += (predicted == labels).sum(1)
            loss += torch.stack([F.cross_entropy(z, labels, reduction="sum") for z in logits])
            predictions.append(predicted)
        top1 = [100 * n / loader.images for n in correct.tolist()]
        return top1, [x / loader.images for x in loss.tolist()], torch.cat(predictions, 1).cpu()

    @torch.no_grad()
    def trade(self) -> None:
        """Let the networks exchange weights, if the method has them do so."""
        if self.exchange:
            for net, state in zip(self.networks, self._exchanged()):
                net.load_state_dict(state)

    def _exchanged(self) -> list[dict[str, Tensor]]:
        return self.exchange([net.state_dict() for net in self.networks], **self.exchange_options)

    def state(self) -> dict:
        """All that a later epoch depends on."""
        return {
            "networks": self.networks.state_dict(),
            "objectives": self.objectives.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load(self, state: Mapping) -> None:
        """Take up a `state`."""
        self.networks.load_state_dict(state["networks"])
        self.objectives.load_state_dict(state["objectives"])
        self.optimiser.load_state_dict(state["optimiser"])


def _create(name: str, dataset, cell: Mapping) -> nn.Module:
    return models.create(
        name,
        num_classes=dataset.num_classes,
        in_chans=dataset.in_chans,
        image_size=dataset.image_size,
        adapt_stem=cell["adapt_stem"],
    )


def load_teacher(folder: Path, dataset, cell: Mapping) -> nn.Module:
    """The first network of a finished cell, at its last epoch.

    Raises:
        NoTeacher: That cell has no result.
        ValueError: Its folder holds no cell, or weights of another shape.
    """
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        raise ValueError(f"{metrics}: no such file; train the teacher first")
    record = json.loads(metrics.read_text())
    if record["status"] != "finished":
        raise NoTeacher(f"the teacher in {folder} has no result: {record.get('error', record['status'])}")
    teacher = _create(record["cell"]["student"], dataset, cell)
    weights = checkpoint.load_weights(folder / "model.safetensors")
    try:
        teacher.load_state_dict({key[2:]: value for key, value in weights.items() if key.startswith("0.")})
    except RuntimeError as error:
        raise ValueError(f"{folder / 'model.safetensors'}: {str(error).splitlines()[-1].strip()}") from None
    return teacher


def train_cell(cell: Mapping, *, results: str | Path, data: str | Path, out: str | Path | None = None) -> dict:
    """Train one cell and write its folder.

    Args:
        cell: A resolved cell of `dgd.config.cells`.
        results: Root of the results; teachers are looked up below it.
        data: Folder of the prepared data set.
        out: The cell's folder; `results / cell['path']` by default.

    Returns:
        What metrics.json holds.

    Raises:
        Diverged: A loss was not finite. The folder then holds metrics.json with `status` and `error`, and empty outputs.
        NoTeacher: The teacher has no result; recorded likewise.
    """
    out = Path(out or Path(results) / cell["path"])
    out.mkdir(parents=True, exist_ok=True)
    recipe = cell["recipe"]
    torch.set_num_threads(recipe["threads"])
    device = pick_device(recipe["device"])
    _set_arithmetic(recipe)
    dataset = datasets.load(data)
    folders = [Path(results) / path for path in cell["teachers"]]
    facts = {
        "dataset_sha256": provenance.file_hash(Path(data) / "manifest.json"),
        "teachers": {path: _hash(folder / "model.safetensors") for path, folder in zip(cell["teachers"], folders)},
    }
    about = {key: cell[key] for key in ("benchmark", "dataset", "model", "method", "seed", "student", "teacher")}
    about |= {
        "teachers": len(folders),
        "networks": cell["networks"],
        "epochs": recipe["epochs"],
        "protocol": cell["protocol"],
    }
    try:
        teachers = [load_teacher(folder, dataset, cell) for folder in folders]
        group = Group(cell, dataset, teachers, device)
        result = _fit(group, dataset, out, json.dumps([cell, facts, provenance.code_hash()], sort_keys=True))
    except NoResult as error:
        result = {
            "metrics": {"status": error.status, "error": str(error)},
            "history": pd.DataFrame(),
            "predictions": {},
            "filters": {},
            "weights": {},
        }
        _write(out, cell, about, facts, result)
        raise
    return _write(out, cell, about, facts, result)


def _fit(group: Group, dataset, out: Path, stamp: str) -> dict:
    """The epochs: train, evaluate, exchange. Evaluation comes first, so no reported network was just blended."""
    cell, recipe = group.cell, group.recipe
    epochs = recipe["epochs"]
    workers = cell["data"]["workers"]

    def loader(split: str, size: int):
        return dataset.loader(
            split, batch_size=size, device=group.device, workers=workers, channels_last=recipe["channels_last"]
        )

    train = loader("train", recipe["batch_size"])
    test = loader("test", EVALUATION_BATCH)
    validation = loader("validation", EVALUATION_BATCH) if dataset.sizes["validation"] else None
    resume = out / RESUME
    history, spent, first = [], {"seconds": 0.0, "training": 0.0}, 0
    if state := checkpoint.load_state(resume, stamp):
        group.load(state["group"])
        history, spent, first = state["history"], state["spent"], state["epoch"] + 1
    bar = tqdm(range(first, epochs), initial=first, total=epochs, desc=cell["path"], unit="epoch", mininterval=5)
    predictions = None
    for epoch in bar:
        start = time.perf_counter()
        rows = group.train_epoch(train, epoch)
        spent["training"] += time.perf_counter() - start
        row = {"epoch": epoch}
        last = epoch == epochs - 1
        if last or (epoch + 1) % recipe["evaluate_every"] == 0:
            top1, loss, predictions = group.evaluate(test)
            if not all(map(math.isfinite, loss)):
                raise Diverged(f"the test loss is not finite in epoch {epoch}; lower recipe.lr or change the seed")
            validated = group.evaluate(validation)[0] if validation else [None] * len(rows)
        else:
            top1 = loss = validated = [None] * len(rows)
        for i, means in enumerate(rows):
            row[f"lr_{i}"] = group.rates(epoch)[i]
            row |= {f"{name}_{i}": value for name, value in means.items()}
            row |= {f"validation_top1_{i}": validated[i], f"test_top1_{i}": top1[i], f"test_loss_{i}": loss[i]}
        history.append(row)
        bar.set_postfix_str(f"loss {rows[0]['loss']:.3f}" + (f", test {top1[0]:.2f} %" if top1[0] is not None else ""), False)
        if not last:
            group.trade()
        spent["seconds"] += time.perf_counter() - start
        if not last:
            point = {"group": group.state(), "history": history, "spent": spent, "epoch": epoch, "stamp": stamp}
            checkpoint.save_state(resume, point)
    return _result(group, dataset, history, predictions, spent, train.images)


def _result(group: Group, dataset, history: list[dict], predictions: Tensor, spent: dict, images: int) -> dict:
    networks, arrays, weights = [], {}, {}
    labels = dataset.tensors["test_labels"]
    small = np.uint8 if dataset.num_classes <= 256 else np.uint16
    for i, net in enumerate(group.networks):
        state = net.state_dict()
        weights |= {f"{i}.{key}": value for key, value in state.items()}
        arrays |= {f"l1/{i}/{key}": value.float().cpu().numpy() for key, value in filters.l1_norms(state).items()}
        entropies = filters.layer_entropies(state)
        arrays[f"entropy/{i}"] = torch.stack(list(entropies.values())).numpy() if entropies else np.zeros(0, np.float32)
        networks.append(_summary(history, i) | {"filters": filters.summary(state)})
    metrics = {
        "status": "finished",
        # The reported network's, as plain numbers: `dvc metrics show` looks into no list.
        "top1": {key: networks[0][key] and networks[0][key]["top1"] for key in ("last", "best_on_test", "validation_selected")},
        "parameters": sum(p.numel() for p in group.networks[0].parameters()),
        "conv_filters": networks[0]["filters"]["count"],
        "networks": networks,
        "timings": {
            "seconds": round(spent["seconds"], 3),
            "images_per_second": round(images * len(history) * len(networks) / spent["training"], 1),
            "peak_memory_mib": round(_peak_memory(group.device), 1),
        },
    }
    return {
        "metrics": metrics,
        "history": pd.DataFrame(history),
        "predictions": {"labels": labels.numpy().astype(small), "predictions": predictions.numpy().astype(small)},
        "filters": arrays,
        "weights": weights,
    }


def _summary(history: list[dict], i: int) -> dict:
    """Last epoch, best on test, and the test top-1 at the first epoch of best validation, for network i."""
    rows = [row for row in history if row[f"test_top1_{i}"] is not None]
    last, best = rows[-1], max(rows, key=lambda row: row[f"test_top1_{i}"])
    chosen = None
    if last[f"validation_top1_{i}"] is not None:
        chosen = max(rows, key=lambda row: row[f"validation_top1_{i}"])
    return {
        "last": {
            "top1": last[f"test_top1_{i}"],
            "validation_top1": last[f"validation_top1_{i}"],
            "loss": last[f"test_loss_{i}"],
            "epoch": last["epoch"],
        },
        "best_on_test": {"top1": best[f"test_top1_{i}"], "epoch": best["epoch"]},
        "validation_selected": chosen and {"top1": chosen[f"test_top1_{i}"], "epoch": chosen["epoch"]},
    }


def _write(out: Path, cell: Mapping, about: dict, facts: dict, result: dict) -> dict:
    """Write the cell's files, metrics.json last: where it is, the others are."""
    for name in ("predictions", "filters"):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **result[name])
        checkpoint.write_bytes(out / f"{name}.npz", buffer.getvalue())
    checkpoint.save_weights(out / "model.safetensors", result["weights"])
    checkpoint.write_text(out / "history.csv", result["history"].to_csv(index=False))
    checkpoint.write_text(out / "config.yaml", yaml.safe_dump(dict(cell), sort_keys=False))
    checkpoint.write_json(out / "provenance.json", provenance.record(cell=cell["path"], seed=cell["seed"], **facts))
    metrics = {"status": result["metrics"].pop("status"), "cell": about, **result["metrics"]}
    checkpoint.write_json(out / "metrics.json", metrics)
    (out / RESUME).unlink(missing_ok=True)
    return metrics


def _hash(path: Path) -> str | None:
    return provenance.file_hash(path) if path.is_file() else None


def _peak_memory(device: torch.device) -> float:
    """MiB: allocated on the CUDA device, else resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _set_arithmetic(recipe: Mapping) -> None:
    """Determinism, and whether CUDA may round float32 to TF32: only if the recipe says so; torch would in convolutions."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = recipe["precision"] == "tf32"
    wanted = recipe["deterministic"]
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = not wanted
