"""Every reader takes any damaged file with one clear line, or reads it rightly: no traceback, no hang, no wrong table.

Files of cells that were really trained are changed in what they hold and in their bytes. A reader then either raises the kind
of error that the command line turns into one line, or returns: of a cell that is sealed what was written, and of one that is
not what can be. `make faults` does so 10,000 times for each reader and each kind of change.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dgd import cli, config, data, filters, frozen, identity, methods, running, seals, source_files
from dgd import files as dgd_files
from dgd.cell import Cell
from dgd.metrics import METRICS
from dgd.read import claims, files
from dgd.read.cells import collect, read_collected
from dgd.read.filter_sets import filters_table
from dgd.read.papers import read_papers
from dgd.read.results import results_table
from dgd.read.table import markdown
from dgd.train import checkpoint
from dgd.train.cell import load_network
from tests.faults import mutations
from tests.helpers import ROOT, unseal, write_manifest

BENCHMARK = """
benchmark: t
seeds: [0]
datasets: [digits]
data: {dir: %s, train_images: 40, validation_images: 20}
pairs: [{student: cifar_resnet8, teacher: cifar_resnet20}]
methods: [baseline, kd, grafting]
controls: {kd: [grafting]}
recipe: {epochs: 2, batch_size: 20, device: cpu, filters_every: 1}
"""
BASELINE, KD, GRAFTING = (f"t/digits/cifar_resnet8/{method}/seed0" for method in ("baseline", "kd", "grafting"))
TEACHER = "t/digits/cifar_resnet20/baseline/seed0"

KINDS_OF_ERROR = (ValueError, OSError, RuntimeError, ModuleNotFoundError, yaml.YAMLError)
"""What `dgd.cli.main` turns into one line."""
SECONDS, BYTES = 10, 2**30
"""What one reading may take: time, and memory besides that of the process."""
QUICK, MANY = 15, int(os.environ.get("DGD_FAULTS", 10_000))
"""Changes of each kind for each reader: in every run of the tests, and in one of `make faults`."""


class TooLong(BaseException):
    """A reading that took longer than it may."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """End what takes too long, and have the system refuse too much memory."""

    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def forget() -> None:
    """Forget what readers keep of files while size and time do not change: here they change faster than a clock."""
    for kept in (seals._parsed, identity._parsed, dgd_files._hashed):
        kept.cache_clear()


def mark(value) -> str:
    """Return a text that is equal for equal values, whatever a reader returns."""
    if isinstance(value, pd.DataFrame):
        return value.to_csv()
    if isinstance(value, torch.Tensor):
        held = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"{value.dtype} {list(value.shape)} {mark(held)}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {mark(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(mark, value)) + "]"
    return repr(value)


# ------------------------------------------------------------------------------------------------------------- readers


@dataclass(frozen=True)
class Reader:
    """One file and all that reads it.

    Attributes:
        file: Its path below the root.
        kind: How it holds what it holds: a name of `mutations.STRUCTURAL`.
        read: What reads it, given the root: name -> function.
        check: Of each that reads it, what a value must be where nothing seals the file.
        unsealed: The cell or the data set has no seal.
        refuses: Nothing but what was written is ever returned, or None.
        pipe: A pipe in its place may be waited for: a person may give one.
    """

    file: str
    kind: str
    read: dict[str, Callable]
    check: Callable = lambda value: None
    unsealed: bool = False
    refuses: bool = False
    pipe: bool = False


def finite(*values: float | None, least: float = -math.inf, most: float = math.inf) -> None:
    for value in values:
        assert value is None or (isinstance(value, int | float) and math.isfinite(value) and least <= value <= most), value


def can_be(cells: pd.DataFrame) -> None:
    """Hold the rows of cells.csv to what their columns can be."""
    for row in cells.to_dict("records"):
        metric = METRICS[row["task"]] if "task" in row else next(m for m in METRICS.values() if m.name == row["metric"])
        present = {name: value for name, value in row.items() if not pd.isna(value)}
        for name in ("last", "validation_last", "best_on_test", "validation_selected", "ensemble"):
            finite(present.get(name), least=metric.least, most=metric.most)
        assert ("last" in present) == (row["status"] == "finished")
        for name in ("seed", "network", "networks", "epochs", "parameters", "conv_filters", "seconds", "mean_l1"):
            finite(present.get(name), least=0)
        for name in [name for name in present if name.startswith("invalid_ratio")]:
            finite(present[name], least=0, most=1)
        json.loads(row["objective"])


def status(root: Path) -> dict[str, str]:
    cells = identity.folder_cells(root / "results" / "t")
    return {name: str(state).partition(":")[0] for name, state in identity.states(cells, root / "results").items()}


def freeze(root: Path) -> list:
    rows = frozen.freeze(root / "results" / "t")
    try:
        return [[frozen.sentence(row) for row in frozen.made_by(root / "results" / "t")], rows]
    finally:
        frozen.thaw(root / "results" / "t")


def paper(root: Path) -> list:
    path = root / "papers" / "paper.yaml"
    rows = read_papers([path])
    return [rows.astype(str), [str(claim) for claim in claims.read([path])]]


def check_paper(value: list) -> None:
    for row in value[0].to_dict("records"):
        finite(float(row["value"]))
        if row["metric"] == "top1":
            finite(float(row["value"]), least=0, most=100)


def prepared(root: Path) -> list:
    dataset = data.load(root / "prepared")
    assert {*dataset.sizes} == {"train", "validation", "test"}
    for split, size in dataset.sizes.items():
        assert dataset.tensors[f"{split}_images"].shape == (size, dataset.in_chans, dataset.image_size, dataset.image_size)
        labels = dataset.tensors[f"{split}_labels"]
        assert labels.shape == (size,)
        assert not size or 0 <= labels.min() <= labels.max() < dataset.num_classes
    finite(*dataset.mean, *dataset.std)
    return [dataset.tensors, dataset.mean, dataset.std, dataset.num_classes, dataset.sizes]


def network(root: Path, cell: Cell, dataset) -> dict:
    folder = root / "results" / TEACHER
    with contextlib.redirect_stderr(io.StringIO()):
        found = load_network(folder, dataset, cell).state_dict()
    for name, value in found.items():
        assert not value.is_floating_point() or value.isfinite().all(), name
    return found


def weights(root: Path, name: str) -> list:
    state = checkpoint.load_any(root / name)
    norms = filters.l1_norms(state)
    for values in norms.values():
        assert values.isfinite().all()
        assert (values >= 0).all()
    return [norms, filters.summary(state)["count"]]


def resume(root: Path) -> dict | None:
    """Read a resume point, which is deleted where it is damaged."""
    with contextlib.redirect_stderr(io.StringIO()):
        return checkpoint.load_state(root / "resume.pt", "stamp")


def history_checked(frame: pd.DataFrame) -> None:
    assert frame["epoch"].tolist() == list(range(len(frame)))
    finite(*frame["test_top1_0"].dropna().tolist(), least=0, most=100)
    assert not math.isnan(frame["test_top1_0"].iloc[-1])


def norms_checked(norms: dict) -> None:
    for layers in norms.values():
        for values in layers.values():
            assert values.ndim == 1
            assert values.dtype.kind == "f"
            assert np.isfinite(values).all()
            assert (values >= 0).all()


def traces_checked(traces) -> None:
    if traces is not None:
        assert len(traces.epochs) == len(traces.l1) == len(traces.entropy)
        assert np.isfinite(traces.l1).all()
        assert np.isfinite(traces.entropy).all()
        assert traces.share.shape == (len(traces.exchanges), traces.entropy.shape[1])


def curve_checked(curve) -> None:
    if curve is not None:
        assert curve["share"].between(0, 1).all()
        assert curve["top1"].between(0, 100).all()
        assert curve["removed"].iloc[0] == 0


def images_checked(value) -> None:
    images, labels = value
    assert images.dtype == np.uint8
    assert images.ndim == 4
    assert len(images) == len(labels)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with trained cells, their prepared data, and a file of each other kind."""
    root = tmp_path_factory.mktemp("made")
    (root / "t.yaml").write_text(BENCHMARK % (root / "data"))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert running.train(running.order(root / "t.yaml"), root / "results")
    (folder,) = (root / "data").glob("prepared/t/digits")
    shutil.copytree(folder, root / "prepared")
    os.rename(folder, root / "elsewhere")  # no data set is compared or prepared again
    os.symlink(root / "elsewhere", folder)
    cells = collect(root / "results" / "t")
    cells.to_csv(root / "cells.csv", index=False)
    removed = np.array([0, 10, 20, 40])
    curve = pd.DataFrame({"share": removed / 80, "removed": removed, "filters_left": 80 - removed})
    curve = curve.assign(parameters_left=9000 - removed, top1=[60.0, 50.0, 40.0, 10.0], top1_random=[60.0, 40.0, 20.5, 10.0])
    curve.to_csv(root / "pruning.csv", index=False)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 6, 1, 8, 8), dtype=np.uint8)
    np.savez_compressed(root / "predictions.npz", labels=np.arange(6), predictions=images)
    state = checkpoint.load_networks(root / "results" / BASELINE / "model.safetensors")["0"]
    checkpoint.save_weights(root / "w.safetensors", state)
    torch.save(state, root / "w.pt")
    torch.save(state, root / "w.pth", _use_new_zipfile_serialization=False)
    checkpoint.save_state(root / "resume.pt", {"stamp": "stamp", "epoch": 3, "weights": dict(list(state.items())[:4])})
    document = yaml.safe_load((ROOT / "papers" / "dgd.yaml").read_text())
    document["claims"] = document["claims"][:2]
    ids = {one for claim in document["claims"] for setting in claim["compares"]["where"] for one in setting["published"]}
    document["results"] = [row for row in document["results"] if row["id"] in ids] + document["results"][:3]
    document["results"] = list({row["id"]: row for row in document["results"]}.values())
    (root / "papers").mkdir()
    (root / "papers" / "paper.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    (root / "frozen").mkdir()
    frozen.freeze(root / "results" / "t")
    shutil.copy(root / "results" / "t" / frozen.MARKER, root / "frozen" / frozen.MARKER)
    frozen.thaw(root / "results" / "t")
    return root


CELL_READERS = {
    "config.yaml": Reader(
        f"results/{KD}/config.yaml",
        "yaml",
        {
            "read_config": lambda root: files.read_config(root / "results" / KD / "config.yaml").plain(),
            "collect": lambda root: collect(root / "results" / "t"),
        },
        lambda value: can_be(value) if isinstance(value, pd.DataFrame) else methods.cell_of(value),
    ),
    "metrics.json": Reader(
        f"results/{GRAFTING}/metrics.json",
        "json",
        {
            "read_metrics": lambda root: files.read_metrics(root / "results" / GRAFTING / "metrics.json"),
            "collect": lambda root: collect(root / "results" / "t"),
        },
        lambda value: can_be(value) if isinstance(value, pd.DataFrame) else None,
    ),
    "provenance.json": Reader(
        f"results/{KD}/provenance.json",
        "json",
        {"collect": lambda root: collect(root / "results" / "t"), "status": status, "freeze": freeze},
        lambda value: can_be(value) if isinstance(value, pd.DataFrame) else None,
    ),
    "history.csv": Reader(
        f"results/{KD}/history.csv",
        "csv",
        {"read_history": lambda root: files.read_history(root / "results" / KD / "history.csv", METRICS["classification"])},
        history_checked,
    ),
    "filters.npz": Reader(
        f"results/{GRAFTING}/filters.npz",
        "npz",
        {
            "read_filters": lambda root: files.read_filters(root / "results" / GRAFTING / "filters.npz"),
            "read_traces": lambda root: files.read_traces(root / "results" / GRAFTING / "filters.npz"),
            "read_entropies": lambda root: files.read_entropies(root / "results" / GRAFTING / "filters.npz"),
            "collect": lambda root: collect(root / "results" / "t"),
        },
        lambda value: (
            can_be(value)
            if isinstance(value, pd.DataFrame)
            else norms_checked(value)
            if isinstance(value, dict)
            else traces_checked(value)
            if value is None or isinstance(value, files.Traces)
            else finite(*value.tolist(), least=0)
        ),
    ),
    "model.safetensors": Reader(
        f"results/{TEACHER}/model.safetensors",
        "safetensors",
        {
            "load_network": network,
            "load_networks": lambda root: checkpoint.load_networks(root / "results" / TEACHER / "model.safetensors"),
        },
    ),
}
READERS = {
    **{f"{name} sealed": reader for name, reader in CELL_READERS.items()},
    **{f"{name} unsealed": replace(reader, unsealed=True) for name, reader in CELL_READERS.items()},
    "benchmark": Reader(
        "t.yaml",
        "yaml",
        {"cells": lambda root: [cell.plain() for cell in config.cells(config.load(root / "t.yaml", folders=False))[:50]]},
        lambda value: [methods.cell_of(cell) for cell in value],
        pipe=True,
    ),
    "paper": Reader("papers/paper.yaml", "yaml", {"read_papers and claims": paper}, check_paper, pipe=True),
    "frozen.yaml": Reader(
        "frozen/frozen.yaml",
        "yaml",
        {"made_by": lambda root: [frozen.sentence(row) for row in frozen.made_by(root / "frozen")]},
        pipe=True,
    ),
    "manifest.json sealed": Reader("prepared/manifest.json", "json", {"load": prepared}),
    "manifest.json unsealed": Reader("prepared/manifest.json", "json", {"load": prepared}, unsealed=True),
    "images.safetensors": Reader("prepared/images.safetensors", "safetensors", {"load": prepared}, refuses=True),
    "predictions.npz": Reader(
        "predictions.npz", "npz", {"read_images": lambda root: files.read_images(root / "predictions.npz")}, images_checked
    ),
    "pruning.csv": Reader(
        "pruning.csv",
        "csv",
        {"read_pruning": lambda root: files.read_pruning(root / "pruning.csv", measured=60.0)},
        curve_checked,
    ),
    "cells.csv": Reader(
        "cells.csv",
        "csv",
        {"read_collected": lambda root: read_collected(root / "cells.csv")},
        can_be,
    ),
    "weights.safetensors": Reader("w.safetensors", "safetensors", {"load_any": partial(weights, name="w.safetensors")}),
    "weights.pt": Reader("w.pt", "torch", {"load_any": partial(weights, name="w.pt")}),
    "weights.pth": Reader("w.pth", "torch", {"load_any": partial(weights, name="w.pth")}),
    "resume point": Reader("resume.pt", "torch", {"load_state": resume}, refuses=True),
}


class Bench:
    """One reader at work: its folder, the file as it was written, and what each function returned of it.

    Args:
        name: Of the reader.
        made: The folder of the fixture, which is copied.
        root: Folder of the copy.
    """

    def __init__(self, name: str, made: Path, root: Path):
        self.reader, self.root = READERS[name], root
        for path in made.iterdir():
            if path.is_dir():
                shutil.copytree(path, root / path.name, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(path, root / path.name)
        kept = {self.reader.file.rpartition("/")[0], f"results/{TEACHER}" if "status" in self.reader.read else ""}
        for path in (root / "results").glob("*/*/*/*/seed*"):  # each cell more takes time
            if path.relative_to(root).as_posix() not in kept:
                shutil.rmtree(path)
        if self.reader.unsealed:
            for path in (root / "results").glob("*/*/*/*/seed*"):
                unseal(path)
            manifest = json.loads((root / "prepared" / "manifest.json").read_text())
            own = {key: value for key, value in manifest.items() if key not in (source_files.SEAL, source_files.SEALED)}
            (root / "prepared" / "manifest.json").write_text(source_files.manifest_text(own))
        self.path = root / self.reader.file
        self.content = self.path.read_bytes()
        cells = {cell.path: cell for cell in config.cells(config.load(made / "t.yaml"))}
        extra = {"cell": cells[KD], "dataset": data.load(root / "prepared")} if "load_network" in self.reader.read else {}
        self.read = {
            name: partial(read, root, **extra) if name == "load_network" else partial(read, root)
            for name, read in self.reader.read.items()
        }
        forget()
        self.whole = {name: mark(read()) for name, read in self.read.items()}
        self.refused = self.taken = 0

    @property
    def sealed(self) -> bool:
        """Return whether what is returned must be what was written."""
        return self.reader.refuses or (not self.reader.unsealed and self.reader in CELL_READERS.values())

    def hold(self, content: bytes | None) -> None:
        """Hold every function that reads the file to what it may do with this content; None is what lies there."""
        for name, read in self.read.items():
            if content is not None:
                self.path.write_bytes(content)
            found = self.once(name, read)
            if not self.sealed and (self.refused + self.taken) % 8 == 0:
                again = self.once(name, read)
                # Of several wrong tensors safetensors names any.
                one, other = (re.sub("`[^`]*`", "`a tensor`", text) for text in (found, again))
                assert one == other, f"{name} is not determined: {found}, and then {again}"

    def once(self, name: str, read: Callable) -> str:
        """Return what a function makes of the file: its value or its error, either of which must be one that may be."""
        forget()
        try:
            with bounded():
                value = read()
        except KINDS_OF_ERROR as error:
            self.refused += 1
            return self.line(str(error))
        self.taken += 1
        found = mark(value)
        if self.reader.refuses:
            assert value is None or found == self.whole[name]
        elif self.sealed:
            assert found == self.whole[name] or (name == "status" and "stale" in found), f"{name} returned another value"
        else:
            self.reader.check(value)
        return found

    def line(self, text: str) -> str:
        """Return a message that is one line and names the file; a config has a line for each mistake."""
        for line in text.split("\n") if self.path.name == "t.yaml" else [text]:
            assert line.isprintable(), ascii(line)
            assert 0 < len(line) < 1200, line
            assert any(str(part) in line for part in (self.path, self.path.parent, self.path.name)), line
            # What it says of sizes was taken at its word. torch sets storages aside so, without touching them.
            assert not re.search("MemoryError" if self.reader.kind == "torch" else "alloc|MemoryError|out of memory", line), (
                line
            )
        return text

    def restore(self) -> None:
        mutations.remove(self.path)
        self.path.write_bytes(self.content)
        for path in self.root.glob("before.*"):
            path.unlink()


CHANGES = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 2**20), st.integers(0, 2**20)), min_size=1, max_size=3)


def rounds(names) -> list:
    """Return the readers, each with few rounds, and with many where faults are asked for."""
    few = [pytest.param(name, QUICK, id=f"{name}, some") for name in names]
    return few + [
        pytest.param(name, MANY, id=f"{name}, many", marks=[pytest.mark.faults, pytest.mark.timeout(7200)]) for name in names
    ]


def hold_all(bench: Bench, change: Callable, number: int, changes=CHANGES) -> None:
    """Hold a reader to many changes of its file."""

    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )
    @given(changes)
    def holds(found):
        bench.hold(change(bench.content, found))

    try:
        holds()
    finally:
        bench.restore()
    print(f"{bench.path.name}: {bench.refused} refused, {bench.taken} taken")


@pytest.mark.parametrize(("name", "number"), rounds(READERS))
def test_what_a_file_holds_is_changed(name, number, made, tmp_path):
    bench = Bench(name, made, tmp_path)
    change = mutations.STRUCTURAL[bench.reader.kind]
    if name == "resume point":  # its checksum is that of what was written

        def change(content, changes):
            digest = checkpoint.DIGEST
            return content[:digest] + mutations.torch_file(content[digest:], changes)

    hold_all(bench, change, number)
    assert bench.refused or bench.reader.refuses or number < 100


@pytest.mark.parametrize(("name", "number"), rounds(READERS))
def test_the_bytes_of_a_file_are_changed(name, number, made, tmp_path):
    bench = Bench(name, made, tmp_path)
    hold_all(bench, mutations.damaged, number)
    assert bench.refused or bench.reader.refuses or number < 100


@pytest.mark.parametrize("name", READERS)
def test_something_else_lies_in_a_files_place(name, made, tmp_path):
    bench = Bench(name, made, tmp_path)
    for what, put in mutations.INSTEAD.items():
        if what == "a pipe" and bench.reader.pipe:
            continue
        if bench.path.name == "metrics.json" and what not in ("a folder", "a pipe"):
            continue  # a cell without it is one that is being written, or was never finished
        mutations.remove(bench.path)
        put(bench.path)
        try:
            bench.hold(None)
        finally:
            mutations.remove(bench.path)
    bench.restore()
    bench.hold(bench.content)


# -------------------------------------------------------------------------------------------------- what was found once


def of_json(*path, to=None, twice: bool = False, without: bool = False) -> Callable:
    """Return what changes one place of a JSON file."""

    def change(content: bytes) -> bytes:
        whole = json.loads(content)
        node = whole
        for step in path[:-1]:
            node = node[step]
        if without:
            del node[path[-1]]
        else:
            node[mutations.Twin(path[-1]) if twice else path[-1]] = to
        return mutations.deep(json.dumps(whole)).encode()

    return change


def of_yaml(change: Callable) -> Callable:
    """Return what changes a YAML file."""

    def changed(content: bytes) -> bytes:
        whole = yaml.safe_load(content)
        change(whole)
        return yaml.safe_dump(whole, sort_keys=False).encode()

    return changed


def of_npz(name: str | None, array=None, header: bytes | None = None) -> Callable:
    """Return what changes one array of an .npz, drops it, or gives it another header."""

    def change(content: bytes) -> bytes:
        buffer = io.BytesIO()
        with np.load(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
            for one in old.files:
                npy = io.BytesIO()
                np.lib.format.write_array(npy, old[one] if one != name or array is None else array)
                own = npy.getvalue()
                if one == name and header is not None:
                    start = 10 + int.from_bytes(own[8:10], "little")
                    own = own[:8] + (len(header) + 1).to_bytes(2, "little") + header + b"\n" + own[start:]
                if one != name or array is not None or header is not None:
                    new.writestr(f"{one}.npy", own)
        return buffer.getvalue()

    return change


def of_order(content: bytes) -> bytes:
    """Name one tensor less in the order of a safetensors file: it was left out of what was read."""
    tensors = safetensors.torch.load(content)
    return safetensors.torch.save(tensors, metadata={"order": json.dumps(list(tensors)[1:])})


def of_lines(change: Callable) -> Callable:
    """Return what changes the lines of a text."""
    return lambda content: "\n".join([*change(content.decode().splitlines()), ""]).encode()


HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }"
FOUND = [
    ("metrics.json unsealed", of_json("cell", to=[]), "cell is \\[\\]; it must be a mapping of keys"),
    ("metrics.json unsealed", of_json("status", to="finishedx"), "status is 'finishedx'; it must be one of finished, failed, "),
    ("metrics.json unsealed", of_json("status", to="diverged"), "error is missing"),
    ("metrics.json unsealed", of_json("networks", to={}), "finished, but without networks"),
    ("metrics.json unsealed", of_json("networks", 0, "last", to=3), r"networks\[0\].last is 3; it must be a mapping of keys"),
    ("metrics.json unsealed", of_json("networks", 1, "last", "top1", to="90"), "top1 is '90'; it must be a number at least 0"),
    ("metrics.json unsealed", of_json("networks", 0, "filters", "mean_l1", to=float("nan")), "NaN is no number of JSON"),
    (
        "metrics.json unsealed",
        of_json("networks", 0, "filters", "invalid_ratio", "1", to=1.5),
        "must be at least 0 and at most 1",
    ),
    ("metrics.json unsealed", of_json("timings", to=None), "timings is None; it must be a mapping of keys"),
    ("metrics.json unsealed", of_json("seed", to=mutations.DEEP), "is not JSON \\(nested too deeply\\)"),
    ("metrics.json unsealed", of_json("status", to="finished", twice=True), "the key 'status' is there twice"),
    ("metrics.json unsealed", lambda content: b"\xef\xbb\xbf" + content, "is not JSON \\(Unexpected UTF-8 BOM"),
    ("metrics.json unsealed", lambda content: b"\xff" + content, "is not JSON \\(not UTF-8, byte 0\\)"),
    ("metrics.json unsealed", lambda content: b"[1]", "holds a list; it must be a mapping of keys"),
    ("provenance.json unsealed", of_json("cell", to=["x"]), "is no record of a cell"),
    ("provenance.json unsealed", of_json("cell", to="a\nb"), "is no record of a cell"),
    ("provenance.json sealed", of_json("sealed", without=True), "was changed or damaged after it was written"),
    ("filters.npz unsealed", of_npz("l1/1/conv1.weight"), "80 filters of network 1|filters of network 1, and metrics.json has"),
    ("filters.npz unsealed", of_npz("l1/0/conv1.weight", np.full(16, -1.0)), "not all finite numbers of at least 0"),
    ("filters.npz unsealed", of_npz("l1/0/conv1.weight", header=HUGE), r"bytes for float32 of shape \(99999999999,\)"),
    ("filters.npz unsealed", of_npz("l1/0/conv1.weight", header=b"(" * 3000), "not a .npy array of numbers in format 1.0"),
    ("predictions.npz", of_npz("predictions"), "no images .* and their labels in it"),
    ("history.csv unsealed", of_lines(lambda lines: [lines[0], *lines[:0:-1]]), "its epochs are not 0 to 1"),
    ("history.csv unsealed", of_lines(lambda lines: [*lines[:-1], lines[-1] + ",9"]), "row 2 has .* values for .* columns"),
    (
        "pruning.csv",
        of_lines(lambda lines: [lines[0], lines[1].replace("60.0", "nan"), *lines[2:]]),
        "it must be a number from 0 to",
    ),
    ("cells.csv", of_lines(lambda lines: [lines[0].replace(",last,", ",best,", 1), *lines[1:]]), "no column 'last'"),
    (
        "cells.csv",
        of_lines(lambda lines: [lines[0], *(line.replace("finished", "missing") for line in lines[1:])]),
        "row 1 is miss",
    ),
    (
        "frozen.yaml",
        of_yaml(lambda whole: whole.update(made_by=[{}])),
        "made_by\\[0\\].commit is missing; freeze the benchmark again",
    ),
    ("paper", of_yaml(lambda whole: whole["results"].append(None)), "results\\[.*\\] is None; it must be a mapping of keys"),
    ("paper", of_yaml(lambda whole: whole["results"][0].update(value=101)), "value is 101; top1 is from 0 to 100|is from "),
    ("paper", of_yaml(lambda whole: whole.update(headline=None)), "headline is None; it must be a list"),
    ("paper", of_yaml(lambda whole: whole.update(results=None)), "no row of `results` has the id"),
    ("paper", of_yaml(lambda whole: whole["methods"].append({"x": {"id": 1, "table": 2}})), "methods.x.id: unknown key"),
    ("paper", of_yaml(lambda whole: whole["results"][0].update(dataset="[" * 50_000)), "has dataset|dataset"),
    ("config.yaml unsealed", lambda content: b"[1, 2]\n", "it holds \\[1, 2\\]; it must be a mapping of keys"),
    (
        "config.yaml unsealed",
        of_yaml(lambda whole: whole["objective"].update(kd=[])),
        "objective.kd.weight is \\[\\]; it must be a number",
    ),
    ("config.yaml unsealed", of_yaml(lambda whole: whole.update(method="[" * 50_000)), "is that of the cell |method is "),
    ("weights.safetensors", of_order, "the order in its metadata is that of other tensors"),
    ("model.safetensors unsealed", of_order, "the order in its metadata is that of other tensors"),
    ("manifest.json unsealed", of_json("mean", to=[]), "mean and std are not one for each of 1 channels"),
    ("manifest.json unsealed", of_json("sizes", "\0", to=1), "a name of an input or of a split that is unknown"),
    ("manifest.json unsealed", of_json("sizes", to=None), "sizes is None; it must be a mapping of keys"),
]
"""Damage that once gave a traceback, or was read as something else: the reader, what is changed, and what is said."""


@pytest.mark.parametrize(("name", "change", "message"), FOUND, ids=[f"{i} {found[0]}" for i, found in enumerate(FOUND)])
def test_damage_that_was_found_is_named(name, change, message, made, tmp_path):
    bench = Bench(name, made, tmp_path)
    bench.hold(change(bench.content))
    texts = []
    for reading, read in bench.read.items():
        bench.path.write_bytes(change(bench.content))
        texts.append(bench.once(reading, read))
    assert any(re.search(message, text) and bench.path.name in text for text in texts), texts


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("metrics.json unsealed", of_json("top1", "filters", to=1)),
        ("metrics.json unsealed", of_json("top1", "model", to="x")),
        ("history.csv unsealed", lambda content: content.replace(b"\n", b"\r\n")),
    ],
)
def test_what_changes_no_value_is_read(name, change, made, tmp_path):
    bench = Bench(name, made, tmp_path)
    bench.hold(change(bench.content))
    assert bench.taken
    assert not bench.refused


@pytest.mark.parametrize("name", ["filters.npz", "provenance.json", "config.yaml"])
def test_a_file_of_a_sealed_cell_that_is_gone_is_named(name, made, tmp_path):
    """The table had no norms, and a benchmark was frozen with a cell fewer."""
    bench = Bench("provenance.json sealed", made, tmp_path)
    (bench.path.parent / name).unlink()
    forget()
    with pytest.raises((ValueError, OSError), match=f"{KD}/{name}: no such file"):
        freeze(tmp_path) if name == "provenance.json" else collect(tmp_path / "results" / "t")


# ----------------------------------------------------------------------------------------------------- the command line

COMMANDS = {
    "list": (["list", "cells", "t.yaml"], "benchmark"),
    "controls": (["controls", "results/t", "--config", "t.yaml"], "benchmark"),
    "claims": (["claims", "results/t", "--papers", "papers"], "paper"),
    "table by papers": (["table", "results/t", "--papers", "papers/paper.yaml"], "paper"),
    "table": (["table", "results/t", "--papers", "papers/paper.yaml"], "metrics.json sealed"),
    "table unsealed": (["table", "results/t", "--papers", "papers/paper.yaml"], "metrics.json unsealed"),
    "table of norms": (["table", "results/t", "--papers", "papers/paper.yaml"], "filters.npz sealed"),
    "table of norms unsealed": (["table", "results/t", "--papers", "papers/paper.yaml"], "filters.npz unsealed"),
    "status": (["status", "results/t"], "provenance.json sealed"),
    "status unsealed": (["status", "results/t"], "provenance.json unsealed"),
    "status of configs": (["status", "results/t"], "config.yaml unsealed"),
    "prune": (["prune", f"results/{TEACHER}", "--shares", "0.5"], "model.safetensors sealed"),
    "filters of a cell": (["filters", f"results/{TEACHER}"], "model.safetensors sealed"),
    "filters of .safetensors": (["filters", "w.safetensors"], "weights.safetensors"),
    "filters of .pt": (["filters", "w.pt"], "weights.pt"),
    "filters of .pth": (["filters", "w.pth"], "weights.pth"),
    "filters of .npz": (["filters", "predictions.npz"], "predictions.npz"),
}
"""Name -> the command, whose files and folders lie below a root, and the reader whose file is damaged."""


def said(arguments: list[str], capsys) -> tuple[int, str, str]:
    """Return exit status, output and errors of a command; a message that ends it is an error of status 1."""
    capsys.readouterr()
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        return 1, capsys.readouterr().out, f"dgd-bench: {end.code}\n"
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("number", [2, pytest.param(100, marks=[pytest.mark.faults, pytest.mark.timeout(7200)])])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_one_line_of_a_damaged_file(name, number, made, tmp_path, capsys, monkeypatch):
    """Exit status 0 and what the whole file gives, or what can be; or 1 and one line."""
    command, reader = COMMANDS[name]
    bench = Bench(reader, made, tmp_path)
    monkeypatch.chdir(tmp_path)
    forget()
    whole = said(command, capsys)
    changes = np.random.default_rng(0).integers(0, 2**20, (number, 2, 3)).tolist()
    contents = [
        change(bench.content, some)
        for some in changes
        for change in (mutations.STRUCTURAL[bench.reader.kind], mutations.damaged)
    ]
    for content in (bench.content[: len(bench.content) // 2], *contents):
        bench.path.write_bytes(content)
        forget()
        with bounded():
            code, out, err = said(command, capsys)
        lines = [line for line in err.splitlines() if "is not sealed, because older code trained it" not in line]
        assert code in (0, 1), err
        assert "Traceback" not in err
        if code == 0 and bench.sealed:
            assert out == whole[1]
        if code == 1 and name.startswith("status"):
            assert lines or "stale: " in out or out == whole[1]  # of which cells are missing too
        elif code == 1:
            assert lines, out
            assert all(line.startswith("dgd-bench: ") or command[-1] == line.partition(":")[0] for line in lines), err
            assert len(lines) == 1 or bench.path.name == "t.yaml", err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("filters of .pt", b"PK\3\4"),
        *(pytest.param(name, b"[1", marks=pytest.mark.faults) for name in COMMANDS if name != "prune"),
    ],
)
def test_a_process_says_one_line_of_a_damaged_file(name, content, made, tmp_path):
    command, reader = COMMANDS[name]
    bench = Bench(reader, made, tmp_path)
    bench.path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "dgd.cli", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1, done
    if name.startswith("status") and "stale: " in done.stdout:
        return
    (line,) = done.stderr.splitlines()
    assert line.startswith("dgd-bench: ")
    assert bench.path.name in line


# ------------------------------------------------------------------------------------------------------ a whole folder


@pytest.mark.parametrize("number", [1, pytest.param(300, marks=[pytest.mark.faults, pytest.mark.timeout(7200)])])
def test_the_table_of_a_damaged_folder_is_the_whole_one_or_none(number, made, tmp_path):
    """Any file of any cell is damaged: what collects the cells and makes tables refuses it, or finds what is written."""

    def table() -> str:
        forget()
        cells = collect(tmp_path / "results" / "t")
        published = read_papers([tmp_path / "papers" / "paper.yaml"])
        found = claims.evaluate(claims.read([tmp_path / "papers" / "paper.yaml"]), [(cells, tmp_path / "results" / "t")])
        return "".join(map(markdown, (results_table(cells, published), filters_table(cells, published)))) + found.to_csv()

    for name in ("results", "papers"):
        shutil.copytree(made / name, tmp_path / name)
    whole, refused = table(), 0
    paths = [path for path in sorted((tmp_path / "results" / ("" if number > 1 else KD)).rglob("*")) if path.is_file()]
    draw = np.random.default_rng(1)
    for path in paths:
        content = path.read_bytes()
        kind = {".json": "json", ".yaml": "yaml", ".csv": "csv", ".npz": "npz"}.get(path.suffix)
        for changes in draw.integers(0, 2**20, (number, 2, 3)).tolist():
            for change in (mutations.damaged, *([mutations.STRUCTURAL[kind]] if kind else [])):
                path.write_bytes(change(content, changes))
                text = None
                try:
                    found = table()
                except KINDS_OF_ERROR as error:
                    text = str(error)
                if text is None:
                    assert found == whole, path
                else:
                    refused += 1
                    assert len(text.splitlines()) == 1
                    assert path.parent.name in text
        path.write_bytes(content)
    assert table() == whole
    assert refused


def test_a_manifest_without_its_seal_is_refused(made, tmp_path):
    """One lost line makes no manifest of before there were seals."""
    shutil.copytree(made / "prepared", tmp_path / "prepared")
    path = tmp_path / "prepared" / "manifest.json"
    manifest = json.loads(path.read_text())
    for key in (source_files.SEAL, source_files.SEALED):
        own = {name: value for name, value in manifest.items() if name != key} | {"num_classes": 11}
        path.write_text(source_files.manifest_text(own))
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} was changed after it was written; delete its folder"):
            data.load(tmp_path / "prepared")
    write_manifest(tmp_path / "prepared", manifest)
    assert data.load(tmp_path / "prepared").num_classes == 10


def test_images_that_would_not_be_read_are_named(tmp_path):
    """Those beside the classes, and those of other forms; what is no image is nobody's business."""
    for name in ("train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("train/notes.txt", "train/.hidden.png", "test/a/README", "readme.png"):
        (tmp_path / name).touch()
    assert source_files.image_folder(tmp_path)[0] == ["a", "b"]
    strays = ["train/b.PNG", "train/x.gif", "train/a/5.GIF", "test/loose.jpg", "test/b/6.heic"]
    for name in strays:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"imagefolder: .*: 5 images would not be read: ") as error:
        source_files.image_folder(tmp_path)
    assert all(name in str(error.value) for name in strays)
    with pytest.raises(ValueError, match="5 images would not be read"):
        data.prepare(f"imagefolder:{tmp_path}", tmp_path / "out", image_size=8)
    assert not (tmp_path / "out").exists()
    for i in range(8):
        (tmp_path / "train" / "a" / f"{i}.webp").touch()  # this one is read
        (tmp_path / "train" / "a" / f"{i}.tga").touch()
    with pytest.raises(ValueError, match="13 images would not be read: .*; and 3 more; move each into the folder of its class"):
        source_files.image_folder(tmp_path)
