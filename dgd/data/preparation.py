"""Write a data set once: fixed stratified splits, uint8 tensors, and a manifest with the origin of all of it."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from dgd.data.sources import Part, find, resized, stratified
from dgd.provenance import file_hash

FORMAT = 2
MEMORY_LIMIT = 2 << 30  # bytes of uint8 up to which a folder of images is held in memory
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def list_sha256(lines: list[str]) -> str:
    """Return the SHA-256 of a list of file names or hashes, joined by newlines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def moments(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation over all pixels of each channel, in units of 0..1.

    Sums are computed in whole numbers, so that every machine gets the same digits. A constant channel has deviation 1.

    Args:
        images: uint8 (N, C, H, W).
    """
    mean, std = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256).tolist()
        n = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value**2 * count for value, count in enumerate(counts))
        mean.append(first / n / 255)
        std.append(((n * second - first**2) / n**2) ** 0.5 / 255 or 1.0)
    return mean, std


def _split(name: str, labels: np.ndarray, train_images: int | None, validation_images: int, seed: int) -> dict:
    """Choose validation and then training images from the training part, as two ascending, disjoint index arrays.

    The validation images depend on their number and the seed only, not on `train_images`. With labels that are numbers the
    choice is not stratified.
    """
    if labels.dtype.kind == "f":
        labels = np.zeros(len(labels), np.int64)
    most = len(labels) - 1
    if not 0 <= validation_images <= most:
        raise ValueError(f"{name}: validation_images is {validation_images}, and can be 0 to {most}")
    validation = stratified(labels, validation_images, seed)
    rest = np.setdiff1d(np.arange(len(labels)), validation)
    if train_images is None:
        train_images = len(rest)
    if not 1 <= train_images <= len(rest):
        raise ValueError(
            f"{name}: train_images is {train_images}, and can be 1 to {len(rest)} "
            f"({len(labels)} training images less {validation_images} for validation)"
        )
    return {"train": rest[stratified(labels[rest], train_images, seed)], "validation": validation}


def is_prepared(out: str | Path, name: str, *, data_dir: str | Path = "data", **arguments) -> bool:
    """Return whether `out` holds what `prepare` would write for these arguments, according to the manifest alone."""
    path = Path(out) / "manifest.json"
    if not path.is_file():
        return False
    manifest = json.loads(path.read_text(encoding="utf-8"))
    return (manifest["format"], manifest["name"], manifest["arguments"]) == (FORMAT, name, _arguments(**arguments))


def _arguments(train_images=None, validation_images=0, image_size=None, loader="auto", seed=0) -> dict:
    return {
        "train_images": train_images,
        "validation_images": validation_images,
        "image_size": image_size,
        "loader": loader,
        "seed": seed,
    }


def prepare(
    name: str,
    out: str | Path,
    *,
    data_dir: str | Path = "data",
    train_images: int | None = None,
    validation_images: int = 0,
    image_size: int | None = None,
    loader: str = "auto",
    seed: int = 0,
) -> dict:
    """Write `out`/images.safetensors and then `out`/manifest.json, each atomically.

    The test part is kept whole. Training and validation images are drawn from the training part, with each class in
    proportion (to within one image) to its size in the images that are drawn from. Of inputs besides the images both parts are
    kept whole, without a validation split. The same arguments and source files give the same bytes. For a streamed folder
    images.safetensors has only labels, and the manifest lists the files.

    Args:
        name: one of `NAMES`, or `imagefolder:<path>`.
        out: folder to write into, made if it is missing.
        data_dir: folder with the downloaded archives or what was extracted from them; downloads go there.
        train_images: number of training images, None for all that validation leaves.
        validation_images: number of validation images.
        image_size: side in pixels; must be given for folders, and can only be the images' own for the others.
        loader: `memory` (uint8 tensors), `stream` (folders only: read and augmented in every epoch), or `auto`:
            memory up to 2 GiB.
        seed: seed of the split, 0..2**32-1.

    Returns:
        The manifest.

    Raises:
        ValueError: an argument is invalid, or a file is corrupt.
        FileNotFoundError: files are missing and cannot be downloaded.
    """
    arguments = _arguments(train_images, validation_images, image_size, loader, seed)
    source, folder = find(name)
    if loader not in ("auto", "memory", "stream"):
        raise ValueError(f"{name}: loader is {loader!r}, and can be auto, memory or stream")
    if folder and not (isinstance(image_size, int) and image_size > 0):
        raise ValueError(f"{name}: image_size is {image_size}; a folder of images needs one, e.g. 224")
    raw = source.read(folder or Path(data_dir))
    if not folder:
        own = raw.train.images.shape[-1]
        if image_size not in (None, own):
            raise ValueError(f"{name}: image_size is {image_size}, and can only be {own} or null")
        if loader == "stream":
            raise ValueError(f"{name}: loader stream is for imagefolder:<path> only")
        image_size = own

    indices = _split(name, raw.train.labels, train_images, validation_images, seed)
    indices["test"] = np.arange(len(raw.test.labels))
    parts: dict[str, Part] = {"train": raw.train, "validation": raw.train, "test": raw.test}
    labels = {split: parts[split].labels[chosen] for split, chosen in indices.items()}
    files = {split: [parts[split].files[i] for i in chosen] for split, chosen in indices.items()} if folder else {}
    if loader == "auto":
        size = sum(map(len, indices.values())) * 3 * image_size**2
        loader = "stream" if folder and size > MEMORY_LIMIT else "memory"

    images, source_sha256 = {}, raw.sha256
    if not folder:
        images = {split: parts[split].images[chosen] for split, chosen in indices.items()}
    elif loader == "memory":
        for split, paths in files.items():
            images[split] = np.empty((len(paths), 3, image_size, image_size), dtype=np.uint8)
            for i, path in enumerate(paths):
                images[split][i] = resized(folder / path, image_size)
        source_sha256 = {path: file_hash(folder / path) for paths in files.values() for path in paths}
    else:
        # One hash for each split, of the files' hashes in the order of the list, keeps the manifest small for a million files.
        source_sha256 = {split: list_sha256([file_hash(folder / path) for path in paths]) for split, paths in files.items()}
    mean, std = moments(images["train"]) if images else (IMAGENET_MEAN, IMAGENET_STD)
    pad = image_size // 8 if source.pad is None else source.pad

    tensors = {f"{split}_images": torch.from_numpy(np.ascontiguousarray(images[split])) for split in images}
    tensors |= {f"{split}_labels": torch.from_numpy(labels[split]) for split in labels}
    others = {}
    for input, (train, test) in raw.others.items():
        splits = {"train": train, "validation": train._replace(labels=train.labels[:0], images=train.images[:0]), "test": test}
        about = source.others[input]
        own = {f"{split}_images": torch.from_numpy(np.ascontiguousarray(part.images)) for split, part in splits.items()}
        own |= {f"{split}_labels": torch.from_numpy(part.labels) for split, part in splits.items()}
        tensors |= {f"{input}.{key}": tensor for key, tensor in own.items()}
        own_mean, own_std = moments(train.images)
        others[input] = {
            "in_chans": len(own_mean),
            "image_size": train.images.shape[-1],
            "mean": own_mean,
            "std": own_std,
            "augmentation": {"pad": about.pad, "flip": about.flip},
            "sizes": {split: len(part.labels) for split, part in splits.items()},
        }
    manifest = {
        "format": FORMAT,
        "name": name,
        "arguments": arguments,
        "loader": loader,
        "num_classes": len(raw.classes),
        "classes": raw.classes,
        "in_chans": len(mean),
        "image_size": image_size,
        "mean": mean,
        "std": std,
        "augmentation": {"pad": pad, "flip": source.flip} if images else {"random_resized_crop": True, "flip": True},
        "seed": seed,
        "sizes": {split: len(chosen) for split, chosen in indices.items()},
        "shapes": {key: list(tensor.shape) for key, tensor in sorted(tensors.items())},
        "indices_sha256": {
            split: hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest() for split, chosen in indices.items()
        },
        "sources_sha256": source_sha256,
    }
    if others:
        manifest["inputs"] = others
    if loader == "stream":
        manifest["files"] = files
        manifest["files_sha256"] = {split: list_sha256(paths) for split, paths in files.items()}

    return write_prepared(tensors, manifest, out)


def write_prepared(tensors: dict[str, torch.Tensor], manifest: dict, out: str | Path) -> dict:
    """Write images.safetensors and then manifest.json with the hash of it, each atomically; return the manifest."""
    manifest, out = dict(manifest), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)  # a manifest must never exist without the files that it describes
    save_file(tensors, out / "images.safetensors.tmp")
    manifest["images_sha256"] = file_hash(out / "images.safetensors.tmp")
    os.replace(out / "images.safetensors.tmp", out / "images.safetensors")
    (out / "manifest.json.tmp").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    os.replace(out / "manifest.json.tmp", out / "manifest.json")
    return manifest
