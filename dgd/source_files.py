"""What a prepared data set is made from: the files, the fingerprint of what they hold, and the seal of its manifest.

Only files without a published checksum count: those of `imagefolder:<path>`, of the spoken digits and of Fashion-MNIST, and
of data sets that plugins add. Nothing here needs torch.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from dgd import json_files
from dgd.files import file_hash, write_json

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of the names of images: torchvision's."""
UNREAD = (
    *(".gif", ".jfif", ".jpe", ".jif", ".jp2", ".j2k", ".jxl", ".avif", ".heic", ".heif", ".svg", ".tga", ".dds", ".ico"),
    *(".icns", ".pcx", ".psd", ".eps", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw", ".pbm", ".pnm", ".dib", ".apng", ".mpo"),
)
"""Endings of the names of other images, which are not read: who put one there meant it to be trained on."""
NAMED = 10
"""Files that a message names; of the others it says how many there are."""
LAYOUT = "<path>/train/<class>/*.png|jpg|... and <path>/test/<class>/* (or <path>/val/<class>/*)"
SYSTEM = ("thumbs.db", "desktop.ini", "__macosx")
"""What systems put into folders, besides names that begin with a dot."""
RECORDINGS, SPOKEN = "recordings", "free-spoken-digits.tar.xz"
"""The folder of the spoken digits, and its archive."""
FASHION = Path("FashionMNIST") / "raw"
SEAL = "manifest_sha256"
"""Key of a manifest: the hash of the rest of it."""
SEALED = "sealed"
"""Key of a manifest that has a seal: damage to one of the two names makes no manifest of older code of it."""
SEEN = "seen.json"
"""Beside the manifest: by which sizes and times the files were known when they were last hashed. It only saves hashing."""
RECENT = 2_000_000_000
"""Nanoseconds in which a file may change without a change of its times."""


def is_somebodys(name: str) -> bool:
    """Return whether a file or folder of this name was put there by a person: it is neither hidden nor a system's."""
    return not name.startswith(".") and name.lower() not in SYSTEM


def place(root: str | Path, name: str) -> Path:
    """Return the path of a file below a folder by its name in UTF-8, in any locale."""
    return Path(root, os.fsdecode(name.encode()))


def image_folder(path: Path) -> tuple[list[str], dict[str, list[list[str]]]]:
    """List the images of a folder: `path`/train/<class>/*.png|jpg|..., and in the same form `path`/test or `path`/val.

    Returns:
        The classes, and part (`train`, and `test` or `val`) -> for each class the names of its images below `path`, sorted.

    Raises:
        FileNotFoundError: A part is missing, or a class has no image.
        ValueError: The parts have other classes, a name or a folder cannot be, or an image would not be read: one that lies
            beside the folders of the classes, or is of another form.
    """
    test = next((name for name in ("test", "val") if (path / name).is_dir()), "test")
    classes = _folders(path / "train")
    if not classes or not (path / test).is_dir():
        missing = path / "train" / "<class>" if not classes else path / test
        raise FileNotFoundError(f"imagefolder: {missing} is not there; wanted is {LAYOUT}")
    if (found := _folders(path / test)) != classes:
        differing = sorted(set(classes) ^ set(found))[:5]
        raise ValueError(f"imagefolder: the classes of {path / 'train'} and {path / test} differ, e.g. in {differing}")
    if left := [name for part in ("train", test) for name in _left_out(path, part, classes)]:
        more = f"; and {len(left) - NAMED} more" if len(left) > NAMED else ""
        raise ValueError(
            f"imagefolder: {path}: {len(left)} images would not be read: {', '.join(left[:NAMED])}{more}; move each into the "
            f"folder of its class, and save it as one of {' '.join(IMAGES)}"
        )
    return classes, {part: [_images(path, f"{part}/{name}") for name in classes] for part in ("train", test)}


def _folders(path: Path) -> list[str]:
    return sorted(_text(path, entry.name) for entry in _entries(path) if entry.is_dir()) if path.is_dir() else []


def _left_out(root: Path, part: str, classes: list[str]) -> list[str]:
    """Return the names of a part's images that are not read: those of no class, and those of other forms than `IMAGES`."""
    found = [(part, IMAGES + UNREAD), *((f"{part}/{name}", UNREAD) for name in classes)]
    return [
        f"{below}/{_text(place(root, below), entry.name)}"
        for below, endings in found
        for entry in sorted(_entries(place(root, below)), key=lambda entry: entry.name)
        if entry.name.lower().endswith(endings) and not entry.is_dir()
    ]


def _images(root: Path, below: str) -> list[str]:
    names, folder = [], place(root, below)
    for entry in _entries(folder):
        name = _text(folder, entry.name)
        if entry.is_dir():
            raise ValueError(f"imagefolder: {folder / entry.name} is a folder; images lie in their class's folder itself")
        if name.lower().endswith(IMAGES):
            names.append(f"{below}/{name}")
    if not names:
        raise FileNotFoundError(f"imagefolder: no images in {folder}; wanted is {LAYOUT}")
    return sorted(names)


def _entries(path: Path) -> list[os.DirEntry]:
    with os.scandir(path) as entries:
        return [entry for entry in entries if is_somebodys(entry.name)]


def _text(folder: Path, name: str) -> str:
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"imagefolder: the name {os.fsencode(name)!r} in {folder} is not UTF-8; rename it") from None


def files(dataset: str, data_dir: str | Path) -> dict[str, Path]:
    """Return name -> path of the files without a published checksum that a data set is prepared from.

    Nothing where the data set has no such files, or they are not there as they must be: what was prepared then stands alone.

    Args:
        dataset: `digits`, `imagefolder:<path>`, ...
        data_dir: Folder of the archives, or of what was extracted from them.
    """
    kind, _, path = dataset.partition(":")
    if kind == "imagefolder":
        try:
            root = Path(path).expanduser()
            parts = image_folder(root)[1]
        except (OSError, ValueError, RuntimeError):  # the last where nobody's home is known
            return {}
        return {name: place(root, name) for part in parts.values() for names in part for name in names}
    if kind in ADDED:
        module, names = ADDED[kind]
        code = sorted(module.parent.rglob("*.py")) if module.name == "__init__.py" else [module]
        found = {f"plugin/{path.relative_to(module.parent)}": path for path in code}
        return found | {name: Path(data_dir, name) for name in (names(Path(data_dir)) if names else ())}
    return {name: Path(data_dir, name) for name in OTHERS.get(kind, lambda _: [])(Path(data_dir))}


def _spoken(data_dir: Path) -> list[str]:
    folder = data_dir / RECORDINGS
    if folder.is_dir():
        return [f"{RECORDINGS}/{path.name}" for path in sorted(folder.glob("*.wav")) if is_somebodys(path.name)]
    return [SPOKEN] if (data_dir / SPOKEN).is_file() else []


def _fashion(data_dir: Path) -> list[str]:
    names = []
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            packed = FASHION / f"{part}-{kind}-ubyte.gz"
            names += [str(packed if (data_dir / packed).is_file() else packed.with_suffix(""))]
    return names if all((data_dir / name).is_file() for name in names) else []


OTHERS = {"digits-spoken": _spoken, "fashion_mnist": _fashion}
ADDED: dict[str, tuple[Path, Callable[[Path], Iterable[str]] | None]] = {}
"""Data sets of plugins: name -> the module's file, which counts too, and the function that names its files below `data_dir`."""


def seen(found: Mapping[str, Path]) -> str | None:
    """Return a hash of the files' names, sizes and times; None where one changed so recently that it might change unseen."""
    digest, newest = hashlib.sha256(), 0
    for name, path in found.items():
        stat = path.stat()
        newest = max(newest, stat.st_ctime_ns)  # times of change can be set, this one cannot
        digest.update(repr((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)).encode())
    return None if newest > time.time_ns() - RECENT else digest.hexdigest()


def content(found: Mapping[str, Path], known: Mapping[str, str]) -> str | None:
    """Return a hash of the files' names and contents; None of none.

    Args:
        found: As `files` gives them.
        known: Hashes of the contents of some of them.
    """
    lines = [f"{known.get(name) or file_hash(path)} {name}\n" for name, path in found.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def seal_of(manifest: Mapping) -> str:
    """Return the SHA-256 of a manifest's text without the seal, which is that of the whole file before there were seals."""
    own = {key: value for key, value in manifest.items() if key not in (SEAL, SEALED)}
    return hashlib.sha256(manifest_text(own).encode()).hexdigest()


def manifest_text(manifest: Mapping) -> str:
    """Return a manifest.json."""
    return json.dumps(manifest, indent=1) + "\n"


def sealed(manifest: Mapping) -> dict:
    """Return a manifest with its seal, instead of the one that it has."""
    own = {key: value for key, value in manifest.items() if key not in (SEAL, SEALED)}
    return own | {SEALED: True, SEAL: seal_of(own)}


def is_as_sealed(manifest: Mapping) -> bool:
    """Return whether a manifest is what was sealed; one of before there were seals has nothing that it can be held to."""
    return not {SEAL, SEALED} & manifest.keys() or (
        manifest.get(SEAL) == seal_of(manifest) and manifest.get(SEALED, True) is True
    )


def remember(out: Path, before: str | None, fingerprint: str | None) -> None:
    """Write what saves hashing the next time, where that can be written.

    Args:
        out: Folder of the prepared data set.
        before: What `seen` gave before the files were hashed.
        fingerprint: What `content` gave.
    """
    if before and fingerprint and out.is_dir():
        try:
            write_json(out / SEEN, {"seen": before, "fingerprint": fingerprint})
        except OSError:
            return  # a folder that is only read: they are hashed each time


def is_changed(dataset: str, data_dir: str | Path, out: str | Path, *, unknown: bool = False) -> bool:
    """Return whether a data set is prepared in `out` from files whose contents are others today.

    Args:
        dataset: `digits`, `imagefolder:<path>`, ...
        data_dir: Folder of the archives, or of what was extracted from them.
        out: The folder.
        unknown: What to return where the manifest, of an older version, does not say.
    """
    out, found = Path(out), files(dataset, data_dir)
    recorded = read_unchecked(out / "manifest.json")
    if not found or not recorded:
        return False
    if "fingerprint" not in recorded:
        return unknown
    before, remembered = seen(found), read_unchecked(out / SEEN)
    if before and remembered.get("seen") == before:
        return remembered.get("fingerprint") != recorded["fingerprint"]
    now = content(found, {})
    remember(out, before, now)
    return now != recorded["fingerprint"]


def read_unchecked(path: Path) -> dict:
    """Return what a manifest, or a file beside it, holds, unchecked; nothing where it is not there or damaged."""
    try:
        return json_files.read(path, "")
    except (OSError, ValueError):
        return {}
