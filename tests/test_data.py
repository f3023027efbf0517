"""The data: the law of augmentation, the splits, and the refusal of files that are not what they should be.

The made-up CIFAR and Fashion-MNIST files here pass for real because the tests put their checksums into
torchvision's tables; the real archives are checked where DGD_DATA_DIR names a folder that holds them.
"""

import gzip
import hashlib
import importlib
import json
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision import datasets, transforms
from torchvision.transforms import functional as F

from dgd import data
from dgd.cell import slug
from dgd.data import sources
from tests.helpers import write_manifest

preparation = importlib.import_module("dgd.data.preparation")

# Of the chosen indices (257 for training after 100 for validation), and of the test part's pixels and labels.
DIGITS_TRAIN_SHA256 = "42bacff88ff40d7df121b02ff615558d691b6e9f917f21fe127bb56ec66bf2fd"
DIGITS_TEST_SHA256 = "feeaed246858a6babd96d0e57e67df37407c13a36be80c4460077724b6ef48f6"
REAL = os.environ.get("DGD_DATA_DIR")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dataset(images: torch.Tensor, pad: int, flip: bool) -> data.Dataset:
    """A data set of these training images, mean 0 and deviation 1, labels 0, 1, 2, ..."""
    manifest = {
        "name": "made-up",
        "loader": "memory",
        "num_classes": 10,
        "in_chans": images.shape[1],
        "image_size": images.shape[-1],
        "mean": [0.0] * images.shape[1],
        "std": [1.0] * images.shape[1],
        "sizes": {"train": len(images), "validation": 0, "test": len(images)},
        "augmentation": {"pad": pad, "flip": flip},
    }
    labels = torch.arange(len(images))
    tensors = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    return data.Dataset(manifest, tensors)


def parts(batch: data.Examples) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, labels and indices of a batch."""
    assert isinstance(batch, data.Examples)
    assert list(batch.inputs) == ["image"]
    assert len(batch) == len(batch.labels) == len(batch.index) == len(batch.inputs["image"])
    return batch.inputs["image"], batch.labels, batch.index


def joined(batches) -> tuple[torch.Tensor, ...]:
    """Images, labels and indices of all batches."""
    return tuple(torch.cat(tensors) for tensors in zip(*map(parts, batches)))


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(0))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- the law of augmentation


@pytest.mark.parametrize(("channels", "size", "pad"), [(1, 8, 1), (3, 32, 4)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_shift_and_flip_is_torchvisions_to_the_last_bit(channels, size, pad, channels_last):
    image = noise(1, channels, size, size)
    mean, std = [0.4914, 0.4822, 0.4465][:channels], [0.247, 0.2435, 0.2616][:channels]
    cases = [(i, j, f) for i in range(2 * pad + 1) for j in range(2 * pad + 1) for f in (False, True)]
    rows, columns, flips = (torch.tensor(values) for values in zip(*cases))
    ours = data.augment(
        torch.nn.functional.pad(image, [pad] * 4),
        torch.zeros(len(cases), dtype=torch.int64),
        torch.stack([rows, columns]),
        flips,
        pad,
        torch.tensor(mean)[:, None, None],
        torch.tensor(std)[:, None, None],
        channels_last,
    )
    assert ours.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    pil = F.to_pil_image(image[0])
    for (i, j, flip), result in zip(cases, ours):
        theirs = F.crop(F.pad(pil, [pad] * 4), i, j, size, size)
        theirs = F.normalize(F.to_tensor(F.hflip(theirs) if flip else theirs), mean, std)
        assert torch.equal(result, theirs), (i, j, flip)


def test_shifts_and_flips_are_uniform_and_independent_as_torchvisions_are():
    n, pad, size = 20_000, 2, 8
    images = torch.zeros(n, 1, size, size, dtype=torch.uint8)
    images[:, 0, 3, 3], images[:, 0, 3, 4] = 200, 100  # neither mark can leave the crop
    batches = dataset(images, pad, flip=True).loader("train", batch_size=1000).batches(generator(1), generator(2))
    out = torch.cat([batch.inputs["image"] for batch in batches]).flatten(1)
    first, second = (out == 200 / 255).float().argmax(1), (out == 100 / 255).float().argmax(1)
    flips = second < first
    rows = 3 + pad - first // size
    columns = torch.where(flips, first % size - 4 + pad, 3 + pad - first % size)
    ours = torch.bincount((rows * 5 + columns) * 2 + flips, minlength=50)
    assert len(ours) == 50
    assert stats.chisquare(ours).pvalue > 0.01
    torch.manual_seed(3)
    padded = torch.zeros(1, size + 2 * pad, size + 2 * pad)
    crops = torch.tensor([transforms.RandomCrop.get_params(padded, (size, size))[:2] for _ in range(5000)])
    theirs = torch.bincount(crops[:, 0] * 5 + crops[:, 1], minlength=25)
    assert stats.chi2_contingency(torch.stack([ours.view(25, 2).sum(1), theirs])).pvalue > 0.01


# --- loaders


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> data.Dataset:
    out = tmp_path_factory.mktemp("digits")
    data.prepare("digits", out, train_images=257, validation_images=100)
    return data.load(out)


def test_the_generators_decide_everything(digits):
    train = digits.loader("train", batch_size=32)

    def epoch(order, augment):
        images, labels, index = joined(train.batches(generator(order), generator(augment)))
        assert (images.dtype, labels.dtype, index.dtype) == (torch.float32, torch.int64, torch.int64)
        assert torch.equal(labels, digits.tensors["train_labels"][index])
        return images, index

    state = torch.get_rng_state()
    once, again, other_order, other_images = epoch(0, 1), epoch(0, 1), epoch(2, 1), epoch(0, 2)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(once, again))
    assert not torch.equal(once[1], other_order[1])
    assert torch.equal(once[1], other_images[1])
    assert not torch.equal(once[0], other_images[0])


def test_random_numbers_are_drawn_at_the_call(digits):
    order = generator(0)
    batches = digits.loader("train", batch_size=32).batches(order, order)
    state = order.get_state()
    list(batches)
    assert torch.equal(state, order.get_state())


def test_a_last_training_batch_of_one_is_dropped_and_a_partial_one_kept(digits):
    train = digits.loader("train", batch_size=32)  # 257 images
    assert (len(train), train.images) == (8, 257)
    assert [len(batch) for batch in train.batches(generator(0))] == [32] * 8
    assert sum(len(batch) for batch in train.batches()) == 257
    train = digits.loader("train", batch_size=100)
    assert len(train) == 3
    assert [len(batch) for batch in train.batches(generator(0), generator(0))] == [100, 100, 57]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_evaluation_gives_every_image_once_in_order_and_as_it_is(digits, split):
    test = digits.loader(split, batch_size=50)
    images, labels, index = joined(test.batches())
    assert torch.equal(index, torch.arange(digits.sizes[split]))
    assert torch.equal(labels, digits.tensors[f"{split}_labels"])
    expected = F.normalize(digits.tensors[f"{split}_images"] / 255, digits.mean, digits.std)
    assert torch.equal(images, expected)
    if split == "train":
        assert images.mean().abs() < 1e-5
        assert (images.std(correction=0) - 1).abs() < 1e-5


def test_without_flip_nothing_is_mirrored():
    images = torch.zeros(500, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 3, 3], images[:, 0, 3, 4] = 200, 100
    loader = dataset(images, 1, flip=False).loader("train", batch_size=500)
    out = next(loader.batches(None, generator(0))).inputs["image"].flatten(1)
    assert ((out == 100 / 255).float().argmax(1) - (out == 200 / 255).float().argmax(1) == 1).all()


def test_loaders_share_one_copy(digits):
    first, second = (digits.loader("train", batch_size=size) for size in (32, 64))
    stores = [loader.dataset.on_device("train", loader.device)[0] for loader in (first, second)]
    assert stores[0].data_ptr() == stores[1].data_ptr()


def test_splits_and_batch_sizes_that_cannot_be(digits, tmp_path):
    with pytest.raises(ValueError, match="'dev'; there are train, validation, test"):
        digits.loader("dev", batch_size=8)
    with pytest.raises(ValueError, match="batch_size is 0"):
        digits.loader("test", batch_size=0)
    data.prepare("digits", tmp_path)
    with pytest.raises(ValueError, match="no images in split 'validation'"):
        data.load(tmp_path).loader("validation", batch_size=8)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_bits_and_never_waits():
    made_up = dataset(noise(300, 3, 32, 32), 4, flip=True)
    made_up.mean, made_up.std = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]
    epochs = []
    for device in ("cpu", "cuda"):
        batches = made_up.loader("train", batch_size=128, device=device).batches(generator(0), generator(1))
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            epoch = list(batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        epochs.append([[tensor.cpu() for tensor in parts(batch)] for batch in epoch])
    for ours, theirs in zip(*epochs):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


# --- splits


def test_the_digits_are_split_as_ever(digits):
    assert digits.sizes == {"train": 257, "validation": 100, "test": 599}
    assert digits.manifest["indices_sha256"]["train"] == DIGITS_TRAIN_SHA256
    assert digits.manifest["indices_sha256"]["test"] == hashlib.sha256(np.arange(599, dtype="<i8").tobytes()).hexdigest()
    raw = sources.find("digits")[0].read(Path())
    assert len(raw.train.labels) == 1198
    both = np.concatenate([raw.train.images, raw.test.images])
    embedded = np.round(importlib.import_module("sklearn.datasets").load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in embedded)
    pixels = hashlib.sha256(raw.test.images.tobytes() + raw.test.labels.astype("<i8").tobytes()).hexdigest()
    assert pixels == DIGITS_TEST_SHA256


@pytest.mark.parametrize("count", [0, 1, 10, 123, 999, 1000])
def test_stratified_keeps_the_proportions(count):
    labels = np.random.RandomState(0).choice([0, 1, 5, 7], size=1000, p=[0.5, 0.3, 0.19, 0.01])
    chosen = data.stratified(labels, count, seed=0)
    assert len(set(chosen)) == len(chosen) == count
    assert (np.sort(chosen) == chosen).all()
    for label in (0, 1, 5, 7):
        assert abs((labels[chosen] == label).sum() - (labels == label).mean() * count) < 1
    assert (data.stratified(labels, count, seed=0) == chosen).all()
    if 10 <= count < 999:
        assert (data.stratified(labels, count, seed=1) != chosen).any()


def test_validation_is_disjoint_and_does_not_depend_on_train_images():
    labels = np.arange(1198) % 10
    few = preparation._split("x", labels, 200, 100, 0)
    rest = preparation._split("x", labels, None, 100, 0)
    assert (few["validation"] == rest["validation"]).all()
    assert not set(few["validation"]) & set(few["train"])
    assert sorted([*rest["validation"], *rest["train"]]) == list(range(1198))
    assert set(np.bincount(labels[few["train"]])) == {20}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_images": 1100, "validation_images": 100}, "train_images is 1100, and can be 1 to 1098"),
        ({"train_images": 0}, "train_images is 0, and can be 1 to 1198"),
        ({"validation_images": 1198}, "validation_images is 1198, and can be 0 to 1197"),
        ({"validation_images": -1}, "validation_images is -1"),
        ({"image_size": 32}, "image_size is 32, and can only be 8 or null"),
        ({"loader": "stream"}, "for imagefolder:<path> only"),
        ({"loader": "lmdb"}, "'lmdb', and can be auto, memory or stream"),
    ],
)
def test_arguments_that_cannot_be(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=f"digits: .*{message}"):
        data.prepare("digits", tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


# --- what is written


def test_preparing_twice_gives_the_same_bytes(tmp_path):
    for out in ("a", "b", "b"):
        data.prepare("digits", tmp_path / out, train_images=200, validation_images=100)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert sorted(files_of(tmp_path / "a")) == ["images.safetensors", "manifest.json"]
    data.prepare("digits", tmp_path / "b", train_images=200, validation_images=100, seed=1)
    assert files_of(tmp_path / "a") != files_of(tmp_path / "b")


def test_the_manifest_says_what_is_there(digits, tmp_path):
    manifest = data.prepare("digits", tmp_path, train_images=257, validation_images=100)
    assert manifest == digits.manifest == json.loads((tmp_path / "manifest.json").read_text())
    train = digits.tensors["train_images"].double() / 255
    assert digits.mean == pytest.approx([train.mean().item()], rel=1e-12)
    assert digits.std == pytest.approx([train.std(correction=0).item()], rel=1e-12)
    assert (digits.name, digits.num_classes, digits.in_chans, digits.image_size) == ("digits", 10, 1, 8)
    assert manifest["shapes"]["train_images"] == [257, 1, 8, 8] == list(digits.tensors["train_images"].shape)
    assert manifest["classes"] == list("0123456789")
    assert manifest["augmentation"] == {"pad": 1, "flip": False}
    assert digits.tensors["test_images"].max() == 255
    assert manifest["images_sha256"] == hashlib.sha256((tmp_path / "images.safetensors").read_bytes()).hexdigest()


def test_moments_a_channel():
    images = noise(50, 3, 8, 8).numpy()
    images[:, 2] = 7
    mean, std = preparation.moments(images)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, [*scaled.std((0, 2, 3))[:2], 1], rtol=1e-12)


@pytest.mark.parametrize("step", ["tensors", "images", "manifest"])
@pytest.mark.parametrize("before", [False, True])
def test_a_prepare_that_is_killed_leaves_no_manifest(tmp_path, monkeypatch, step, before):
    if before:
        data.prepare("digits", tmp_path)

    def killed(*args):
        raise KeyboardInterrupt

    def replace(source, target, real=os.replace):
        return killed() if Path(target).stem == step else real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(preparation.os, "replace", replace)
        if step == "tensors":
            patch.setattr(preparation, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            data.prepare("digits", tmp_path, train_images=100)
    if before and step == "tensors":  # nothing was replaced yet
        assert data.load(tmp_path).sizes["train"] == 1198
    else:
        with pytest.raises(FileNotFoundError, match=r"manifest.json is not there; prepare the data set first"):
            data.load(tmp_path)
    data.prepare("digits", tmp_path, train_images=100)
    assert data.load(tmp_path).sizes["train"] == 100
    assert sorted(files_of(tmp_path)) == ["images.safetensors", "manifest.json"]


def test_changed_files_are_noticed(tmp_path):
    data.prepare("digits", tmp_path)
    images, manifest = tmp_path / "images.safetensors", tmp_path / "manifest.json"
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    with pytest.raises(ValueError, match=r"images.safetensors is not the file that .*manifest.json describes"):
        data.load(tmp_path)
    data.load(tmp_path, verify=False)
    write_manifest(tmp_path, json.loads(manifest.read_text()) | {"format": 99})
    with pytest.raises(ValueError, match=r"manifest.json has format 99"):
        data.load(tmp_path)
    manifest.write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json is not JSON"):
        data.load(tmp_path)
    images.unlink()
    with pytest.raises(FileNotFoundError, match=r"images.safetensors is not there"):
        data.load(tmp_path)


# --- files that are not what they should be


class Bomb:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(url, *args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr(sources, "download_url", refuse)


@pytest.fixture
def tiny_cifar(tmp_path, monkeypatch, no_network) -> Path:
    """A folder with a CIFAR-10 of 24 images whose checksums torchvision's table is made to name."""
    folder = tmp_path / "raw" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = noise(24, 3 * 32 * 32).numpy()
    entries = {
        "data_batch_1": {"data": pixels[:10], "labels": [0, 1] * 5},
        "data_batch_2": {"data": pixels[10:20], "labels": [1, 0] * 5},
        "test_batch": {"data": pixels[20:], "labels": [0, 1, 0, 1]},
        "batches.meta": {"label_names": ["cat", "dog"]},
    }
    md5 = {}
    for name, entry in entries.items():
        (folder / name).write_bytes(pickle.dumps(entry))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    table = datasets.CIFAR10
    monkeypatch.setattr(table, "train_list", [[name, md5[name]] for name in ("data_batch_1", "data_batch_2")])
    monkeypatch.setattr(table, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(table, "meta", table.meta | {"md5": md5["batches.meta"]})
    monkeypatch.setattr(table, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return folder.parent


def test_cifar_from_the_folder_the_archive_or_the_network_is_one_data_set(tiny_cifar, tmp_path, monkeypatch):
    archive = tmp_path / "cifar-10-python.tar.gz"
    manifest = data.prepare("cifar10", tmp_path / "a", data_dir=tiny_cifar)
    assert (manifest["classes"], manifest["sizes"]["train"], manifest["sizes"]["test"]) == (["cat", "dog"], 20, 4)
    assert torch.equal(data.load(tmp_path / "a").tensors["test_images"], noise(24, 3 * 32 * 32)[20:].view(4, 3, 32, 32))
    data.prepare("cifar10", tmp_path / "b", data_dir=tmp_path)

    def copy(url, folder, filename, md5):
        assert (url, filename, md5) == (datasets.CIFAR10.url, archive.name, datasets.CIFAR10.tgz_md5)
        (Path(folder) / filename).write_bytes(archive.read_bytes())

    monkeypatch.setattr(sources, "download_url", copy)
    data.prepare("cifar10", tmp_path / "c", data_dir=tmp_path / "new")
    assert list(files_of(tmp_path / "new")) == [archive.name]
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") == files_of(tmp_path / "c")


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_2", "test_batch", "batches.meta"])
def test_a_corrupt_cifar_file_is_refused_before_it_is_unpickled(tiny_cifar, tmp_path, name):
    path = tiny_cifar / "cifar-10-batches-py" / name
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    before = files_of(tiny_cifar)
    with pytest.raises(ValueError, match=f"{name} is corrupt: its MD5 is"):
        data.prepare("cifar10", tmp_path / "out", data_dir=tiny_cifar)
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / "out").exists()
    assert files_of(tiny_cifar) == before
    pickle.loads(path.read_bytes()).close()
    assert (tmp_path / "marker").exists()  # it would have


@pytest.mark.parametrize(("name", "folder", "file"), [("cifar10", "cifar-10-batches-py", "batches.meta"),
                                                       ("cifar100", "cifar-100-python", "meta")])  # fmt: skip
def test_bombs_do_not_pass_for_the_real_cifar(tmp_path, no_network, name, folder, file):
    (tmp_path / folder).mkdir()
    table = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    for part in [*(entry[0] for entry in table.train_list + table.test_list), file]:
        (tmp_path / folder / part).write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    with pytest.raises(ValueError, match="is corrupt"):
        data.prepare(name, tmp_path / "out", data_dir=tmp_path)
    assert not (tmp_path / "marker").exists()


def test_a_corrupt_archive_is_refused_and_kept(tiny_cifar, tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-1])
    before = archive.read_bytes()
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz is corrupt"):
        data.prepare("cifar10", tmp_path / "out", data_dir=tmp_path)
    assert archive.read_bytes() == before


def test_a_missing_file_is_named(tiny_cifar, tmp_path):
    (tiny_cifar / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing: .*test_batch; complete"):
        data.prepare("cifar10", tmp_path / "out", data_dir=tiny_cifar)
    with pytest.raises(FileNotFoundError, match=r"cifar-100-python.tar.gz is not there and could not be .*no network"):
        data.prepare("cifar100", tmp_path / "out", data_dir=tmp_path / "empty")
    assert files_of(tmp_path / "empty") == {}


@pytest.fixture
def tiny_fashion(tmp_path, monkeypatch, no_network) -> Path:
    """A Fashion-MNIST of 30 + 6 images whose checksums torchvision's table is made to name."""
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    table = []
    for part, count in (("train", 30), ("t10k", 6)):
        images = struct.pack(">4B3i", 0, 0, 8, 3, count, 28, 28) + noise(count, 28, 28).numpy().tobytes()
        labels = struct.pack(">4Bi", 0, 0, 8, 1, count) + bytes(i % 10 for i in range(count))
        for name, content in ((f"{part}-images-idx3", images), (f"{part}-labels-idx1", labels)):
            path = folder / f"{name}-ubyte.gz"
            path.write_bytes(gzip.compress(content))
            table.append((path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.FashionMNIST, "resources", table)
    monkeypatch.setattr(sources, "FASHION_IMAGES", {"train": 30, "t10k": 6})
    return folder


def test_fashion_mnist_is_read(tiny_fashion, tmp_path):
    manifest = data.prepare("fashion_mnist", tmp_path / "out", data_dir=tmp_path, validation_images=10)
    assert (manifest["in_chans"], manifest["image_size"], manifest["classes"][9]) == (1, 28, "Ankle boot")
    assert manifest["augmentation"] == {"pad": 4, "flip": True}
    read = data.load(tmp_path / "out")
    assert torch.equal(read.tensors["test_images"], noise(6, 28, 28)[:, None])
    assert read.tensors["test_labels"].tolist() == [0, 1, 2, 3, 4, 5]
    assert sorted(read.tensors["validation_labels"].tolist()) == list(range(10))


def test_fashion_mnist_files_are_checked(tiny_fashion, tmp_path):
    path = tiny_fashion / "t10k-images-idx3-ubyte.gz"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz is corrupt"):
        data.prepare("fashion_mnist", tmp_path / "out", data_dir=tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte.gz is not there"):
        data.prepare("fashion_mnist", tmp_path / "out", data_dir=tmp_path)


def test_fashion_mnist_extracted_files_are_taken(tiny_fashion, tmp_path):
    data.prepare("fashion_mnist", tmp_path / "one", data_dir=tmp_path)
    for path in tiny_fashion.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    manifest = data.prepare("fashion_mnist", tmp_path / "two", data_dir=tmp_path)
    assert "FashionMNIST/raw/train-images-idx3-ubyte" in manifest["sources_sha256"]
    assert (tmp_path / "one/images.safetensors").read_bytes() == (tmp_path / "two/images.safetensors").read_bytes()
    path = tiny_fashion / "t10k-images-idx3-ubyte"
    for content in (path.read_bytes()[:-1], b"not an IDX file", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte is corrupt"):
            data.prepare("fashion_mnist", tmp_path / "two", data_dir=tmp_path)


# --- folders of images


@pytest.fixture(scope="module")
def birds(tmp_path_factory) -> Path:
    """Two classes, 6 + 2 images each, of several sizes and modes."""
    root = tmp_path_factory.mktemp("folders") / "my birds"
    for part, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("crow", "owl")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = noise(20 + i, 24, 3).numpy() // 2 + 100 * label
                Image.fromarray(pixels).convert("L" if i == 0 else "RGB").save(root / part / name / f"{i}.png")
    (root / "train" / "crow" / "notes.txt").write_text("not an image")
    return root


def test_a_folder_in_memory(birds, tmp_path):
    name = f"imagefolder:{birds}"
    manifest = data.prepare(name, tmp_path, image_size=16, validation_images=4)
    assert manifest["loader"] == "memory"
    assert manifest["sizes"] == {"train": 8, "validation": 4, "test": 4}
    assert manifest["augmentation"] == {"pad": 2, "flip": True}
    assert manifest["classes"] == ["crow", "owl"]
    path = birds / "val" / "crow" / "1.png"
    assert manifest["sources_sha256"]["val/crow/1.png"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(manifest["sources_sha256"]) == 16
    read = data.load(tmp_path)
    expected = F.pil_to_tensor(F.center_crop(F.resize(Image.open(path), 16), 16))
    assert torch.equal(read.tensors["test_images"][1], expected)
    assert read.tensors["test_labels"].tolist() == [0, 0, 1, 1]
    images = next(read.loader("train", batch_size=8).batches(generator(0), generator(0))).inputs["image"]
    assert images.shape == (8, 3, 16, 16)
    assert data.prepare(name, tmp_path / "again", image_size=16, validation_images=4) == manifest


def test_a_folder_streamed_does_not_depend_on_the_workers(birds, tmp_path):
    manifest = data.prepare(f"imagefolder:{birds}", tmp_path, image_size=16, validation_images=3, loader="stream")
    assert manifest["files"]["test"] == ["val/crow/0.png", "val/crow/1.png", "val/owl/0.png", "val/owl/1.png"]
    assert not set(manifest["files"]["train"]) & set(manifest["files"]["validation"])
    assert manifest["mean"] == [0.485, 0.456, 0.406]
    read = data.load(tmp_path)
    assert not any(key.endswith("_images") for key in read.tensors)
    state = torch.get_rng_state()
    epochs = []
    for workers in (0, 2):
        train = read.loader("train", batch_size=4, workers=workers)
        assert (len(train), train.images) == (2, 9)  # the ninth image would be a batch of its own
        epochs.append([parts(batch) for batch in train.batches(generator(0), generator(1))])
    assert torch.equal(state, torch.get_rng_state())
    for ours, theirs in zip(*epochs):
        assert ours[0].shape == (4, 3, 16, 16)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    other = parts(next(train.batches(generator(0), generator(2))))
    assert torch.equal(other[2], epochs[0][0][2])
    assert not torch.equal(other[0], epochs[0][0][0])
    images, labels, index = parts(next(read.loader("test", batch_size=8).batches()))
    assert (labels.tolist(), index.tolist()) == ([0, 0, 1, 1], [0, 1, 2, 3])
    image = F.center_crop(F.resize(Image.open(birds / "val" / "owl" / "1.png"), 16 * 256 // 224), 16)
    assert torch.equal(images[3], F.normalize(F.to_tensor(image), read.mean, read.std))


def test_auto_streams_what_is_too_large(birds, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "MEMORY_LIMIT", 16 * 3 * 16 * 16 - 1)
    assert data.prepare(f"imagefolder:{birds}", tmp_path, image_size=16)["loader"] == "stream"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["files"]["train"].pop()
    write_manifest(tmp_path, manifest)
    with pytest.raises(ValueError, match="the file list of train was changed"):
        data.load(tmp_path)


def test_a_folder_that_cannot_be_used_says_why(birds, tmp_path):
    with pytest.raises(ValueError, match=r"image_size is None; a folder of images needs one"):
        data.prepare(f"imagefolder:{birds}", tmp_path / "out")
    folder = tmp_path / "folder"
    name = f"imagefolder:{folder}"
    with pytest.raises(FileNotFoundError, match=r"train/<class> is not there; wanted is <path>/train/<class>/\*.png"):
        data.prepare(name, tmp_path / "out", image_size=8)
    (folder / "train" / "crow").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"test is not there; wanted is"):
        data.prepare(name, tmp_path / "out", image_size=8)
    (folder / "test" / "owl").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"classes of .* differ, e.g. in \['crow', 'owl'\]"):
        data.prepare(name, tmp_path / "out", image_size=8)
    (folder / "test" / "owl").rename(folder / "test" / "crow")
    with pytest.raises(FileNotFoundError, match=r"no images in .*train/crow"):
        data.prepare(name, tmp_path / "out", image_size=8)
    for part in ("train", "test"):
        (folder / part / "crow" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"folder: 2 of 2 images cannot be read: train/crow/broken.png: no image, or"):
        data.prepare(name, tmp_path / "out", image_size=8)


# --- names


def test_names(tmp_path):
    digits = ("digits", "digits-rotation", "digits-angle", "digits-spoken")
    assert (*digits, "cifar10", "cifar100", "fashion_mnist") == tuple(data.names())
    assert all(data.is_known(name) and slug(name) == name for name in data.names())
    assert slug("imagefolder:/some/where/my birds/") == "imagefolder-my-birds"
    assert data.is_known("imagefolder:birds")
    for name in ("mnist", "imagefolder", "imagefolder:", "imagefolder:/", "", "digits:x"):
        assert not data.is_known(name)
        known = f"{', '.join(data.names())} and imagefolder:<path>"
        with pytest.raises(ValueError, match=f"there are {known}"):
            data.sources.find(name)


# --- the real thing


@pytest.mark.skipif(not REAL, reason="DGD_DATA_DIR (a folder with the CIFAR archives) is not set")
@pytest.mark.parametrize(("name", "table"), [("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)])
def test_real_cifar_is_what_torchvision_reads(name, table, tmp_path):
    manifest = data.prepare(name, tmp_path, data_dir=REAL, validation_images=5000)
    read = data.load(tmp_path)
    theirs = [table(REAL, train=train) for train in (True, False)]
    assert manifest["classes"] == theirs[0].classes
    assert np.array_equal(read.tensors["test_images"].permute(0, 2, 3, 1), theirs[1].data)
    assert read.tensors["test_labels"].tolist() == theirs[1].targets
    chosen = preparation._split(name, np.array(theirs[0].targets), None, 5000, 0)
    for split in ("train", "validation"):
        assert np.array_equal(read.tensors[f"{split}_images"].permute(0, 2, 3, 1), theirs[0].data[chosen[split]])
        assert len(set(read.tensors[f"{split}_labels"].bincount().tolist())) == 1
    published = {"cifar10": (0.4914, 0.4822, 0.4465), "cifar100": (0.5071, 0.4865, 0.4409)}[name]
    assert read.mean == pytest.approx(published, abs=1e-3)
