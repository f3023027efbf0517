"""Write a data set once: fixed stratified splits, uint8 tensors, and a manifest with the origin of all of it."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from dgd import json_files, source_files
from dgd.data.sources import Part, Raw, check_part, find, read_images, resized, stratified
from dgd.files import file_hash, follow_umask
from dgd.json_files import Each, Value
from dgd.signals import cleaning
from dgd.source_files import is_as_sealed, manifest_text, sealed

FORMAT = 2
AGAIN = "delete its folder, and it is prepared again"
WRITING = ".writing-"
"""How the name of a folder begins in which files are written before they replace others."""
MEMORY_LIMIT = 2 << 30  # bytes of uint8 up to which a folder of images is held in memory
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


_INPUT = {
    **{"in_chans": Value(int, least=1), "image_size": Value(int, least=1)},
    **{"mean": [Value(float)], "std": [Value(float, above=0)]},
    "augmentation": {"pad?": Value(int, least=0), "flip": Value(bool), "random_resized_crop?": Value(bool)},
    "sizes": {split: Value(int, least=0) for split in ("train", "validation", "test")},
}
MANIFEST = {
    **{"name": Value(str), "loader": Value(str, choices=("memory", "stream")), "num_classes": Value(int, least=0)},
    **{"images_sha256": Value(str), "files?": Each([Value(str)]), "files_sha256?": Each(Value(str))},
    **_INPUT,
    "inputs?": Each(_INPUT),
}
"""The form of a manifest."""


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
    """Return whether `out` holds what `prepare` would write for these arguments and files, according to the manifest.

    Raises:
        ValueError: The manifest was changed, or is no manifest.
    """
    path = Path(out) / "manifest.json"
    if not path.is_file():
        return False
    found = read_manifest(path)
    if (found.get("format"), found.get("name"), found.get("arguments")) != (FORMAT, name, _arguments(**arguments)):
        return False
    return not source_files.is_changed(name, data_dir, out, unknown=True)


def read_manifest(path: Path) -> dict:
    """Return what a manifest.json holds; one of before there were seals has none.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is not JSON, or is not what was written.
    """
    found = json_files.read(path, AGAIN)
    if not is_as_sealed(found):
        raise ValueError(f"{path} was changed after it was written; {AGAIN}")
    return found


def check_manifest(found: Mapping, path: str | Path) -> None:
    """Raise ValueError where a manifest is not what a manifest of this format must be; the message names the key."""
    for line in json_files.problems(found, MANIFEST):
        raise ValueError(f"{path}: {line}; {AGAIN}")
    for place, own in {"": found, **{f"inputs.{name}.": own for name, own in found.get("inputs", {}).items()}}.items():
        if not place.isprintable() or len(own["sizes"]) != len(_INPUT["sizes"]):
            raise ValueError(f"{path}: {ascii(place)[:60]}: a name of an input or of a split that is unknown; {AGAIN}")
        if not len(own["mean"]) == len(own["std"]) == own["in_chans"]:
            raise ValueError(f"{path}: {place}mean and std are not one for each of {own['in_chans']} channels; {AGAIN}")
    if found["loader"] == "stream" and not {*found["sizes"]} <= found.get("files", {}).keys():
        raise ValueError(f"{path}: no files of each split; {AGAIN}")


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
        name: one of `names`, or `imagefolder:<path>`.
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
    found = source_files.files(name, data_dir)
    before = source_files.seen(found)
    raw = source.read(folder or Path(data_dir))
    for what, part in _parts(raw):
        check_part(part, len(raw.classes), f"{name}: {what}")
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

    images, source_sha256, known = {}, raw.sha256, {}
    chosen_files = [path for paths in files.values() for path in paths]
    if not folder:
        images = {split: parts[split].images[chosen] for split, chosen in indices.items()}
    elif loader == "memory":
        images = {split: np.empty((len(paths), 3, image_size, image_size), dtype=np.uint8) for split, paths in files.items()}
        places = ((split, i) for split, paths in files.items() for i in range(len(paths)))
        where = dict(zip(chosen_files, places, strict=True))
        for path, sha256, image in read_images(folder, chosen_files):
            split, i = where[path]
            images[split][i], known[path] = resized(image, image_size), sha256
        source_sha256 = known
    else:
        # One hash for each split, of the files' hashes in the order of the list, keeps the manifest small for a million files.
        known = {path: sha256 for path, sha256, _ in read_images(folder, chosen_files, coarse=True)}
        source_sha256 = {split: list_sha256([known[path] for path in paths]) for split, paths in files.items()}
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

    if fingerprint := source_files.content(found, known):
        manifest["fingerprint"] = fingerprint
    written = write_prepared(tensors, manifest, out)
    source_files.remember(Path(out), before, fingerprint)
    return written


def _parts(raw: Raw) -> Iterator[tuple[str, Part]]:
    yield from (("the training part", raw.train), ("the test part", raw.test))
    for input, parts in raw.others.items():
        yield from zip((f"the training part of {input}", f"the test part of {input}"), parts)


def check_tensors(tensors: Mapping[str, torch.Tensor], manifest: Mapping, where: str | Path) -> None:
    """Refuse tensors that are not what a manifest says of them.

    Args:
        tensors: Of images.safetensors.
        manifest: The manifest.
        where: The file, for the message.

    Raises:
        ValueError: A tensor is missing, or has another type or shape, or a label cannot be; the message names it.
    """
    classes, about = manifest["num_classes"], {"": manifest, **{f"{k}.": v for k, v in manifest.get("inputs", {}).items()}}
    for prefix, own in about.items():
        for split, count in own["sizes"].items():
            wanted = {f"{prefix}{split}_labels": (torch.int64 if classes else torch.float32, (count,))}
            if manifest["loader"] == "memory":
                side = own["image_size"]
                wanted[f"{prefix}{split}_images"] = torch.uint8, (count, own["in_chans"], side, side)
            elif len(manifest["files"][split]) != count:
                raise ValueError(f"{where}: {len(manifest['files'][split])} files of {split} instead of {count}; {AGAIN}")
            for key, (dtype, shape) in wanted.items():
                tensor = tensors.get(key)
                if tensor is None or (tensor.dtype, tuple(tensor.shape)) != (dtype, shape):
                    there = "missing" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                    raise ValueError(f"{where}: {key} is {there}; it should be {dtype} of shape {shape}; {AGAIN}")
            labels = tensors[f"{prefix}{split}_labels"]
            if classes and count and not 0 <= labels.min() <= labels.max() < classes:
                raise ValueError(f"{where}: {prefix}{split}_labels are not all 0 to {classes - 1}; {AGAIN}")
            if not labels.isfinite().all():
                raise ValueError(f"{where}: {prefix}{split}_labels are not all finite; {AGAIN}")


def write_prepared(tensors: dict[str, torch.Tensor], manifest: dict, out: str | Path) -> dict:
    """Write images.safetensors and then manifest.json with the hash of it, each atomically; return the manifest.

    One process writes at a time. What is there already, as another process that prepared the same wrote it, stays.

    Raises:
        ValueError: The tensors are not what the manifest says of them.
        OSError: The folder cannot be written; what was begun is deleted.
    """
    manifest, out = dict(manifest), Path(out)
    check_tensors(tensors, manifest, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (
            _alone(out),
            tempfile.TemporaryDirectory(dir=out, prefix=WRITING) as own,
            cleaning(lambda: shutil.rmtree(own)),
        ):
            return _write(tensors, manifest, out, Path(own))
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise OSError(f"{out} cannot be written: {reason}; give a data.dir that can be written and has room") from error


def _write(tensors: dict[str, torch.Tensor], manifest: dict, out: Path, own: Path) -> dict:
    images, about = own / "images.safetensors", own / "manifest.json"
    save_file(tensors, images)
    follow_umask(images)
    with images.open("rb") as file:
        os.fsync(file.fileno())
    manifest["images_sha256"] = file_hash(images)
    manifest = sealed(manifest)
    text = manifest_text(manifest)
    with about.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    there = [out / images.name, out / about.name]
    same = all(path.is_file() for path in there) and there[1].read_text(encoding="utf-8") == text
    if same and file_hash(there[0]) == manifest["images_sha256"]:
        return manifest
    there[1].unlink(missing_ok=True)  # a manifest must never exist without the files that it describes
    os.replace(images, there[0])
    os.replace(about, there[1])
    return manifest


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, which the kernel frees when the process ends; leftovers of a killed one are deleted."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: each process writes files of its own, and replaces whole ones
            pass
        else:
            for path in folder.glob(f"{WRITING}*"):
                shutil.rmtree(path, ignore_errors=True)
        yield
    finally:
        os.close(handle)
