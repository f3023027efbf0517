"""Make a prepared data set of a generator's images: drawn, subsampled by a density ratio, filtered by a teacher."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgd import data, identity, keys
from dgd.cell import Cell
from dgd.data.preparation import write_prepared
from dgd.data.selection import EmptySelection, Filter, Rejection, filter_values
from dgd.task import LabelCode, frechet, from_uint8, to_uint8
from dgd.train.cell import load_network
from dgd.train.device import pick_device, set_up
from dgd.train.features import Reader
from dgd.train.outcomes import NoResult
from dgd.train.streams import generator

BATCH = 500


def is_generated(cell: Cell, *, results: str | Path, base: str | Path, out: str | Path) -> bool:
    """Return whether `out` holds what `generate` would write, according to its manifest alone."""
    path = Path(out) / "manifest.json"
    return path.is_file() and data.manifest(path).get("arguments") == _arguments(cell, Path(results), Path(base))


def _arguments(cell: Cell, results: Path, base: Path) -> dict:
    return {
        "generated": keys.plain(cell.generated),
        "real": identity.data_hash(base / "manifest.json"),
        "makers": [identity.file_hash(results / path / identity.WEIGHTS) for path in cell.makers],
    }


def generate(cell: Cell, *, results: str | Path, base: str | Path, out: str | Path) -> dict:
    """Write the prepared data set that a cell with `generated` trains on, and return its manifest.

    The validation and test splits are those of the real data set, as are mean and deviation, so that a teacher sees what it
    learned from. The same cells and options give the same images on one machine.

    Args:
        cell: The cell; its `makers` are finished.
        results: Root of the results.
        base: Folder of the real, prepared data set.
        out: Folder to write into.

    Where a maker has no result, or too few images pass, the training split is empty and `failed` in the manifest says why.

    Raises:
        ValueError: The real data set is not in memory, or a maker's cell is not there.
    """
    results, base, spec = Path(results), Path(base), cell.generated
    set_up(cell.recipe)
    real = data.load(base)
    if real.manifest["loader"] != "memory":
        raise ValueError(f"{base}: it is streamed; images are generated beside those in memory: set data.loader: memory")
    tensors = dict(real.tensors)
    own = tensors["train_images"], tensors["train_labels"]
    parts, about = [tuple(x[:0] for x in own)], {}
    try:
        images, labels, made = _Maker(cell, results, real, pick_device(cell.recipe.device)).all()
        parts = [*([own] if spec.real else []), (images, labels.to(own[1].dtype))]
        about["origin"] = {"makers": list(cell.makers), **made}
    except (EmptySelection, NoResult) as error:
        about["failed"] = str(error)
    tensors["train_images"], tensors["train_labels"] = (torch.cat(column).contiguous() for column in zip(*parts))
    manifest = {key: value for key, value in real.manifest.items() if key != "images_sha256"}
    manifest |= about | {
        "arguments": _arguments(cell, results, base),
        "sizes": real.sizes | {"train": len(tensors["train_labels"])},
        "shapes": {key: list(tensor.shape) for key, tensor in sorted(tensors.items())},
    }
    return write_prepared(tensors, manifest, out)


class _Maker:
    """The networks that images are made and chosen by.

    Args:
        cell: The cell that is to train on them.
        results: Root of the results.
        real: The real data set.
        device: Where they run.
    """

    def __init__(self, cell: Cell, results: Path, real: data.Dataset, device: torch.device):
        self.spec, self.device = cell.generated, device
        self.name = f"{cell.slug}: generated.{cell.images}"
        cells = {results / path: self._cell(results / path) for path in cell.makers}
        self.real = real.under(next(iter(cells.values())).recipe)  # all of them have its constants; see `load_network`
        self.generator, self.teacher, *ratio = (self._load(folder, cell) for folder, cell in cells.items())
        self.ratio = ratio[0] if ratio else None
        self.code = LabelCode(real.tensors["train_labels"], real.num_classes)
        example = torch.zeros(2, real.in_chans, real.image_size, real.image_size, device=device)
        self.reader = Reader(self.teacher, example, features=True, pooled=True)

    def _cell(self, folder: Path) -> Cell:
        cell = identity.cell_of(folder)
        if cell is None:
            raise ValueError(f"{folder}: no finished cell in it, and {self.name} is made by it; train it first")
        return cell

    def _load(self, folder: Path, cell: Cell) -> nn.Module:
        return load_network(folder, self.real, cell, cell.options).to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def all(self) -> tuple[Tensor, Tensor, dict]:
        """Return images uint8 (N, C, H, W), labels (N,), and what is to be recorded of them."""
        spec, classes = self.spec, self.real.num_classes
        values = range(classes) if classes else np.linspace(self.code.low, self.code.high, spec.labels).tolist()
        # Numbers are filtered all together: as many more are made as the filter takes away.
        total = spec.images if classes or not spec.filter else math.ceil(spec.images / spec.filter) + 2
        images, labels, rows = [], [], []
        for place, value in enumerate(values):
            count = total // len(values) + (place < total % len(values))
            try:
                made, row = self._of_label(place, value, count)
            except EmptySelection as error:
                raise EmptySelection(f"{self.name}, label {value:.4g}: {error}") from None
            images.append(made)
            labels += [value] * count
            rows.append({"label": value, "images": count, **row})
        images, labels = torch.cat(images), torch.tensor(labels, dtype=torch.int64 if classes else torch.float32)
        about, predicted = {"labels": rows, **_totals(rows)}, self._predictions(images)
        if spec.filter and not classes:
            chosen, cutoff, share = self._filtered(predicted.double().numpy(), labels.double().numpy())
            about |= {"cutoffs": [cutoff, cutoff], "filter_kept": share}
            images, labels, predicted = images[chosen], labels[chosen], predicted[chosen]
        about |= self._compared(predicted, labels, images)
        return images, predicted if spec.relabel else labels, about

    def _of_label(self, place: int, value: float, count: int) -> tuple[Tensor, dict]:
        """Return images that are made for one label, and what rejection and filter did."""
        spec, stream = self.spec, generator(self.spec.seed, "generate", place)
        numbers = generator(spec.seed, "reject", place)
        label = torch.tensor([value], dtype=torch.int64 if self.real.num_classes else torch.float32)
        draw: Callable[[int], Tensor] = partial(self._draw, self.code(label), stream)
        found = {}
        if spec.subsample and count:
            ratio = partial(self._ratios, self.code(label))
            batch = max(50, min(BATCH, 2 * count))
            draw = rejection = Rejection(draw, ratio, lambda n: torch.rand(n, generator=numbers).numpy(), spec.burn_in, batch)
        if spec.filter and self.real.num_classes and count:
            draw = chosen = Filter(draw, partial(self._losses, value), spec.filter, spec.filter_burn_in)
        images = draw(count)
        if spec.subsample and count:
            found = {"drawn": rejection.drawn, "accepted": rejection.accepted, "largest_ratio": rejection.maximum}
        if spec.filter and self.real.num_classes and count:
            found |= {"seen": chosen.drawn, "kept": chosen.kept, "cutoff": chosen.cutoff}
        return images, found

    def _draw(self, code: Tensor, stream: torch.Generator, count: int) -> Tensor:
        latent = torch.cat([torch.randn(count, self.generator.noise, generator=stream), code.expand(count, -1)], 1)
        made = [to_uint8(self.generator(part.to(self.device)), self.real).cpu() for part in latent.split(BATCH)]
        return torch.cat(made) if made else torch.empty(0, self.real.in_chans, *[self.real.image_size] * 2, dtype=torch.uint8)

    def _batches(self, images: Tensor):
        return (from_uint8(part.to(self.device), self.real) for part in images.split(BATCH))

    def _features(self, images: Tensor) -> Tensor:
        return torch.cat([self.reader(part).pooled.float().cpu() for part in self._batches(images)])

    def _ratios(self, code: Tensor, images: Tensor) -> np.ndarray:
        features = self._features(images)
        coded = torch.cat([code.expand(len(features), -1), features], 1)
        return self.ratio(coded.to(self.device))[:, 0].double().cpu().numpy()

    def _answers(self, images: Tensor) -> Tensor:
        return torch.cat([self.teacher(part).float().cpu() for part in self._batches(images)])

    def _losses(self, label: int, images: Tensor) -> np.ndarray:
        answers = self._answers(images).double()
        return F.cross_entropy(answers, torch.full((len(answers),), label), reduction="none").numpy()

    def _predictions(self, images: Tensor) -> Tensor:
        """Return the teacher's classes (N,), or its numbers, within the range of the real labels."""
        answers = self._answers(images)
        return answers.argmax(1) if self.real.num_classes else answers[:, 0].clamp(self.code.low, self.code.high)

    def _filtered(self, predicted: np.ndarray, labels: np.ndarray) -> tuple[Tensor, float, float]:
        """Return positions of as many kept images as are wanted, the cut-off, and the share that the filter keeps."""
        wanted = self.spec.images
        try:
            kept, cutoff = filter_values(predicted, labels, self.spec.filter)
        except EmptySelection as error:
            raise EmptySelection(f"{self.name}: {error}") from None
        if len(kept) < wanted:
            raise EmptySelection(f"{self.name}: the filter keeps {len(kept)} images and {wanted} are wanted; raise filter")
        some = torch.randperm(len(kept), generator=generator(self.spec.seed, "filter"))[:wanted].sort().values
        return torch.from_numpy(kept)[some], cutoff, len(kept) / len(labels)

    def _compared(self, predicted: Tensor, labels: Tensor, images: Tensor) -> dict:
        """Return how the teacher's predictions agree with the labels, and how its features do with those of test images."""
        if self.real.num_classes:
            found = {"teacher_agreement": 100 * float((predicted == labels).double().mean())}
        else:
            found = {"teacher_error": float((predicted.double() - labels).square().mean().sqrt())}
        sides = [self._features(x).double().numpy() for x in (images, self.real.tensors["test_images"])]
        return found | {"feature_distance": frechet(*((x.mean(0), np.cov(x.T, bias=True)) for x in sides))}


def _totals(rows: list[dict]) -> dict:
    """Return the shares that rejection accepted and that the filter kept, over all labels."""
    found = {}
    for name, (part, whole) in {"accepted": ("accepted", "drawn"), "filter_kept": ("kept", "seen")}.items():
        if seen := sum(row.get(whole, 0) for row in rows):
            found[name] = sum(row.get(part, 0) for row in rows) / seen
    if cutoffs := [row["cutoff"] for row in rows if "cutoff" in row]:
        found["cutoffs"] = [min(cutoffs), max(cutoffs)]
    return found
