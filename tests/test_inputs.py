"""Data sets with several inputs: recordings to spectrograms, partners by class, networks that take one and teachers another."""

import json
import tarfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import wavfile

from dgd import config, data
from dgd.config import ConfigError
from dgd.data import spoken
from dgd.read.cells import collect
from dgd.read.retrieval import retrieval_table
from dgd.read.table import markdown
from dgd.train import checkpoint, memory, train_cell
from dgd.train.retrieval import recall_at_1
from tests.helpers import Stopped, cells_of, files_but_timings, fresh_group, make_teacher, stopping

RECIPE = {"epochs": 2, "batch_size": 16, "lr": 0.02, "precision": "fp32", "device": "cpu"}


def tone(digit: int, speaker: int, samples: int = 2400) -> np.ndarray:
    return (8000 * np.sin(2 * np.pi * (300 * digit + 200 + 10 * speaker) * np.arange(samples) / spoken.RATE)).astype(np.int16)


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """A tone for each speaker and digit, as the archive names its files, which has one of each here."""
    monkeypatch.setattr(spoken, "TAKES", 1)
    folder = tmp_path / "data" / "recordings"
    folder.mkdir(parents=True)
    for number, speaker in enumerate((*spoken.SPEAKERS["train"], *spoken.SPEAKERS["test"])):
        for digit in range(10):
            wavfile.write(folder / f"{digit}_{speaker}_0.wav", spoken.RATE, tone(digit, number))
    return folder


def two_inputs(folder, classes: int = 10):
    """A prepared data set of 40 + 20 random images and 60 + 30 random sounds, which `prepare` writes without reading files."""
    draw = np.random.default_rng(0)

    def part(count: int, side: int) -> data.sources.Part:
        labels = np.arange(count) % classes
        return data.sources.Part(labels, draw.integers(0, 256, (count, 1, side, side), dtype=np.uint8))

    names = [str(label) for label in range(classes)]
    raw = data.sources.Raw(part(40, 8), part(20, 8), names, {}, {"audio": (part(60, 32), part(30, 32))})
    with pytest.MonkeyPatch.context() as patch:
        source = data.SOURCES["digits-spoken"]._replace(read=lambda _: raw)
        patch.setitem(data.SOURCES, "digits-spoken", source)
        data.prepare("digits-spoken", folder, validation_images=0)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return two_inputs(tmp_path_factory.mktemp("two"))


def spoken_cells(methods=("kd",), **keys) -> list:
    benchmark = {
        "benchmark": "t",
        "seeds": [0],
        "teacher_seeds": [1],
        "datasets": ["digits-spoken"],
        "pairs": [
            {"student": "cifar_resnet8", "teacher": "audio_resnet8", "teacher_input": "audio"},
            {"student": "audio_resnet8", "input": "audio", "teacher": "cifar_resnet8"},
        ],
        "methods": list(methods),
        "recipe": RECIPE,
        **keys,
    }
    return cells_of(benchmark)


# ---------------------------------------------------------------------------------------------------------- recordings


def test_recordings_are_spectrograms_with_speakers_held_apart(recordings, tmp_path):
    parts, sha256 = spoken.read(tmp_path / "data")
    (images, labels), (test, test_labels) = parts["train"], parts["test"]
    assert (images.shape, images.dtype, labels.tolist()) == ((40, 1, 32, 32), np.uint8, sorted(list(range(10)) * 4))
    assert (test.shape, test_labels.tolist()) == ((20, 1, 32, 32), sorted(list(range(10)) * 2))
    assert list(sha256) == ["recordings/*.wav"]
    # A higher tone is a higher band; 0.3 s of it stand in the middle of 0.8 s, in silence.
    loudest = [int(image[0].sum(1).argmax()) for image in images[::4]]
    assert loudest == sorted(loudest)
    assert len(set(loudest)) > 5
    middle = images[0, 0, :, 10:22].max(0)
    assert (middle == 255).any()
    assert images[:, 0, :, :6].max() == 0
    assert images[:, 0, :, -6:].max() == 0
    # What is louder by a factor is the same picture; of what is longer, the middle counts.
    assert np.array_equal(spoken.spectrogram(tone(3, 0)), spoken.spectrogram(2 * tone(3, 0)))
    long = np.concatenate([tone(9, 0, 8000), tone(3, 0, 8000), tone(9, 0, 8000)])
    assert spoken.spectrogram(long)[0].sum(1).argmax() == loudest[3]


def test_an_archive_gives_what_its_folder_does(recordings, tmp_path):
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / spoken.ARCHIVE, "w:xz") as tar:
        tar.add(recordings, "recordings")
    whole, packed = spoken.read(tmp_path / "data"), spoken.read(tmp_path / "packed")
    for part in ("train", "test"):
        assert all(np.array_equal(one, other) for one, other in zip(whole[0][part], packed[0][part]))
    assert list(packed[1]) == [spoken.ARCHIVE]
    manifests = [
        data.prepare("digits-spoken", tmp_path / name, data_dir=tmp_path / name, train_images=50) for name in ("data", "packed")
    ]
    assert manifests[0]["images_sha256"] == manifests[1]["images_sha256"]
    assert manifests[0]["sizes"] == {"train": 50, "validation": 0, "test": 599}
    assert manifests[0]["inputs"]["audio"]["sizes"] == {"train": 40, "validation": 0, "test": 20}


def rewritten(path, rate=spoken.RATE, samples=None):
    wavfile.write(path, rate, tone(0, 0) if samples is None else samples)


BROKEN = {
    "another rate": (lambda path: rewritten(path, rate=16000), "has 16000 Hz, int16 and 1 channel; recordings have 8000 Hz"),
    "two channels": (lambda path: rewritten(path, samples=np.ones((99, 2), np.int16)), "has 8000 Hz, int16 and 2 channels"),
    "floats": (lambda path: rewritten(path, samples=np.ones(99, np.float32)), "has 8000 Hz, float32 and 1 channel"),
    "silence": (lambda path: rewritten(path, samples=np.zeros(99, np.int16)), "holds no sound; put the original file there"),
    "no samples": (lambda path: rewritten(path, samples=np.zeros(0, np.int16)), "holds no sound"),
    "no wav": (lambda path: path.write_bytes(b"not a wav"), "cannot be read as wav: .*put the original file there"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as wav"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:1000]), "cannot be read as wav"),
    "a missing digit": (lambda path: path.unlink(), "no recording of george's digit 4; put all of github.com/Jakobovski"),
    "a missing speaker": (
        lambda path: [one.unlink() for one in path.parent.glob("*_theo_*")],
        "no recording of the speaker theo; put all of",
    ),
    "another speaker": (lambda path: path.rename(path.parent / "4_nobody_0.wav"), "4_nobody_0.wav is no <digit>_<speaker>"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_bad_recording_is_a_line_that_says_what_to_do(recordings, tmp_path, what):
    change, said = BROKEN[what]
    change(recordings / "4_george_0.wav")
    with pytest.raises(ValueError, match=said) as caught:
        data.prepare("digits-spoken", tmp_path / "out", data_dir=tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_missing_or_corrupt_archive_is_a_line_that_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"free-spoken-digits.tar.xz is not there, nor .*recordings: put an archive"):
        spoken.read(tmp_path)
    (tmp_path / "recordings.bin").write_bytes(np.random.default_rng(0).bytes(50_000))
    with tarfile.open(tmp_path / "whole", "w:xz") as tar:
        tar.add(tmp_path / "recordings.bin", "recordings/0_theo_0.wav")
    packed = (tmp_path / "whole").read_bytes()
    for content in (b"no archive", packed[:20_000], packed[:20_000] + bytes(99) + packed[20_099:]):
        (tmp_path / spoken.ARCHIVE).write_bytes(content)
        with pytest.raises(ValueError, match=r"free-spoken-digits.tar.xz is corrupt: .*; put the original file there"):
            spoken.read(tmp_path)


# ------------------------------------------------------------------------------------------------------------ partners


def test_an_input_is_a_data_set_of_its_own(prepared):
    images = data.load(prepared)
    sounds = images.of("audio")
    assert images.of("image") is images
    assert sounds.of("image") is images
    assert (images.image_size, sounds.image_size) == (8, 32)
    assert (images.sizes["train"], sounds.sizes["train"]) == (40, 60)
    assert images.mean != sounds.mean
    batch = next(sounds.loader("test", batch_size=7).batches())
    assert {name: tuple(x.shape) for name, x in batch.inputs.items()} == {"audio": (7, 1, 32, 32)}
    with pytest.raises(ValueError, match="digits-spoken has no input 'video'; it has image, audio"):
        images.of("video")


def drawn(loader, seed: int = 0) -> list:
    streams = (torch.Generator().manual_seed(number) for number in (1, 2, 100 + seed))
    return list(loader.batches(*streams))


def test_partners_are_of_the_class_drawn_anew_and_change_nothing_else(prepared):
    images = data.load(prepared)
    sounds = images.of("audio")
    loader = images.loader("train", batch_size=16, partner=sounds)
    one, same, other = drawn(loader), drawn(loader), drawn(loader, 1)
    plain = drawn(images.loader("train", batch_size=16))
    for a, b, c, d in zip(one, same, other, plain, strict=True):
        assert torch.equal(a.inputs["audio"], b.inputs["audio"])
        assert not torch.equal(a.inputs["audio"], c.inputs["audio"])
        assert torch.equal(a.inputs["image"], d.inputs["image"])
        assert torch.equal(a.inputs["image"], c.inputs["image"])
        assert set(d.inputs) == {"image"}
    assert set(next(loader.batches()).inputs) == {"image"}  # an evaluation has no partners


def test_every_partner_is_drawn_equally_often():
    labels, others = torch.arange(3).repeat(4000), torch.tensor([2, 0, 1, 2, 0, 2, 2, 1])
    chosen = data.loader._partners(labels, others, torch.Generator().manual_seed(0))
    assert torch.equal(others[chosen], labels)
    counts = torch.bincount(chosen, minlength=8)
    assert counts[[0, 3, 5, 6]].float().sub(1000).abs().max() < 120
    assert counts[[1, 2, 4, 7]].float().sub(2000).abs().max() < 150


def test_a_class_without_partners_is_refused(prepared):
    images = data.load(prepared)
    sounds = images.of("audio")
    sounds.tensors["train_labels"] = sounds.tensors["train_labels"].clamp(max=8)
    with pytest.raises(ValueError, match="digits-spoken: class 9 of image has no audio in split 'train'"):
        images.loader("train", batch_size=16, partner=sounds)


# --------------------------------------------------------------------------------------------------------------- cells


def test_cells_say_which_input_a_network_takes():
    found = {cell.path.removeprefix("t/digits-spoken/"): cell for cell in spoken_cells(["baseline", "kd"])}
    assert {path: (cell.input, cell.teacher_input, cell.paired) for path, cell in found.items()} == {
        "audio_resnet8/baseline/seed1": ("audio", "image", False),
        "cifar_resnet8/baseline/seed1": ("image", "image", False),
        "cifar_resnet8/baseline/seed0": ("image", "image", False),
        "cifar_resnet8/kd/seed0": ("image", "audio", True),
        "audio_resnet8/baseline/seed0": ("audio", "image", False),
        "audio_resnet8/kd/seed0": ("audio", "image", True),
    }
    taught = found["cifar_resnet8/kd/seed0"]
    assert taught.teachers == ("t/digits-spoken/audio_resnet8/baseline/seed1",)
    assert replace(taught, teacher_input="image") != taught
    assert type(taught).from_plain(taught.plain()) == taught
    old = {key: value for key, value in found["cifar_resnet8/baseline/seed0"].plain().items() if "input" not in key}
    assert type(taught).from_plain(old) == found["cifar_resnet8/baseline/seed0"]


def test_inputs_that_a_data_set_lacks_or_that_share_a_network_are_refused():
    with pytest.raises(ConfigError, match=r"pairs\[0\].teacher_input: 'digits' has no input 'audio'; known: image"):
        spoken_cells(datasets=["digits"])
    pair = {"student": "cifar_resnet8", "teacher": "cifar_resnet20", "teacher_input": "sound"}
    with pytest.raises(ConfigError, match=r"pairs\[0\].teacher_input: 'digits-spoken' has no input 'sound'; known: image"):
        spoken_cells(pairs=[pair])
    pair = {"student": "cifar_resnet8", "teacher": "cifar_resnet8", "teacher_input": "audio"}
    with pytest.raises(ConfigError, match=r"pairs\[0\].teacher_input: cifar_resnet8 takes 'image' in another place"):
        spoken_cells(pairs=[pair])
    assert len(config.cells(config.check({**BASE, "pairs": [{"student": "cifar_resnet8"}]}, "test"))) == 1


BASE = {"benchmark": "t", "seeds": [0], "datasets": ["digits-spoken"], "methods": ["baseline"]}


def test_memory_counts_what_both_inputs_hold():
    cells = {cell.path.split("/")[2:4][0] + cell.method: cell for cell in spoken_cells(["baseline", "kd"])}
    sizes = {name: memory.estimate(cell)["host"] for name, cell in cells.items()}
    assert sizes["cifar_resnet8kd"] > sizes["cifar_resnet8baseline"]
    assert sizes["audio_resnet8kd"] > sizes["audio_resnet8baseline"] >= sizes["cifar_resnet8baseline"]


@pytest.mark.parametrize(("method", "number"), [("kd", 0), ("ccl", 0), ("ccl", 1)])
def test_a_cell_across_inputs_gives_the_same_bytes_twice_and_when_resumed(prepared, tmp_path, monkeypatch, method, number):
    own = [cell for cell in spoken_cells([method]) if cell.method == method][number]
    own = replace(own, teachers=("teacher",))
    for root in ("whole", "stopped"):
        _teacher(own, prepared, tmp_path / root / "teacher")
    metrics = train_cell(own, results=tmp_path / "whole", data=prepared)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", stopping(checkpoint.save_state))
        with pytest.raises(Stopped):
            train_cell(own, results=tmp_path / "stopped", data=prepared)
    train_cell(own, results=tmp_path / "stopped", data=prepared)
    assert files_but_timings(tmp_path / "stopped" / own.path) == files_but_timings(tmp_path / "whole" / own.path)
    there, back = f"{own.input}->{own.teacher_input}", f"{own.teacher_input}->{own.input}"
    assert set(metrics["retrieval"]) == {there, back}
    for direction in metrics["retrieval"].values():
        assert all(0 <= value <= 100 for value in direction.values())
    with np.load(tmp_path / "whole" / own.path / "predictions.npz") as arrays:
        assert len(arrays["labels"]) == {"image": 20, "audio": 30}[own.input]


def _teacher(cell, prepared, folder) -> None:
    """Write the folder of a teacher of the cell that was never trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda path, load=data.load: load(path).of(cell.teacher_input))
        make_teacher(cell, prepared, folder)


def test_groups_averages_and_batch_norm_go_by_the_input_too(prepared, tmp_path):
    row = {"dgd-bn": {"base": "dgd", "exchange": {"batch_norm": "reestimate", "evaluate": "after"}}}
    recipe = RECIPE | {"weight_average": "ema"}
    (own,) = [cell for cell in spoken_cells([row], recipe=recipe) if cell.method == "dgd-bn" and cell.input == "audio"]
    own = replace(own, teachers=("teacher",))
    _teacher(own, prepared, tmp_path / "teacher")
    metrics = train_cell(own, results=tmp_path, data=prepared)
    assert len(metrics["networks"]) == 2
    assert 0 <= metrics["ensemble"]["top1"] <= 100
    assert set(metrics["retrieval"]) == {"audio->image", "image->audio"}


# ----------------------------------------------------------------------------------------------------------- retrieval


def test_recall_counts_the_nearest_by_direction():
    queries, gallery = torch.tensor([[9.0, 1.0], [0.0, 0.1], [1.0, 1.0], [-1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 7.0]])
    found = recall_at_1(queries, gallery, torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1]))
    assert found == 75.0  # the third is as near to both, of which the first counts


def test_the_retrieval_table_has_a_row_for_each_direction(prepared, tmp_path):
    cells = spoken_cells(["baseline", "ccl"], recipe=RECIPE | {"epochs": 1})
    for cell in cells:
        train_cell(cell, results=tmp_path, data=prepared)
    table = retrieval_table(collect(tmp_path / "t"), tmp_path / "t")
    assert table.frame[["student", "method", "direction"]].to_numpy().tolist() == [
        ["audio_resnet8", "ccl", "audio->image"],
        ["audio_resnet8", "ccl", "image->audio"],
        ["cifar_resnet8", "ccl", "image->audio"],
        ["cifar_resnet8", "ccl", "audio->image"],
    ]
    written = json.loads((tmp_path / cells[-1].path / "metrics.json").read_text())["retrieval"]
    first = table.frame[table.frame["student"] == "audio_resnet8"].iloc[0]
    assert first["features"] == pytest.approx(written["audio->image"]["features"])
    assert "recall@1 by features" in markdown(table)
    assert not len(retrieval_table(pd.DataFrame(collect(tmp_path / "t").query("method == 'baseline'")), tmp_path / "t").frame)
    assert "retrieval" not in json.loads((tmp_path / cells[0].path / "metrics.json").read_text())


def test_fresh_groups_of_other_tests_are_as_before(few_digits):
    """Of a data set with one input, the example that modules are built from is what it was."""
    (own,) = [cell for cell in cells_of({**BASE, "datasets": ["digits"], "pairs": [{"student": "cifar_resnet8"}]})]
    group = fresh_group(own, few_digits)
    assert list(group.example) == ["image"]
