"""Read a prepared data set and give batches of it, augmented on the device.

All images of a split lie on the device as uint8, padded once; a batch is one gather, one flip and one conversion. The
distribution is that of torchvision's RandomCrop(size, padding, padding_mode), RandomHorizontalFlip, ToTensor and Normalize for
each image, and given the same shifts and flips the values are equal to the last bit.
"""

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.functional import pad as zero_pad
from torchvision.transforms import v2

from dgd.cell import IMAGE, Augment, Normalise, Recipe
from dgd.data.preparation import FORMAT, check_manifest, check_tensors, list_sha256, read_manifest
from dgd.data.sources import decode, find
from dgd.files import file_hash
from dgd.source_files import place

EVALUATION_BATCH = 500
SHARED = "/dev/shm"
"""Where worker processes leave batches."""
STREAMED = "recipe.augment: pad and mode are for images in memory; of a streamed folder only flip is known, leave them out"
MORE_ROOM = "give the container more (docker run --shm-size=2g), or lower data.workers"


@dataclass
class Examples:
    """A batch of a split (B examples), on the device.

    Attributes:
        inputs: Name -> float32 (B, C, H, W): the data set's own input, such as `image`, and its partners' where it has some.
        labels: (B,), int64 classes or float32 values.
        index: (B,) int64, positions in the split.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    index: torch.Tensor

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)


def normalize(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, channels_last: bool = False) -> torch.Tensor:
    """Return (images / 255 - mean) / std as float32.

    Args:
        images: uint8 (B, C, H, W).
        mean: float32 (C, 1, 1) in 0..1, on the images' device.
        std: like `mean`.
        channels_last: memory format of the result.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    # A tensor instead of a number, because CUDA multiplies by a number's rounded inverse, which changes the last bit.
    full = torch.full((), 255.0, device=images.device)
    return images.to(torch.float32, memory_format=layout).div_(full).sub_(mean).div_(std)


def augment(
    padded: torch.Tensor,
    index: torch.Tensor,
    shifts: torch.Tensor | None,
    flips: torch.Tensor | None,
    pad: int,
    mean: torch.Tensor,
    std: torch.Tensor,
    channels_last: bool = False,
) -> torch.Tensor:
    """Crop, flip and normalise some of the images.

    Args:
        padded: all images with `pad` pixels more on each side, uint8 (N, C, H + 2 pad, W + 2 pad).
        index: which images, int64 (B,).
        shifts: row and column of each crop's first pixel in the padded image, int64 (2, B) in 0..2 pad; None for the
            image itself.
        flips: which images to mirror left to right, bool (B,); None for none.
        pad: see `padded`.
        mean: float32 (C, 1, 1).
        std: like `mean`.
        channels_last: memory format of the result.

    Returns:
        float32 (B, C, H, W).
    """
    height, width = padded.shape[2] - 2 * pad, padded.shape[3] - 2 * pad
    if shifts is None:
        images = padded[:, :, pad : pad + height, pad : pad + width][index]
    else:
        crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, C, rows, columns, H, W)
        images = crops[index, :, shifts[0], shifts[1]]
    if flips is not None:
        images = torch.where(flips[:, None, None, None], images.flip(3), images)
    return normalize(images, mean, std, channels_last)


def pad_images(images: torch.Tensor, augmentation: Mapping) -> torch.Tensor:
    """Return images with `pad` pixels more on each side: zeros, or by `mode: reflect` the image, mirrored at its edge.

    Args:
        images: uint8 (N, C, H, W).
        augmentation: Of a data set's manifest; see `Dataset.under`.
    """
    pad = augmentation["pad"]
    if augmentation.get("mode") != "reflect":
        return zero_pad(images, [pad] * 4)
    for axis in (2, 3):
        last = images.shape[axis] - 1
        place = torch.arange(-pad, last + pad + 1, device=images.device).abs()  # -1 is 1, and last + 1 is last - 1
        images = images.index_select(axis, last - (last - place).abs())
    return images


class Loader:
    """A loader of batches of one split that is held in memory.

    Attributes:
        images: number of images of the split.
        input: name of the input that the examples are of.
        captured: a step that reads its batches can be captured as a CUDA graph.
    """

    captured = True

    def __init__(
        self,
        dataset: "Dataset",
        split: str,
        batch_size: int,
        device: torch.device,
        channels_last: bool,
        shard: tuple[int, int] = (0, 1),
        partner: "Dataset | None" = None,
    ):
        self.input, self.partner = dataset.input, partner
        self.dataset, self.split, self.batch_size, self.device = dataset, split, batch_size, device
        self.channels_last, self.shard = channels_last, shard
        self.images = dataset.sizes[split]
        self.normalisations = {one.input: one.normalisation(device) for one in (dataset, partner) if one}

    def __len__(self) -> int:
        """Return the number of steps in an epoch; for the training split, in a training epoch."""
        return -(-self._used(self.split == "train") // self.batch_size)

    def _used(self, training: bool) -> int:
        """Return the number of images in an epoch.

        A last training batch with less than two images for each shard is left out, because batch norm needs two.
        """
        rest = self.images % self.batch_size
        alone = training and self.images > self.batch_size and rest < 2 * self.shard[1]
        return self.images - alone * rest

    def size(self, step: int) -> int:
        """Return the number of images in a training step's batch, over all shards."""
        return min(self.batch_size, self._used(True) - step * self.batch_size)

    def slices(self, images: int) -> list[slice]:
        """Return the slice of the epoch's order that is this shard's part of each batch."""
        part, parts = self.shard
        bounds = [*range(0, images, self.batch_size), images]
        if images > self.batch_size and images % self.batch_size < parts and images % self.batch_size:
            del bounds[-2]  # a last batch with fewer images than shards is merged into the one before
        return [
            slice(start + (end - start) * part // parts, start + (end - start) * (part + 1) // parts)
            for start, end in pairwise(bounds)
        ]

    def batches(
        self,
        order: torch.Generator | None = None,
        augment: torch.Generator | None = None,
        partners: torch.Generator | None = None,
    ) -> Iterator[Examples]:
        """Return an epoch's batches; all random numbers are drawn in this call, on the CPU, before the first batch.

        With neither generator every image comes once, in order and without augmentation. With either, this is a training epoch:
        the last batch is left out if a shard of it would hold less than two images.

        Args:
            order: CPU generator of the order of the images; None keeps them in order.
            augment: CPU generator of the augmentation; None does not augment.
            partners: CPU generator of the partners, which are drawn for each example from those of its class, and of their
                augmentation; None gives none. It draws nothing where the loader has no partner.

        Returns:
            Iterator of `Examples`; the last batch may be smaller.
        """
        feed = self.feed()
        return map(feed.batch, feed.start(order, augment, partners))

    def feed(self) -> "Feed":
        """Return what holds the batches of one epoch after the other."""
        return Feed(self)

    def draw(
        self, order: torch.Generator | None, augment: torch.Generator | None, partners: torch.Generator | None
    ) -> dict[tuple[str, str], torch.Tensor]:
        """Draw an epoch on the CPU; arguments as in `batches`.

        Returns:
            (input, `index`) -> positions in the split, int64 (n,); (input, `shifts`), int64 (2, n), and (input, `flips`), bool
            (n,), where the input is augmented; see `augment`.
        """
        index = self.order(order, augment)
        drawn = _draw(self.dataset, index, augment)
        if self.partner and partners is not None:
            chosen = _partners(self._labels(self.dataset)[index], self._labels(self.partner), partners)
            drawn |= _draw(self.partner, chosen, partners)
        return drawn

    def order(self, order: torch.Generator | None, augment: torch.Generator | None) -> torch.Tensor:
        """Return the positions of an epoch's images, int64 (n,); arguments as in `batches`."""
        index = torch.arange(self.images) if order is None else torch.randperm(self.images, generator=order)
        return index[: self._used(order is not None or augment is not None)]

    def _labels(self, dataset: "Dataset") -> torch.Tensor:
        return dataset.tensors[f"{self.split}_labels"]


def _draw(dataset: "Dataset", index: torch.Tensor, generator: torch.Generator | None) -> dict[tuple[str, str], torch.Tensor]:
    """Return which images of a data set an epoch has, int64 (n,), and how they are augmented; None does not augment."""
    drawn, augmentation = {"index": index}, dataset.manifest["augmentation"]
    if generator is not None:
        drawn["shifts"] = torch.randint(0, 2 * augmentation["pad"] + 1, (2, len(index)), generator=generator)
        if augmentation["flip"]:
            drawn["flips"] = torch.rand(len(index), generator=generator) < 0.5
    return {(dataset.input, what): value for what, value in drawn.items()}


class Feed:
    """The batches of an epoch, made from what was drawn for it, which lies on the device.

    The tensors stay the same ones from epoch to epoch, so that a step that was captured reads those of the next epoch.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: Loader):
        self.loader, self.drawn = loader, {}

    def start(
        self,
        order: torch.Generator | None = None,
        augment: torch.Generator | None = None,
        partners: torch.Generator | None = None,
    ) -> list[slice]:
        """Draw an epoch, see `Loader.batches`, and return which part of it each batch is."""
        drawn = self.loader.draw(order, augment, partners)
        if self.drawn.keys() == drawn.keys() and all(self.drawn[key].shape == drawn[key].shape for key in drawn):
            for key, value in drawn.items():
                self.drawn[key].copy_(value)
        else:
            self.drawn = {key: value.to(self.loader.device) for key, value in drawn.items()}
        return self.loader.slices(len(drawn[self.loader.input, "index"]))

    def batch(self, part: slice | torch.Tensor) -> Examples:
        """Return a part of the epoch: a slice of it, or positions in it, int64 (B,) on the device."""
        loader, dataset = self.loader, self.loader.dataset
        index = self.drawn[loader.input, "index"][part]
        inputs = {one.input: self._images(one, part) for one in (dataset, loader.partner) if one and self._holds(one)}
        return Examples(inputs, dataset.on_device(loader.split, loader.device)[1][index], index)

    def _holds(self, dataset: "Dataset") -> bool:
        return (dataset.input, "index") in self.drawn

    def _images(self, dataset: "Dataset", part: slice | torch.Tensor) -> torch.Tensor:
        loader, shifts = self.loader, self.drawn.get((dataset.input, "shifts"))
        flips = self.drawn.get((dataset.input, "flips"))
        mean, std = loader.normalisations[dataset.input]
        return augment(
            dataset.on_device(loader.split, loader.device)[0],
            self.drawn[dataset.input, "index"][part],
            None if shifts is None else shifts[:, part],
            None if flips is None else flips[part],
            dataset.manifest["augmentation"]["pad"] if loader.split == "train" else 0,
            mean,
            std,
            loader.channels_last,
        )


def _partners(labels: torch.Tensor, others: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw a partner of the same class for each example, all of a class with the same probability.

    Args:
        labels: classes of the examples, int64 (n,).
        others: classes of the possible partners, int64 (m,); each class of `labels` is among them.
        generator: CPU generator.

    Returns:
        Positions of the partners in `others`, int64 (n,).
    """
    counts = torch.bincount(others, minlength=int(labels.max()) + 1)
    first = (counts.cumsum(0) - counts)[labels]
    drawn = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    place = torch.minimum((drawn * counts[labels]).long(), counts[labels] - 1)
    return others.argsort(stable=True)[first + place]


class _Files(torch.utils.data.Dataset):
    """A torch data set of image files as uint8 tensors; an item depends on its key (index, seed) only, not on the worker."""

    def __init__(self, paths: list[str], labels: torch.Tensor, training: torch.nn.Module, testing: torch.nn.Module):
        self.paths, self.labels, self.training, self.testing = paths, labels, training, testing

    def __getitem__(self, key: tuple[int, int | None]) -> tuple[torch.Tensor, torch.Tensor, int]:
        index, seed = key
        image = decode(Path(self.paths[index]))
        if seed is None:
            return self.testing(image), self.labels[index], index
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.training(image), self.labels[index], index


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C to the process that trains, which ends its workers: each would print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class StreamLoader(Loader):
    """A loader of batches of one split that worker processes read from image files in every epoch."""

    captured = False

    def __init__(self, *args, workers: int):
        super().__init__(*args)
        self.workers = workers
        size, data = self.dataset.image_size, self.dataset
        root = find(data.name)[1]
        mirrored = [v2.RandomHorizontalFlip()] if data.manifest["augmentation"]["flip"] else []
        self.files = _Files(
            [str(place(root, file)) for file in data.manifest["files"][self.split]],
            data.tensors[f"{self.split}_labels"],
            v2.Compose([v2.RandomResizedCrop(size), *mirrored, v2.PILToTensor()]),
            v2.Compose([v2.Resize(size * 256 // 224), v2.CenterCrop(size), v2.PILToTensor()]),
        )

    def feed(self) -> "StreamFeed":
        """See `Loader.feed`."""
        return StreamFeed(self)

    def read(self, order: torch.Generator | None, augment: torch.Generator | None) -> tuple[int, Iterator[Examples]]:
        """Return the number of images of an epoch and an iterator of its batches; arguments as in `Loader.batches`."""
        index = self.order(order, augment)
        seeds = [None] * len(index)
        if augment is not None:
            seeds = torch.randint(0, 2**63 - 1, (len(index),), generator=augment).tolist()
        keys = list(zip(index.tolist(), seeds))
        parts = [keys[part] for part in self.slices(len(keys))]
        most = piece(3 * self.dataset.image_size**2, self.workers, shared_memory())
        pieces = [[part[start : start + most] for start in range(0, len(part), most)] for part in parts]
        loader = torch.utils.data.DataLoader(
            self.files,
            batch_sampler=[one for part in pieces for one in part],
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # so that the global generator does not advance
            worker_init_fn=_ignore_interrupts,
        )
        mean, std = self.normalisations[self.input]

        def on_device(batch: list[torch.Tensor]) -> Examples:
            images, labels, index = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            return Examples({"image": normalize(images, mean, std, self.channels_last)}, labels, index)

        return len(keys), map(on_device, _whole(iter(loader), list(map(len, pieces))))


def shared_memory() -> int | None:
    """Return the bytes of shared memory that a process may fill: half of what is free, for each of this machine's; or None."""
    if not os.path.isdir(SHARED):
        return None
    return shutil.disk_usage(SHARED).free // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def piece(size: int, workers: int, room: int | None) -> int:
    """Return how many images of a batch a worker reads at once, so that what all read ahead fits into shared memory.

    Args:
        size: Bytes of an image.
        workers: Number of workers, each of which reads two pieces ahead; one more is being taken out.
        room: Bytes of shared memory; None is any number.

    Raises:
        ValueError: Single images do not fit.
    """
    if room is None or not workers:
        return sys.maxsize
    if most := room // ((2 * workers + 1) * size):
        return most
    raise ValueError(f"{SHARED} has too little room for images of {size:,} bytes and {workers} data.workers; {MORE_ROOM}")


def _whole(read: Iterator, pieces: Sequence[int]) -> Iterator:
    """Yield batches of so many pieces each; what ended a worker is one line."""
    try:
        for count in pieces:
            if count == 1:
                yield next(read)
            else:  # copied at once: a tensor of a worker lies in shared memory
                yield [torch.cat(parts) for parts in zip(*([part.clone() for part in next(read)] for _ in range(count)))]
    except (RuntimeError, ValueError, OSError) as error:
        text = str(error).strip()
        if text.startswith("Caught"):  # the traceback of what a worker raised
            raise type(error)(text.splitlines()[-1].partition(": ")[2]) from error
        if "DataLoader worker" in text or "shared memory" in text:
            raise RuntimeError(f"a process that reads images was killed, perhaps for want of memory; {MORE_ROOM}") from error
        raise


class StreamFeed(Feed):
    """The batches of an epoch, one after the other, as worker processes read them."""

    def start(
        self,
        order: torch.Generator | None = None,
        augment: torch.Generator | None = None,
        partners: torch.Generator | None = None,
    ) -> list[slice]:
        """See `Feed.start`."""
        images, self.coming = self.loader.read(order, augment)
        return self.loader.slices(images)

    def batch(self, part: slice | torch.Tensor) -> Examples:
        """Return the next batch, whichever part is asked for."""
        return next(self.coming)


class Dataset:
    """A prepared data set, seen as the examples of one of its inputs, which are called its images whatever they show.

    Attributes:
        name: the data set's name.
        input: name of the input.
        num_classes: number of classes; their names are in the manifest.
        in_chans: number of channels of an image.
        image_size: side of an image in pixels.
        mean: mean of each channel in 0..1, over the training split (ImageNet's for a streamed folder).
        std: standard deviation of each channel, in the same units.
        sizes: number of images of each split: train, validation, test.
        manifest: what `prepare` wrote.
        tensors: the tensors of images.safetensors on the CPU.
    """

    def __init__(self, manifest: dict, tensors: dict[str, torch.Tensor], input: str = IMAGE):
        self.manifest, self.tensors, self.input = manifest, tensors, input
        self.name: str = manifest["name"]
        self.num_classes: int = manifest["num_classes"]
        self.in_chans: int = manifest["in_chans"]
        self.image_size: int = manifest["image_size"]
        self.mean: list[float] = manifest["mean"]
        self.std: list[float] = manifest["std"]
        self.sizes: dict[str, int] = manifest["sizes"]
        self._on_device, self._under = {}, {}
        self._inputs = {input: self}
        for other, about in manifest.get("inputs", {}).items() if input == IMAGE else ():
            own = {key.removeprefix(f"{other}."): tensor for key, tensor in tensors.items() if key.startswith(f"{other}.")}
            self._inputs[other] = Dataset(manifest | about, own, other)
            self._inputs[other]._inputs = self._inputs

    def of(self, input: str) -> "Dataset":
        """Return the data set as the examples of an input.

        Raises:
            ValueError: it has no such input.
        """
        if input not in self._inputs:
            raise ValueError(f"{self.name} has no input {input!r}; it has {', '.join(self._inputs)}")
        return self._inputs[input]

    def under(self, recipe: Recipe) -> "Dataset":
        """Return the data set with its images as a recipe normalises and augments them; itself where the recipe leaves both.

        Other inputs than `image` stay as they are.

        Raises:
            ValueError: The recipe's constants are not one for each channel, its padding is larger than can be reflected, or it
                pads images that are streamed; the message names the key.
        """
        given = recipe.normalise, recipe.augment
        if given == (None, Augment()):
            return self
        if given not in self._under:
            self._under[given] = Dataset(self.manifest | self._changes(*given), self.tensors)
        return self._under[given]

    def _changes(self, normalise: Normalise | None, augment: Augment) -> dict:
        """Return what a recipe changes of the manifest; see `under`."""
        changes, own = {}, self.manifest["augmentation"]
        if normalise:
            if len(normalise.mean) != self.in_chans:
                raise ValueError(
                    f"recipe.normalise.mean has {len(normalise.mean)} numbers, and images of {self.name} have {self.in_chans} "
                    "channels; give one for each"
                )
            changes |= {"mean": list(normalise.mean), "std": list(normalise.std)}
        if self.manifest["loader"] == "stream" and (augment.pad, augment.mode) != (None, "zeros"):
            raise ValueError(STREAMED)
        given = {"pad": augment.pad, "mode": augment.mode, "flip": augment.flip}
        found = own | {name: value for name, value in given.items() if value is not None}
        if augment.mode == "reflect" and found["pad"] >= self.image_size:
            raise ValueError(
                f"recipe.augment.pad is {found['pad']}; images of {self.image_size} pixels are reflected by at most "
                f"{self.image_size - 1}"
            )
        return changes | {"augmentation": found}

    def normalisation(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation on a device, float32 (C, 1, 1) each."""
        return tuple(torch.tensor(values, device=device)[:, None, None] for values in (self.mean, self.std))

    def on_device(self, split: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a split's images (training images padded) and labels on a device: one copy for all loaders."""
        key = split, device
        if key not in self._on_device:
            images = self.tensors[f"{split}_images"].to(device)
            if split == "train":
                images = pad_images(images, self.manifest["augmentation"])
            self._on_device[key] = images, self.tensors[f"{split}_labels"].to(device)
            if device.type == "cuda":  # they are read in other streams than this one
                torch.cuda.synchronize(device)
        return self._on_device[key]

    def loader(
        self,
        split: str,
        *,
        batch_size: int,
        device: str | torch.device = "cpu",
        workers: int = 0,
        channels_last: bool = False,
        shard: tuple[int, int] = (0, 1),
        partner: "Dataset | None" = None,
    ) -> Loader:
        """Return the loader of a split.

        Args:
            split: train, validation or test.
            batch_size: number of images in a batch, over all shards.
            device: the device on which the batches are computed and returned.
            workers: number of processes that read files; used for a streamed folder only.
            channels_last: memory format of the images.
            shard: (k, n) to return the k-th of n parts of every batch, for one of n processes that share it.
            partner: the data set as another input, of which each example of a batch gets a partner of its class.

        Raises:
            ValueError: the split does not exist or is empty, or training batches have less than two images for each shard.
        """
        if not self.sizes.get(split):
            there = [name for name, size in self.sizes.items() if size]
            raise ValueError(f"{self.name} has no images in split {split!r}; there are {', '.join(there)}")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, and must be at least 1")
        if split == "train" and batch_size < 2 * shard[1]:
            raise ValueError(f"batch_size is {batch_size}; {shard[1]} processes that share it need at least {2 * shard[1]}")
        if partner:
            missing = sorted({*self.tensors[f"{split}_labels"].tolist()} - {*partner.tensors[f"{split}_labels"].tolist()})
            if missing:
                raise ValueError(f"{self.name}: class {missing[0]} of {self.input} has no {partner.input} in split {split!r}")
        args = self, split, batch_size, torch.device(device), channels_last, shard, partner
        return StreamLoader(*args, workers=workers) if self.manifest["loader"] == "stream" else Loader(*args)


def load(out: str | Path, *, verify: bool = True) -> Dataset:
    """Read what `prepare` wrote to the folder `out`.

    Args:
        out: the folder.
        verify: compare the files with the checksums of the manifest.

    Raises:
        FileNotFoundError: the data set was not prepared, or not completely.
        ValueError: the format is another one, or a checksum differs; the message names the file.
    """
    manifest_path, images_path = Path(out) / "manifest.json", Path(out) / "images.safetensors"
    for path in (manifest_path, images_path):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there; prepare the data set first")
    about = manifest(manifest_path)
    if verify:
        if file_hash(images_path) != about["images_sha256"]:
            raise ValueError(f"{images_path} is not the file that {manifest_path} describes; prepare it again")
        for split, files in about.get("files", {}).items():
            if list_sha256(files) != about.get("files_sha256", {}).get(split):
                raise ValueError(f"{manifest_path}: the file list of {split} was changed; prepare it again")
    try:
        tensors = load_file(images_path)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:  # the last ones are of types that torch has not
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{images_path} cannot be read: {reason}; prepare it again") from error
    check_tensors(tensors, about, images_path)
    return Dataset(about, tensors)


def manifest(path: Path) -> dict:
    """Read a manifest.json.

    Raises:
        ValueError: It is not JSON, was changed, or its format is another one.
    """
    found = read_manifest(path)
    if found.get("format") != FORMAT:
        raise ValueError(f"{path} has format {found.get('format')!r:.60}, not {FORMAT}; prepare it again")
    check_manifest(found, path)
    return found
