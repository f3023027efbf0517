"""Faults of files, folders and machines that a data set meets: each is read rightly, or refused in one line."""

import gzip
import hashlib
import http.server
import importlib
import io
import json
import os
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS

from dgd import cli, data, files, identity, running, source_files
from dgd.data import sources, spoken
from dgd.data.preparation import check_tensors, write_prepared
from dgd.data.sources import Part, check_part, decode
from pipeline.prepare import MADE_FROM, Prepared
from pipeline.prepare import main as prepare_main
from tests.helpers import ROOT, digits_cells

loading = importlib.import_module("dgd.data.loader")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of 4 + 2 images each."""
    root = tmp_path / "birds"
    for part, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("crow", "owl")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((8, 8, 3), 100 * label + i, np.uint8)).save(root / part / name / f"{i}.png")
    return root


def prepare(folder: Path, out: Path, **options) -> dict:
    return data.prepare(f"imagefolder:{folder}", out, image_size=8, **options)


def refused(*args, **options) -> str:
    """What preparing a folder is refused with: one line."""
    with pytest.raises((ValueError, OSError)) as error:
        prepare(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------ images


def test_images_of_16_bits_keep_their_grey_levels(tmp_path):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for name in ("a.png", "b.tif", "c.pgm"):
        path = tmp_path / name
        if name == "c.pgm":
            path.write_bytes(b"P5 16 16 65535\n" + values.astype(">u2").tobytes())
        else:
            Image.fromarray(values).save(path)
        image = np.array(decode(path))
        assert (image.shape, image.dtype) == ((16, 16, 3), np.uint8)
        assert np.array_equal(image[..., 0], values >> 8), name
        assert len(np.unique(image)) == 256


def test_images_of_8_bits_are_read_as_before(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    for mode, name in (("RGB", "a.png"), ("L", "b.bmp"), ("RGBA", "c.png"), ("P", "d.png"), ("1", "e.png"), ("CMYK", "f.jpg")):
        image = Image.fromarray(pixels).convert("RGB").convert(mode)
        image.save(tmp_path / name)
        assert np.array_equal(decode(tmp_path / name), datasets.folder.default_loader(str(tmp_path / name))), mode


def test_images_of_an_unknown_range_are_refused(tmp_path):
    for array, said in (
        (np.zeros((4, 4), np.float32), "its values are floats"),
        (np.zeros((4, 4), np.int32), "of neither 8 nor 16"),
    ):
        Image.fromarray(array).save(tmp_path / "a.tif")
        with pytest.raises(ValueError, match=f"a.tif cannot be read as an image: .*{said}.*; save it with 8 or 16 bits"):
            decode(tmp_path / "a.tif")


def test_what_systems_put_into_folders_is_nobodys_image(folder, tmp_path):
    plain = prepare(folder, tmp_path / "a")
    for part in ("train", "test"):
        for name in (".ipynb_checkpoints", "__MACOSX", ".git"):
            (folder / part / name).mkdir()
            shutil.copy(folder / part / "owl" / "0.png", folder / part / name)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / part / name).write_bytes(b"x")
            (folder / part / "owl" / name).write_bytes(b"x")
        (folder / part / "owl" / "._0.png").write_bytes(b"AppleDouble")
        (folder / part / "owl" / ".ipynb_checkpoints").mkdir()
        (folder / part / "owl" / ".ipynb_checkpoints" / "0-checkpoint.png").write_bytes(b"x")
    assert data.is_prepared(tmp_path / "a", f"imagefolder:{folder}", image_size=8)
    assert prepare(folder, tmp_path / "b") == plain
    (folder / "train" / "owl" / "more").mkdir()
    assert "train/owl/more is a folder; images lie in their class's folder itself" in refused(folder, tmp_path / "c")


def test_recordings_that_systems_make_are_nobodys(tmp_path):
    assert source_files.RECORDINGS == spoken.FOLDER
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "._0_george_0.wav").write_bytes(b"AppleDouble")
    with pytest.raises(ValueError, match="no recording of the speaker george"):
        spoken.read(tmp_path)


def test_the_endings_are_torchvisions():
    assert set(source_files.IMAGES) == set(IMG_EXTENSIONS)


@pytest.mark.parametrize("loader", ["memory", "stream"])
def test_all_bad_images_are_named_in_one_message(folder, tmp_path, loader):
    whole = folder / "train" / "crow" / "x10.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(whole)
    cut = whole.read_bytes()[:1000]
    for i in range(11):
        (folder / "train" / "crow" / f"x{i:02}.png").write_bytes(cut)
    (folder / "test" / "owl" / "y.png").write_bytes(b"")
    line = refused(folder, tmp_path / "out", loader=loader)
    assert line.startswith(f"{folder}: 12 of 24 images cannot be read: train/crow/x00.png: ")
    assert "train/crow/x09.png: " in line
    assert "x10" not in line
    assert line.endswith("; and 2 more")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_names_in_any_locale(folder, tmp_path):
    (folder / "train" / "owl" / "0.png").rename(folder / "train" / "owl" / "\u00e4 \u20ac.png")
    code = (
        "import sys; from dgd import data\n"
        "data.prepare('imagefolder:' + sys.argv[1], sys.argv[2], image_size=8, loader=sys.argv[3])\n"
        "loaded = data.load(sys.argv[2])\nprint(len(list(loaded.loader('train', batch_size=2).batches())))\n"
    )
    for loader in ("memory", "stream"):
        written = []
        for locale in ({"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "C.UTF-8"}):
            out = tmp_path / f"{loader}{len(written)}"
            env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **locale}
            command = [sys.executable, "-c", code, str(folder), str(out), loader]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr
            written.append({p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.name != source_files.SEEN})
        assert written[0] == written[1]
    os.rename(os.fsencode(folder / "train" / "owl" / "1.png"), os.fsencode(folder / "train" / "owl") + b"/\xff.png")
    assert "is not UTF-8; rename it" in refused(folder, tmp_path / "out")


# ----------------------------------------------------------------------------------------- counts, labels, shapes


def part(count=3, labels=None, images=None) -> Part:
    labels = np.arange(count) if labels is None else labels
    return Part(labels, np.zeros((count, 1, 8, 8), np.uint8) if images is None else images)


@pytest.mark.parametrize(
    ("made", "classes", "said"),
    [
        (part(21, np.zeros(20, np.int64)), 10, "21 images and 20 labels; there must be one for each"),
        (part(0), 10, "0 images and 0 labels"),
        (part(3), 2, "labels from 0 to 2; they must be 0 to 1"),
        (part(3, np.array([0, -1, 1])), 2, "labels from -1 to 1; they must be 0 to 1"),
        (part(3, np.zeros(3)), 2, "the labels are float64 of shape"),
        (part(3, np.zeros((3, 1), np.int64)), 2, "the labels are int64 of shape"),
        (part(3), 0, "the labels are int64 of shape .*they must be float32"),
        (part(2, np.array([0, np.nan], np.float32)), 0, "a label is no finite number"),
        (part(3, images=np.zeros((3, 1, 8, 8))), 3, "the images are float64"),
        (part(3, images=np.zeros((3, 8, 8), np.uint8)), 3, "the images are uint8 of shape"),
        (part(3, images=np.zeros((3, 1, 8, 9), np.uint8)), 3, "the images are uint8 of shape"),
    ],
)
def test_a_part_that_cannot_be_is_refused(made, classes, said, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=f"^some file: {said}"):
        check_part(made, classes, "some file")
    raw = sources.Raw(made, part(3) if classes else part(3, np.zeros(3, np.float32)), list("abcdefghij")[:classes], {})
    monkeypatch.setitem(data.SOURCES, "digits", data.SOURCES["digits"]._replace(read=lambda _: raw))
    with pytest.raises(ValueError, match=f"^digits: the training part: {said}"):
        data.prepare("digits", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["digits", "digits-rotation", "digits-angle"])
def test_the_real_ones_pass(name):
    raw = sources.find(name)[0].read(Path())
    for one in (raw.train, raw.test):
        assert check_part(one, len(raw.classes), name) is one


def fashion(root: Path, images: int = 30, labels: int = 30, label: int = 9, side: int = 28) -> Path:
    """Write the extracted files of a Fashion-MNIST, of which the training part is as asked for."""
    where = root / source_files.FASHION
    where.mkdir(parents=True, exist_ok=True)
    for name, (n, m) in {"train": (images, labels), "t10k": (6, 6)}.items():
        content = struct.pack(">4B3i", 0, 0, 8, 3, n, side, side) + bytes(n * side * side)
        (where / f"{name}-images-idx3-ubyte").write_bytes(content)
        content = struct.pack(">4Bi", 0, 0, 8, 1, m) + bytes([label] * m)
        (where / f"{name}-labels-idx1-ubyte").write_bytes(content)
    return where


def test_a_fashion_mnist_of_other_counts_shapes_or_labels_is_refused(tmp_path, monkeypatch):
    fashion(tmp_path)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte has shape \(30, 28, 28\) and should have \(60000, 28, 28\)"):
        data.prepare("fashion_mnist", tmp_path / "out", data_dir=tmp_path)
    monkeypatch.setattr(sources, "FASHION_IMAGES", {"train": 30, "t10k": 6})
    data.prepare("fashion_mnist", tmp_path / "out", data_dir=tmp_path)
    for change, said in (
        ({"images": 21, "labels": 20}, r"train-images-idx3-ubyte has shape \(21, 28, 28\) and should have \(30, 28, 28\)"),
        ({"labels": 29}, r"train-labels-idx1-ubyte has shape \(29,\) and should have \(30,\)"),
        ({"side": 27}, r"train-images-idx3-ubyte has shape \(30, 27, 27\)"),
        ({"label": 10}, r"train-images-idx3-ubyte and train-labels-idx1-ubyte: labels from 10 to 10; they must be 0 to 9"),
    ):
        fashion(tmp_path, **change)
        with pytest.raises(ValueError, match=said):
            data.prepare("fashion_mnist", tmp_path / "new", data_dir=tmp_path)
    (tmp_path / source_files.FASHION / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"another file"))
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte.gz is corrupt: its MD5 is"):
        data.prepare("fashion_mnist", tmp_path / "new", data_dir=tmp_path)


def test_prepared_tensors_that_are_not_what_the_manifest_says_are_refused(tmp_path):
    manifest = data.prepare("digits-rotation", tmp_path / "r", train_images=9)
    tensors = data.load(tmp_path / "r").tensors
    check_tensors(tensors, manifest, "here")
    for change, said in (
        ({"train_labels": torch.full((9,), torch.nan)}, "train_labels are not all finite"),
        (
            {"train_labels": torch.zeros(9, dtype=torch.int64)},
            r"train_labels is torch.int64 of shape \(9,\); it should be torch.float32",
        ),
        ({"train_labels": torch.zeros(8)}, r"train_labels is torch.float32 of shape \(8,\)"),
        ({"test_images": tensors["test_images"].float()}, "test_images is torch.float32"),
        ({"train_images": tensors["train_images"][:, :, :7]}, r"train_images is torch.uint8 of shape \(9, 1, 7, 8\)"),
    ):
        with pytest.raises(ValueError, match=f"^here: {said}"):
            check_tensors(tensors | change, manifest, "here")
        with pytest.raises(ValueError, match=said):
            write_prepared(tensors | change, manifest, tmp_path / "generated")
    with pytest.raises(ValueError, match="here: test_images is missing"):
        check_tensors({key: value for key, value in tensors.items() if key != "test_images"}, manifest, "here")
    plain = data.prepare("digits", tmp_path / "d", train_images=10)
    wrong = data.load(tmp_path / "d").tensors | {"train_labels": torch.full((10,), 10)}
    with pytest.raises(ValueError, match="here: train_labels are not all 0 to 9"):
        check_tensors(wrong, plain, "here")
    assert not (tmp_path / "generated").exists()


# ----------------------------------------------------------------------------------------------------------- seals


@pytest.mark.parametrize(
    "change",
    [{"mean": [0.1]}, {"classes": ["x"] * 10}, {"num_classes": 11}, {"augmentation": {}}, {"new": 1}],
)
def test_a_manifest_that_was_edited_is_refused(tmp_path, change):
    manifest = data.prepare("digits", tmp_path, train_images=10)
    path = tmp_path / "manifest.json"
    before = identity.data_hash(path)
    path.write_text(json.dumps(manifest | change, indent=1))
    line = f"{path} was changed after it was written; delete its folder, and it is prepared again"
    for read in (lambda: data.load(tmp_path), lambda: data.is_prepared(tmp_path, "digits", train_images=10)):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            read()
        assert str(error.value) == line
    del manifest[source_files.SEAL], manifest[source_files.SEALED]  # of before there were seals
    path.write_text(json.dumps(manifest, indent=1) + "\n")
    assert data.load(tmp_path).sizes["train"] == 10
    assert data.is_prepared(tmp_path, "digits", train_images=10)
    assert identity.data_hash(path) == before


def test_the_seal_is_the_hash_of_the_file_before_there_were_seals(tmp_path):
    manifest = data.prepare("digits", tmp_path, train_images=10)
    own = {key: value for key, value in manifest.items() if key not in (source_files.SEAL, source_files.SEALED)}
    assert manifest[source_files.SEAL] == hashlib.sha256((json.dumps(own, indent=1) + "\n").encode()).hexdigest()
    assert (tmp_path / "manifest.json").read_text() == json.dumps(manifest, indent=1) + "\n"


# --------------------------------------------------------------------------------------------------- shared memory


def test_pieces_fit_into_shared_memory():
    assert loading.piece(100, 2, None) >= 10**9
    assert loading.piece(100, 0, 0) >= 10**9  # this process reads
    assert loading.piece(100, 2, 5000) == 10  # two ahead of each worker and one: 5 x 10 x 100
    assert loading.piece(100, 2, 500) == 1
    with pytest.raises(
        ValueError, match=r"/dev/shm has too little .* 2 data.workers; give .*--shm-size=2g.*, or lower data.workers"
    ):
        loading.piece(100, 2, 499)


def epoch_of(out: Path, workers: int, split: str = "train") -> list:
    loader = data.load(out).loader(split, batch_size=5, workers=workers)
    return list(loader.batches(torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)))


def test_batches_do_not_depend_on_the_room(folder, tmp_path, monkeypatch):
    prepare(folder, tmp_path / "out", loader="stream")
    whole = epoch_of(tmp_path / "out", 0)
    assert [len(batch) for batch in whole] == [5, 3]
    monkeypatch.setattr(loading, "shared_memory", lambda: 2 * 3 * 3 * 64)  # two images a piece of one worker
    for ours, theirs in zip(epoch_of(tmp_path / "out", 1), whole, strict=True):
        assert torch.equal(ours.inputs["image"], theirs.inputs["image"])
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.index, theirs.index)


def test_what_ends_a_worker_is_one_line(folder, tmp_path, monkeypatch):
    prepare(folder, tmp_path / "out", loader="stream")
    path = folder / "train" / "owl" / "0.png"
    path.write_bytes(b"not a picture")
    for workers in (0, 1):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            epoch_of(tmp_path / "out", workers)
        assert str(error.value) == f"{path} cannot be read as an image: no image, or of an unknown form"
    monkeypatch.setattr(loading, "decode", lambda path: os.kill(os.getpid(), signal.SIGBUS))
    with pytest.raises(RuntimeError, match=r"^a process that reads .*--shm-size=2g\), or lower data.workers$"):
        epoch_of(tmp_path / "out", 1)


@pytest.mark.slow
def test_a_container_of_64_mb_of_shared_memory_is_enough(tmp_path):
    """As Docker gives: batches of 128 images of 224 pixels, 19 MB each, read by 4 workers."""
    for part, count in (("train", 600), ("test", 1)):
        (tmp_path / "birds" / part / "owl").mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (225, 225)).save(tmp_path / "birds" / part / "owl" / f"{i}.jpg")
    data.prepare(f"imagefolder:{tmp_path / 'birds'}", tmp_path / "out", image_size=224, loader="stream")
    code = (
        "import sys; from dgd import data\n"
        "loader = data.load(sys.argv[1]).loader('train', batch_size=128, workers=4)\n"
        "print(sum(len(batch) for batch in loader.batches()))"
    )
    script = 'mount -t tmpfs -o size=64m none /dev/shm && exec "$@"'
    command = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        script,
        "sh",
        sys.executable,
        "-c",
        code,
        str(tmp_path / "out"),
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mounts here")
    assert (done.returncode, done.stdout) == (0, "600\n"), done.stderr


# ------------------------------------------------------------------------------------- what changes where images lie


def add(folder: Path) -> None:
    shutil.copy(folder / "train" / "owl" / "0.png", folder / "train" / "owl" / "new.png")


def change_in_place(folder: Path) -> None:
    """Change a pixel, and set size and time back."""
    path = folder / "train" / "owl" / "0.png"
    was = path.stat()
    content = bytearray(path.read_bytes())
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(path)
    assert path.stat().st_size == len(content)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def rename(folder: Path) -> None:
    (folder / "test" / "crow" / "0.png").rename(folder / "test" / "crow" / "2.png")


def remove(folder: Path) -> None:
    (folder / "test" / "crow" / "0.png").unlink()


def touch(folder: Path) -> None:
    (folder / "train" / ".DS_Store").touch()
    for path in folder.rglob("*"):
        os.utime(path)


def copy(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("other"))
    shutil.rmtree(folder)
    folder.with_name("other").rename(folder)


@pytest.mark.parametrize(
    ("edit", "expected"), [(add, True), (change_in_place, True), (rename, True), (remove, True), (touch, False), (copy, False)]
)
@pytest.mark.parametrize("loader", ["memory", "stream"])
def test_what_is_prepared_follows_contents_and_nothing_else(folder, tmp_path, edit, expected, loader):
    name, out = f"imagefolder:{folder}", tmp_path / "out"
    given = {"image_size": 8, "loader": loader, "dir": str(tmp_path)}
    prepare_main(["--dataset", name, "--data", json.dumps(given), "--out", str(out)])
    asked = Prepared(name, given, out)
    assert not asked.changed
    assert not asked.outdated
    edit(folder)
    asked = Prepared(name, given, out)
    assert (asked.changed, asked.outdated) == (expected, expected)
    assert data.is_prepared(out, name, image_size=8, loader=loader) is not expected
    cell = replace(digits_cells(["baseline"])[0], dataset=name)
    cell = replace(cell, data=replace(cell.data, dir=str(tmp_path)))
    held = identity.prepared_folder(cell)
    held.parent.mkdir(parents=True)
    out.rename(held)
    (tmp_path / "r" / cell.path).mkdir(parents=True)
    (tmp_path / "r" / cell.path / "metrics.json").write_text("{}")
    (tmp_path / "r" / cell.path / "provenance.json").write_text(
        json.dumps({"identity": {"hash": "0", "fields": {}, "code": {}, "teachers": {}, "data": None}})
    )
    said = "the files changed that the data set was prepared from" in str(identity.states([cell], tmp_path / "r")[cell.path])
    assert said is expected


def test_files_are_not_hashed_again_where_nothing_changed(folder, tmp_path, monkeypatch):
    out, name = tmp_path / "out", f"imagefolder:{folder}"
    prepare(folder, out)
    assert not (out / source_files.SEEN).exists()  # the images were written just now: they might change unseen
    monkeypatch.setattr(source_files, "RECENT", 0)
    assert not source_files.is_changed(name, tmp_path, out)
    assert (out / source_files.SEEN).is_file()
    with monkeypatch.context() as patch:
        patch.setattr(source_files, "file_hash", lambda path: pytest.fail("hashed"))
        assert not source_files.is_changed(name, tmp_path, out)
    touch(folder)
    assert not source_files.is_changed(name, tmp_path, out)
    change_in_place(folder)
    assert source_files.is_changed(name, tmp_path, out)
    assert source_files.is_changed(name, tmp_path, out)  # by what was remembered
    (out / source_files.SEEN).write_text("{")
    assert source_files.is_changed(name, tmp_path, out)


def test_what_was_prepared_stands_alone_where_its_files_are_gone(folder, tmp_path):
    prepare(folder, tmp_path / "out")
    shutil.rmtree(folder)
    assert data.is_prepared(tmp_path / "out", f"imagefolder:{folder}", image_size=8)
    assert not source_files.is_changed("digits", tmp_path, tmp_path / "out")


def test_data_of_before_fingerprints_are_prepared_again_and_nothing_is_trained(folder, tmp_path):
    given, name = {"image_size": 8}, f"imagefolder:{folder}"
    prepare_main(["--dataset", name, "--data", json.dumps(given), "--out", str(tmp_path / "out")])
    then = Prepared(name, given, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    del manifest["fingerprint"], manifest[source_files.SEAL], manifest[source_files.SEALED]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    files.write_json(tmp_path / "out" / MADE_FROM, then.made_from | {"listing": "abc"})
    now = Prepared(name, given, tmp_path / "out")
    assert (now.changed, now.outdated, now.hash) == (False, True, then.hash)
    assert not data.is_prepared(tmp_path / "out", name, image_size=8)


def test_fashion_mnist_without_checksums_is_followed_too(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "FASHION_IMAGES", {"train": 30, "t10k": 6})
    where = fashion(tmp_path)
    data.prepare("fashion_mnist", tmp_path / "out", data_dir=tmp_path)
    assert data.is_prepared(tmp_path / "out", "fashion_mnist", data_dir=tmp_path)
    fashion(tmp_path, label=8)
    assert not data.is_prepared(tmp_path / "out", "fashion_mnist", data_dir=tmp_path)
    shutil.rmtree(where)
    assert data.is_prepared(tmp_path / "out", "fashion_mnist", data_dir=tmp_path)


def test_images_that_are_added_are_trained_on(folder, tmp_path):
    cell = replace(digits_cells(["baseline"])[0], dataset=f"imagefolder:{folder}")
    cell = replace(cell, data=replace(cell.data, dir=str(tmp_path / "d"), image_size=8))
    assert data.load(running.prepared(cell, tmp_path)).sizes["train"] == 8
    add(folder)
    assert data.load(running.prepared(cell, tmp_path)).sizes["train"] == 9


# -------------------------------------------------------------------------------------- modes, disks, processes, downloads


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_files_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        data.prepare("digits", tmp_path / "out", train_images=10)
        files.write_text(tmp_path / "out" / "some.txt", "x")
    finally:
        assert os.umask(before) == umask
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert modes == dict.fromkeys(("images.safetensors", "manifest.json", "some.txt"), 0o666 & ~umask)


def prepared_by_the_script(out: Path) -> str:
    """Prepare the digits as the workflow does; return what it ends with, which is one line."""
    with pytest.raises(SystemExit) as end:
        prepare_main(["--dataset", "digits", "--data", "{}", "--out", str(out)])
    assert "\n" not in end.value.code
    return end.value.code


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing_half_written(tmp_path):
    out = tmp_path / "out"
    for before in (False, True):
        if before:
            data.prepare("digits", out, train_images=10)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            line = prepared_by_the_script(out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert line.startswith(f"{out} cannot be written: ")
        assert "File too large" in line
        assert line.endswith("; give a data.dir that can be written and has room")
        assert len(list(out.iterdir())) == 2 * before
    assert data.load(out).sizes["train"] == 10  # what was there is there


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    out = tmp_path / "file" / "out"
    (tmp_path / "file").write_text("")
    said = "cannot be written: Not a directory; give a data.dir that can be written and has room"
    assert prepared_by_the_script(out) == f"{out} {said}"


@pytest.mark.slow
def test_a_full_or_read_only_disk_is_one_line(tmp_path):
    """On real file systems, in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    for options, said in (("size=64k", "No space left on device"), ("ro", "Read-only file system")):
        script = f'mount -t tmpfs -o {options} none "$1" && shift && "$@"; code=$?; ls -A {disk}/out 2>/dev/null; exit $code'
        command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", str(disk)]
        command += [sys.executable, "-m", "pipeline.prepare", "--dataset", "digits", "--data", "{}", "--out", str(disk / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if "unshare" in done.stderr or "mount:" in done.stderr:
            pytest.skip("no mounts here")
        assert done.stderr.startswith(f"{disk / 'out'} cannot be written: ")
        assert (done.returncode, said in done.stderr, done.stderr.count("\n"), done.stdout) == (1, True, 1, "")


@pytest.mark.slow
def test_without_a_home_and_a_locale(tmp_path):
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "pipeline.prepare", "--dataset", "digits", "--data", "{}", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert data.load(tmp_path / "out").sizes["train"] == 1198


def test_processes_that_prepare_the_same_at_once_all_succeed(tmp_path):
    (tmp_path / ".writing-of-a-killed-one").mkdir()
    (tmp_path / ".writing-of-a-killed-one" / "images.safetensors").write_bytes(b"x")
    failed, stop = [], threading.Event()

    def work():
        try:
            for _ in range(5):
                data.prepare("digits", tmp_path, train_images=50)
        except Exception as error:
            failed.append(error)

    def read():
        while not stop.is_set():
            if (tmp_path / "manifest.json").is_file():
                try:
                    data.load(tmp_path)
                except Exception as error:
                    failed.append(error)

    reader, workers = threading.Thread(target=read), [threading.Thread(target=work) for _ in range(4)]
    for thread in (reader, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    reader.join()
    assert failed == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.safetensors", "manifest.json"]


def test_a_download_that_ends_early_or_is_another_file_is_one_line(tmp_path, monkeypatch):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * (1_000_000 if self.path.endswith("whole") else 1000))

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        for end in ("whole", "short"):
            monkeypatch.setattr(datasets.CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{end}")
            with pytest.raises(FileNotFoundError) as error:
                data.prepare("cifar10", tmp_path / "out", data_dir=tmp_path / "data")
            assert "cifar-10-python.tar.gz is not there and could not be downloaded; put it there" in str(error.value)
            assert "\n" not in str(error.value)
            assert list((tmp_path / "data").iterdir()) == []
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_terminal_without_utf_8_is_written_to(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert cli.main(["table", str(ROOT / "results" / "decay-small"), "--papers", str(ROOT / "papers" / "dgd.yaml")]) == 0
    sys.stdout.flush()
    assert rb"student \u2190 teacher" in written.getvalue()
