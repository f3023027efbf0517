"""Sources of images: one row of `SOURCES` and one function for each data set.

A function takes the folder with the files and returns a `Raw`. Files with published checksums are checked in memory, and the
bytes that were checked are the bytes that are parsed: nothing is unpickled before its checksum is verified, and no file of the
user is ever overwritten.
"""

import gzip
import hashlib
import http.client
import io
import os
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import rotate, zoom
from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST
from torchvision.datasets.utils import download_url
from torchvision.transforms import functional as F

from dgd import source_files
from dgd.cell import IMAGE
from dgd.cell import OWN_AUGMENTATION as OWN
from dgd.data import spoken

DIGITS_SPLIT_SEED = 0
ROTATION_SEED = 0
FASHION_IMAGES = {"train": 60_000, "t10k": 10_000}
NAMED = 10
"""Bad images that a message names; of the others it says how many there are."""


class Part(NamedTuple):
    """One official part (training or test) of a data set.

    `labels` are classes, int64 (n,), or numbers, float32 (n,). Either `images`, uint8 (n, C, H, W), or `files`, n paths
    relative to the data set's folder, is given.
    """

    labels: np.ndarray
    images: np.ndarray | None = None
    files: list[str] | None = None


class Raw(NamedTuple):
    """A data set before preparation: its two parts, the class names, and the SHA-256 of each file that was read.

    `others` has the training and the test part of each input besides the images, with the same classes and labels of its own.
    """

    train: Part
    test: Part
    classes: list[str]
    sha256: dict[str, str]
    others: Mapping[str, tuple[Part, Part]] = MappingProxyType({})


class Augmented(NamedTuple):
    """How the training examples of an input besides the images are augmented, and its shape; see `Source`."""

    pad: int
    flip: bool
    shape: tuple[int, int, int, int, int]


class Source(NamedTuple):
    """A row of the registry: how to read a data set, and how its training images are augmented.

    `pad` is the zero-padding of the random crop in pixels (None: an eighth of the image size). `flip` is True if a mirrored
    image keeps its label. `shape`, from which memory is estimated, has classes, channels, side, training and test images.
    `others` has the inputs besides `image`, by name. `task` is what its labels are learned for. `files`, of a data set that a
    plugin adds, names the files below the folder that it reads: where one changes, the data set is prepared again.
    """

    read: Callable[[Path], Raw]
    pad: int | None
    flip: bool
    shape: tuple[int, int, int, int, int] | None = None
    others: Mapping[str, Augmented] = MappingProxyType({})
    task: str = "classification"
    files: Callable[[Path], Sequence[str]] | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs."""
        return (IMAGE, *self.others)

    def shape_of(self, input: str) -> tuple[int, int, int, int, int] | None:
        """Return the shape of an input."""
        return self.shape if input == IMAGE else self.others[input].shape


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose `count` of the images so that the classes keep their proportions.

    Counts follow the largest-remainder rule in whole numbers: a class's count is its proportional share rounded up or down.
    The images of a class are drawn by numpy's frozen MT19937 stream, so the choice depends on the arguments only.

    Args:
        labels: class of each image, int64 (n,).
        count: number of images to choose, 0..n.
        seed: 0..2**32-1.

    Returns:
        The chosen positions, ascending, int64 (count,).
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"{count} images asked for, and there are {len(labels)}")
    order = np.random.RandomState(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # shuffled inside each class
    totals = np.unique(labels, return_counts=True)[1]
    quota, remainder = np.divmod(totals * count, max(len(labels), 1))
    quota[np.argsort(-remainder, kind="stable")[: count - quota.sum()]] += 1
    place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(totals) - totals, totals)
    return np.sort(order[place_in_class < np.repeat(quota, totals)])


def check_part(part: Part, classes: int, where: str) -> Part:
    """Return a part whose images and labels can be what they are said to be.

    Args:
        part: The part.
        classes: Number of classes; 0 where labels are numbers.
        where: Its place, for the message: the names of its files.

    Raises:
        ValueError: Numbers of images and labels differ or are 0, or types, shapes or labels cannot be.
    """
    labels, images = part.labels, part.images
    if labels.ndim != 1 or labels.dtype != (np.int64 if classes else np.float32):
        wanted = "int64" if classes else "float32"
        raise ValueError(f"{where}: the labels are {labels.dtype} of shape {labels.shape}; they must be {wanted} of one axis")
    if images is not None and (images.ndim != 4 or images.dtype != np.uint8 or images.shape[2] != images.shape[3]):
        raise ValueError(f"{where}: the images are {images.dtype} of shape {images.shape}; wanted is uint8 (n, C, side, side)")
    count = len(part.files if images is None else images)
    if count != len(labels) or not count:
        raise ValueError(f"{where}: {count:,} images and {len(labels):,} labels; there must be one for each, and some")
    if classes and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"{where}: labels from {labels.min()} to {labels.max()}; they must be 0 to {classes - 1}")
    if not classes and not np.isfinite(labels).all():
        raise ValueError(f"{where}: a label is no finite number")
    return part


def _checked(content: bytes, md5: str, path: str | Path) -> bytes:
    """Return `content` if it has this MD5 checksum.

    Raises:
        ValueError: the checksum is another one; the message names the file.
    """
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(
            f"{path} is corrupt: its MD5 is {found} and should be {md5}. "
            "It was left as it is; delete it to have it downloaded again, or put the right file there"
        )
    return content


def _fetch(path: Path, urls: list[str], md5: str) -> None:
    """Download to `path` from the first address that has the file; it is written whole and checked, or not at all.

    Raises:
        FileNotFoundError: no address has the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    problems = []
    for url in urls:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as scratch:
            try:
                download_url(url, scratch, filename=path.name, md5=md5)
                os.replace(Path(scratch) / path.name, path)
                return
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                problems.append(f"{url}: {one_line(error)}")
    raise FileNotFoundError(f"{path} is not there and could not be downloaded; put it there yourself ({'; '.join(problems)})")


def _digits_rotation(data_dir: Path) -> Raw:
    """Return the digits, each rotated by a random angle, uniform in +-60 degrees, which is its label in radians."""
    plain, draw = _digits(data_dir), np.random.RandomState(ROTATION_SEED)

    def rotated(part: Part) -> Part:
        angles = draw.uniform(-60, 60, len(part.labels))
        images = [rotate(image[0], angle, reshape=False, order=1) for image, angle in zip(part.images, angles)]
        return Part(np.radians(angles).astype(np.float32), np.stack(images)[:, None])

    return plain._replace(train=rotated(plain.train), test=rotated(plain.test), classes=[])


def _digits_angle(data_dir: Path) -> Raw:
    """Return the digits in 16x16 pixels, each turned by a random angle, uniform in +-45 degrees; labels are (angle + 45) / 90.

    A digit is framed by two empty pixels, enlarged bilinearly, and turned over an empty background, which does not betray the
    angle. Digits are split before they are turned: none is in two parts.
    """
    plain, draw = _digits(data_dir), np.random.RandomState(ROTATION_SEED)

    def turned(part: Part) -> Part:
        angles = draw.uniform(-45, 45, len(part.labels))
        framed = np.pad(part.images[:, 0], ((0, 0), (2, 2), (2, 2))).astype(np.float64)
        large = (zoom(image, 16 / 12, order=1) for image in framed)
        images = [rotate(image, angle, reshape=False, order=1) for image, angle in zip(large, angles)]
        return Part(((angles + 45) / 90).astype(np.float32), np.stack(images).round().clip(0, 255).astype(np.uint8)[:, None])

    return plain._replace(train=turned(plain.train), test=turned(plain.test), classes=[])


def _digits(data_dir: Path) -> Raw:
    """Return scikit-learn's 8x8 digits, 0..16 scaled to 0..255; a fixed third is the test part, as there is no official one."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * 255 / 16).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    test = stratified(labels, len(labels) // 3, DIGITS_SPLIT_SEED)
    train = np.setdiff1d(np.arange(len(labels)), test)
    file = resources.files("sklearn.datasets.data") / "digits.csv.gz"
    return Raw(
        Part(labels[train], images[train]),
        Part(labels[test], images[test]),
        [str(name) for name in bunch.target_names],
        {"sklearn/datasets/data/digits.csv.gz": hashlib.sha256(file.read_bytes()).hexdigest()},
    )


def _digits_spoken(data_dir: Path) -> Raw:
    """Return the digits, and recordings of spoken digits as a second input, `audio`; they have only classes in common."""
    plain = _digits(data_dir)
    parts, sha256 = spoken.read(data_dir)
    train, test = (Part(labels, images) for images, labels in (parts["train"], parts["test"]))
    return plain._replace(sha256=plain.sha256 | sha256, others={"audio": (train, test)})


def _cifar(data_dir: Path, table: type[CIFAR10]) -> Raw:
    """Read CIFAR-10 or -100 from the extracted folder if it exists, else from the archive, which is downloaded if missing.

    Names and checksums are torchvision's.
    """
    folder, archive = data_dir / table.base_folder, data_dir / table.filename
    names = [name for name, _ in table.train_list + table.test_list] + [table.meta["filename"]]
    if folder.is_dir():
        missing = [str(folder / name) for name in names if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"missing: {', '.join(missing)}; complete {folder}, or delete it and keep {archive}")
        content = {name: (folder / name).read_bytes() for name in names}
    else:
        if not archive.is_file():
            _fetch(archive, [table.url], table.tgz_md5)
        with tarfile.open(fileobj=io.BytesIO(_checked(archive.read_bytes(), table.tgz_md5, archive))) as tar:
            content = {name: tar.extractfile(f"{table.base_folder}/{name}").read() for name in names}

    sha256 = {}

    def entry(name: str, md5: str) -> dict:
        checked = _checked(content[name], md5, folder / name)
        sha256[f"{table.base_folder}/{name}"] = hashlib.sha256(checked).hexdigest()
        return pickle.loads(checked, encoding="latin1")

    def part(files: list[list[str]]) -> Part:
        entries = [entry(name, md5) for name, md5 in files]
        labels = [label for e in entries for label in e["labels" if "labels" in e else "fine_labels"]]
        images = np.concatenate([e["data"] for e in entries]).reshape(-1, 3, 32, 32)
        where = ", ".join(str(folder / name) for name, _ in files)
        return check_part(Part(np.array(labels, dtype=np.int64), images), len(classes), where)

    classes = entry(table.meta["filename"], table.meta["md5"])[table.meta["key"]]
    return Raw(part(table.train_list), part(table.test_list), list(classes), sha256)


def _idx(content: bytes) -> np.ndarray:
    """Read an IDX file of unsigned bytes: 0, 0, type 8, number of axes, the length of each axis (big-endian int32), values.

    Raises:
        ValueError: The content is no such file, or is shorter or longer than its header says.
    """
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if content[:3] != b"\0\0\x08" or values.size != shape.prod():
        raise ValueError(f"{values.size} bytes for a header of {content[:4].hex()} and shape {tuple(shape.tolist())}")
    return values.reshape(shape)


def _fashion_mnist(data_dir: Path) -> Raw:
    """Read Fashion-MNIST from the four .gz files in torchvision's folder, or from the files extracted from them.

    The extracted files have no published checksums: their headers and sizes are checked, nothing in them is unpickled, and
    their SHA-256 is in the manifest.
    """
    folder = source_files.FASHION
    arrays, sha256, places = {}, {}, {}
    for name, md5 in FashionMNIST.resources:
        path = data_dir / folder / name
        extracted = path.with_suffix("")
        if path.is_file() or not extracted.is_file():
            if not path.is_file():
                _fetch(path, [mirror + name for mirror in FashionMNIST.mirrors], md5)
            content = _checked(path.read_bytes(), md5, path)
            plain = gzip.decompress(content)
        else:
            path, content = extracted, extracted.read_bytes()
            plain = content
        kind = name.removesuffix("-ubyte.gz")
        try:
            arrays[kind], places[kind] = _idx(plain), path
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path} is corrupt: {error}; delete it, or put the original file there") from error
        sha256[f"{folder.as_posix()}/{path.name}"] = hashlib.sha256(content).hexdigest()

    def part(name: str) -> Part:
        images, labels = arrays[f"{name}-images-idx3"], arrays[f"{name}-labels-idx1"]
        for kind, array, axes in (("images-idx3", images, (28, 28)), ("labels-idx1", labels, ())):
            if array.shape != (FASHION_IMAGES[name], *axes):
                wanted = (FASHION_IMAGES[name], *axes)
                raise ValueError(
                    f"{places[f'{name}-{kind}']} has shape {array.shape} and should have {wanted}; put the original file there"
                )
        where = f"{places[f'{name}-images-idx3']} and {places[f'{name}-labels-idx1'].name}"
        return check_part(Part(labels.astype(np.int64), images[:, None]), len(FashionMNIST.classes), where)

    return Raw(part("train"), part("t10k"), list(FashionMNIST.classes), sha256)


def _image_folder(path: Path) -> Raw:
    """List the images of a folder, see `source_files.image_folder`."""
    classes, parts = source_files.image_folder(path)
    train, test = (
        Part(np.repeat(np.arange(len(classes)), list(map(len, names))), files=[name for one in names for name in one])
        for names in parts.values()
    )
    return Raw(train, test, classes, {})


def decode(path: Path, content: bytes | None = None, *, coarse: bool = False) -> Image.Image:
    """Read an image file as an RGB PIL image; of 16 bits, the upper 8 count, as Pillow itself does with 16-bit colours.

    Args:
        path: The file.
        content: What is in it, where that was read before.
        coarse: A smaller image will do, which a JPEG gives three times as fast: it is only asked whether it can be read.

    Raises:
        ValueError: The file cannot be read as an image, or has values of an unknown range; the message names it.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            if coarse:
                image.draft("RGB", (1, 1))
            return _of_8_bits(image).convert("RGB")
    except Exception as error:  # image libraries raise many kinds of errors on a broken file
        reason = "no image, or of an unknown form" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise ValueError(f"{path} cannot be read as an image: {reason}") from error


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Return an image as it is, or of 8 bits where it has 16, of which `convert` would keep two grey levels."""
    bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]  # a TIFF says how many there are
    if bits == 16 and (image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    if image.mode.startswith(("I", "F")):
        kind = "floats" if image.mode.startswith("F") else "whole numbers of neither 8 nor 16 bits"
        raise ValueError(f"its values are {kind}, of unknown range; save it with 8 or 16 bits")
    return image


def one_line(error: Exception) -> str:
    """Return what an error says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def read_images(root: Path, names: Sequence[str], *, coarse: bool = False) -> Iterator[tuple[str, str, Image.Image]]:
    """Yield name, SHA-256 and image of each file; the bytes that are hashed are those that are read.

    Args:
        root: The folder.
        names: Of its images, in UTF-8.
        coarse: As of `decode`.

    Raises:
        ValueError: At the end, in one line: some cannot be read.
    """
    bad = []
    for name in names:
        path = source_files.place(root, name)
        try:
            content = path.read_bytes()
            image = decode(path, content, coarse=coarse)
        except (OSError, ValueError) as error:
            bad.append(f"{name}: {str(error).partition('as an image: ')[2] or one_line(error)}")
            continue
        yield name, hashlib.sha256(content).hexdigest(), image
    if bad:
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise ValueError(f"{root}: {len(bad)} of {len(names)} images cannot be read: {'; '.join(bad[:NAMED])}{more}")


def resized(image: Image.Image, image_size: int) -> np.ndarray:
    """Resize an image's shorter side to `image_size` and crop the centre: uint8 (3, size, size)."""
    return np.array(F.center_crop(F.resize(image, image_size), image_size)).transpose(2, 0, 1)


SOURCES: dict[str, Source] = {
    "digits": Source(_digits, *OWN["digits"], shape=(10, 1, 8, 1198, 599)),
    "digits-rotation": Source(_digits_rotation, *OWN["digits-rotation"], shape=(1, 1, 8, 1198, 599)),
    "digits-angle": Source(_digits_angle, *OWN["digits-angle"], shape=(1, 1, 16, 1198, 599)),
    "digits-spoken": Source(
        _digits_spoken,
        *OWN["digits-spoken"],
        shape=(10, 1, 8, 1198, 599),
        others={"audio": Augmented(pad=2, flip=False, shape=(10, 1, 32, 2000, 1000))},
    ),
    "cifar10": Source(lambda data_dir: _cifar(data_dir, CIFAR10), *OWN["cifar10"], shape=(10, 3, 32, 50_000, 10_000)),
    "cifar100": Source(lambda data_dir: _cifar(data_dir, CIFAR100), *OWN["cifar100"], shape=(100, 3, 32, 50_000, 10_000)),
    "fashion_mnist": Source(_fashion_mnist, *OWN["fashion_mnist"], shape=(10, 1, 28, 60_000, 10_000)),
    "imagefolder": Source(_image_folder, *OWN["imagefolder"]),
}
FOLDER = "imagefolder"


def names() -> list[str]:
    """Return the data sets that have a name of their own, those of plugins included."""
    return [name for name in SOURCES if name != FOLDER]


def is_known(name: str) -> bool:
    """Return whether `name` is one of `names` or `imagefolder:<path>`."""
    return name in names() or (name.startswith("imagefolder:") and Path(name.partition(":")[2]).name != "")


def find(name: str) -> tuple[Source, Path | None]:
    """Return the row of `name`, and for `imagefolder:<path>` the path (None otherwise).

    Raises:
        ValueError: there is no such data set.
    """
    if not is_known(name):
        raise ValueError(f"no data set {name!r}; there are {', '.join(names())} and imagefolder:<path>")
    kind, _, path = name.partition(":")
    return SOURCES[kind], Path(path).expanduser() if path else None
