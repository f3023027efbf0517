"""`dgd-bench verify`: whatever is changed in a folder of results, one thing or many that agree, is found and named."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dgd import cli, config, files, frozen, identity, manifest, seals
from dgd.read import figures
from dgd.verify import verify
from pipeline import collect, report, tabulate
from pipeline import manifest as write_manifest

ROOT = Path(__file__).parents[2]
BENCHMARK = """
benchmark: small
papers: [dgd]
seeds: [0, 1]
datasets: [digits]
data: {{dir: {folder}/data, train_images: 40, validation_images: 20}}
pairs: [{{student: cifar_resnet8, teacher: cifar_resnet20}}]
methods: [baseline, dgd]
recipe: {{epochs: 2, batch_size: 20, device: cpu}}
"""
CELL = Path("digits/cifar_resnet8/dgd/seed0")
OTHER = CELL.with_name("seed1")
BASELINE = Path("digits/cifar_resnet8/baseline/seed0")
TEACHER = Path("digits/cifar_resnet20/baseline/seed0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The results of a finished benchmark, as the workflow leaves them."""
    root = tmp_path_factory.mktemp("verify")
    (root / "small.yaml").write_text(BENCHMARK.format(folder=root))
    assert cli.main(["train", str(root / "small.yaml"), "--results", str(root / "results")]) == 0
    folder, asked = root / "results/small", root / "small.json"
    files.write_json(asked, config.load(root / "small.yaml").plain())
    collect.main(["--config", str(asked), "--out", str(folder / "cells.csv")])
    papers = [str(ROOT / "papers/dgd.yaml")]
    tabulate.main(["--cells", str(folder / "cells.csv"), "--papers", *papers, "--out", str(folder / "tables")])
    figures.from_cells(folder, folder / "figures", {str(TEACHER)})
    report.main(["--folder", str(folder), "--out", str(folder / "report.html")])
    write_manifest.main(["--folder", str(folder)])
    return folder


@pytest.fixture
def results(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "results/small")
    return tmp_path / "results/small"


def faults(folder: Path, **options) -> list[str]:
    found = verify([folder], ROOT / "papers", **options).faults
    assert all("\n" not in line for line in found)
    return found


def edit(path: Path, change) -> None:
    """Change what a JSON or YAML file holds."""
    read, write = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
    content = read(path.read_text())
    change(content)
    path.write_text(write(content))


def edit_arrays(path: Path, change) -> None:
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    change(arrays)
    np.savez_compressed(path, **arrays)


def digit(path: Path, last: bool = False) -> None:
    """Change one digit of a text file."""
    text = path.read_text()
    places = [match.start() for match in re.finditer(r"\d", text)]
    k = places[-1 if last else len(places) // 2]
    path.write_text(text[:k] + str((int(text[k]) + 1) % 10) + text[k + 1 :])


def forge(folder: Path, *cells: Path) -> None:
    """Do what a careful forger does: seal the cells again, and write the manifest again."""
    for cell in cells:
        path = folder / cell / seals.RECORD
        hashes = {name: files.file_hash(path.with_name(name)) for name in identity.OUTPUTS if name != seals.RECORD}
        files.write_json(path, seals.sealed(json.loads(path.read_text()), hashes))
    manifest.write(folder)


def test_what_the_workflow_leaves_has_no_fault(results, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["verify", str(results)]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(r"1 benchmarks, 5 cells, \d+ files: 0 faults\n", said)
    assert cli.main(["verify", str(results.parent)]) == 0
    assert capsys.readouterr().out == said
    names = manifest.read(results)
    assert {"cells.csv", "benchmark.yaml", "report.html", "tables/results.md", f"{CELL}/model.safetensors"} <= names.keys()
    assert os.system(f"cd {results} && sha256sum --check --strict --quiet {manifest.MANIFEST}") == 0


def test_weights_and_reports_may_be_left_out_and_are_counted(results, capsys):
    for path in [*results.rglob("*.safetensors"), results / "report.html"]:
        path.unlink()
    found = verify([results], ROOT / "papers")
    assert (found.faults, found.absent) == ([], 6)
    assert str(found).endswith("0 faults; 6 files of weights and reports are not there")
    assert len(faults(results, strict=True)) == 6
    frozen.freeze(results)  # the seals have the hashes of the weights
    assert verify([results], ROOT / "papers").absent == 5


def test_no_results_are_one_line(tmp_path, capsys):
    assert cli.main(["verify", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"dgd-bench: {tmp_path}: no results of a benchmark in it")


TEXTS = ["cells.csv", "benchmark.yaml", "report.html", "tables/results.csv", "tables/results.md", "tables/results.tex"]
TEXTS += ["tables/claims.csv", *(f"{CELL}/{name}" for name in ("metrics.json", "history.csv", "config.yaml", seals.RECORD))]


def test_a_digit_in_each_kind_of_file(results):
    for name in TEXTS:
        digit(results / name)
    found = faults(results)
    for name in TEXTS:
        assert any(line.startswith(f"{results / name}: its SHA-256 is ") for line in found)


def test_bytes_of_arrays_weights_figures_and_of_the_manifest(results):
    changed = [*(f"{CELL}/{name}" for name in ("predictions.npz", "filters.npz", "model.safetensors")), "figures"]
    changed[-1] = next((results / "figures").glob("*.svg")).relative_to(results).as_posix()
    for name in changed:
        content = bytearray((results / name).read_bytes())
        content[len(content) // 2] ^= 1
        (results / name).write_bytes(content)
    lines = (results / manifest.MANIFEST).read_text()
    assert lines[66:80] == "benchmark.yaml"  # the first hash is of a file that is as it was
    (results / manifest.MANIFEST).write_text(("1" if lines[0] == "0" else "0") + lines[1:])
    found = faults(results)
    for name in changed:
        assert any(line.startswith(f"{results / name}: its SHA-256 is ") for line in found)
    assert sum(f"and {manifest.MANIFEST} has" in line for line in found) == len(changed) + 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x", "line 1 is 'x', and must be 64 hex digits, two blanks and a file"),
        ("0" * 64 + "  zzz", r"line 2, \S+, follows zzz, and files must be sorted"),
    ],
)
def test_a_manifest_that_sha256sum_did_not_write(results, line, message):
    path = results / manifest.MANIFEST
    path.write_text(f"{line}\n{path.read_text()}")
    assert re.search(message, faults(results)[0])
    path.unlink()
    assert faults(results)[0].startswith(f"{path}: no such file; the workflow's last step writes it, or `dgd-bench freeze")


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def swap_lines(path: Path, a: int, b: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[a], lines[b] = lines[b], lines[a]
    path.write_text("".join(lines))


def exchange(folder: Path, name: str, labels: bool = False) -> None:
    """Exchange a file of two cells; of metrics.json what names the cell too, or not."""
    a, b = folder / CELL / name, folder / OTHER / name
    first, second = a.read_text(), b.read_text()
    a.write_text(second)
    b.write_text(first)
    for path, seed in ((a, 0), (b, 1)) if labels else ():
        edit(path, lambda content, seed=seed: content["cell"].update(seed=seed))


def better(content: dict) -> None:
    """Make a result better, everywhere in metrics.json."""
    for part in ("last", "best_on_test", "validation_selected"):
        content["networks"][0][part]["top1"] += 1
        content["top1"][part] += 1


def better_throughout(folder: Path) -> None:
    """Make a result better in metrics.json and in history.csv alike."""
    path = folder / "history.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    k = lines[0].index("test_top1_0")
    for line in lines[1:]:
        line[k] = str(float(line[k]) + 1)
    path.write_text("".join(",".join(line) + "\n" for line in lines))
    edit(folder / "metrics.json", better)


def copy_seed(folder: Path) -> None:
    """Make seed 1 of seed 0, with everything rewritten that says which seed it is."""
    shutil.rmtree(folder / OTHER)
    shutil.copytree(folder / CELL, folder / OTHER)
    for name in ("metrics.json", "config.yaml", seals.RECORD):
        path = folder / OTHER / name
        path.write_text(path.read_text().replace("dgd/seed0", "dgd/seed1").replace("seed: 0", "seed: 1"))
    edit(folder / OTHER / "metrics.json", lambda content: content["cell"].update(seed=1))

    def rewrite(record):
        record["seed"] = record["identity"]["fields"]["seed"] = 1
        parts = [record["identity"][name] for name in ("fields", "code")]
        parts.append([teacher["identity"] for teacher in record["identity"]["teachers"].values()])
        record["identity"]["hash"] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    edit(folder / OTHER / seals.RECORD, rewrite)


def other_weights(path: Path) -> None:
    weights = load_file(path)
    weights["0.conv1.weight"] = weights["0.conv1.weight"] * 1.01
    save_file(weights, path)


def set_filter(arrays: dict) -> None:
    name = next(name for name in arrays if name.startswith("l1/0/"))
    arrays[name][0] *= 2


def relabel(arrays: dict) -> None:
    """Make labels of predictions, so that more are right."""
    arrays["labels"][:5] = arrays["predictions"][0, :5]


# What is changed, the cells that are sealed again, and what must be said. The manifest is written again each time: what is
# found is found by what follows from what.
FORGED = {
    "metrics alone": (
        lambda f: edit(f / CELL / "metrics.json", better),
        [CELL],
        r"dgd/seed0/metrics.json: networks\[0\].last.top1 is ([\d.]+), and must be ([\d.]+) by history.csv",
    ),
    "metrics and history": (
        lambda f: better_throughout(f / CELL),
        [CELL],
        r"dgd/seed0/metrics.json: networks\[0\].last.top1 is ([\d.]+), and must be ([\d.]+) by predictions.npz",
    ),
    "metrics, history and predictions": (
        lambda f: (better_throughout(f / CELL), edit_arrays(f / CELL / "predictions.npz", relabel)),
        [CELL],
        r"dgd/seed0/predictions.npz: the SHA-256 of its labels, of the input image, is \S+, and must be \S+ by",
    ),
    "a loss": (
        lambda f: edit(f / CELL / "metrics.json", lambda m: m["networks"][1]["last"].update(loss=0.1)),
        [CELL],
        r"metrics.json: networks\[1\].last.loss is 0.1, and must be ([\d.]+) by history.csv",
    ),
    "the record's own headline": (
        lambda f: edit(f / CELL / "metrics.json", lambda m: m["top1"].update(last=99.0)),
        [CELL],
        r"metrics.json: top1.last is 99.0, and must be ([\d.]+) by networks\[0\]",
    ),
    "the mean of norms": (
        lambda f: edit(f / CELL / "metrics.json", lambda m: m["networks"][0]["filters"].update(mean_l1=9.0)),
        [CELL],
        r"metrics.json: networks\[0\].filters.mean_l1 is 9.0, and must be ([\d.]+) by filters.npz",
    ),
    "a norm": (
        lambda f: edit_arrays(f / CELL / "filters.npz", set_filter),
        [CELL],
        r"filters.npz: l1/0, filter 0, is ([\d.]+), and must be ([\d.]+) by trace/l1/0",
    ),
    "rows of the history": (
        lambda f: swap_lines(f / CELL / "history.csv", 1, 2),
        [CELL],
        r"history.csv: row 0 is \"1\", and must be \"epoch 0 of 2\"",
    ),
    "metrics of two cells": (
        lambda f: exchange(f, "metrics.json"),
        [CELL, OTHER],
        r"dgd/seed0/metrics.json is that of the cell small/digits/cifar_resnet8/dgd/seed1; a copy counts as no second cell",
    ),
    "metrics of two cells and their labels": (
        lambda f: exchange(f, "metrics.json", labels=True),
        [CELL, OTHER],
        r"dgd/seed1/metrics.json: networks\[0\].last.loss is ([\d.]+), and must be ([\d.]+) by history.csv",
    ),
    "histories of two cells": (
        lambda f: exchange(f, "history.csv"),
        [CELL, OTHER],
        r"dgd/seed1/metrics.json: networks\[0\].last.loss is ([\d.]+), and must be ([\d.]+) by history.csv",
    ),
    "a config": (
        lambda f: edit(f / CELL / "config.yaml", lambda c: c["recipe"].update(lr=0.3)),
        [CELL],
        r"provenance.json: identity.recipe.lr was 0.1 and is 0.3 in config.yaml",
    ),
    "the code of a record": (
        lambda f: edit(f / CELL / seals.RECORD, lambda r: r["identity"]["code"].update({"dgd/task.py": "0" * 16})),
        [CELL],
        r"provenance.json: identity.hash is \"\w+\", and must be \"\w+\" by its fields, code and teachers",
    ),
    "the data of a record": (
        lambda f: edit(f / CELL / seals.RECORD, lambda r: r["identity"].update(data="0" * 64)),
        [CELL],
        r"provenance.json: identity.data is \"\w+\", and must be \"\w+\" by \S+provenance.json",
    ),
    "the teacher of a record": (
        lambda f: edit(
            f / CELL / seals.RECORD, lambda r: r["identity"]["teachers"][f"small/{TEACHER}"].update(weights_sha256="0" * 64)
        ),
        [CELL],
        r"provenance.json: the SHA-256 of the weights of the teacher small/\S+ is \"0+\", and must be \"\w+\" by",
    ),
    "weights": (
        lambda f: other_weights(f / CELL / "model.safetensors"),
        [CELL],
        r"filters.npz: l1/0/conv1.weight, filter 0, is ([\d.]+), and must be ([\d.]+) by model.safetensors",
    ),
    "weights and not the seal": (
        lambda f: other_weights(f / CELL / "model.safetensors"),
        [],
        r"dgd/seed0/model.safetensors: its SHA-256 is \"\w+\", and must be \"\w+\" by provenance.json",
    ),
    "weights beside the cell's own": (
        lambda f: shutil.copy(f / CELL / "model.safetensors", f / CELL / "best.safetensors"),
        [],
        r"dgd/seed0/best.safetensors: is a file of weights, and \S+provenance.json does not name it",
    ),
    "a seed that is another's copy": (
        copy_seed,
        [OTHER],
        r"dgd/seed1/history.csv: is that of \S+dgd/seed0/history.csv, another seed, and must be its own",
    ),
    "a copy of a folder": (
        lambda f: shutil.copytree(f / CELL, f / CELL.with_name("seed2")),
        [],
        r"dgd/seed2/config.yaml is that of the cell small/digits/cifar_resnet8/dgd/seed0; a copy counts as no second cell",
    ),
    "a cell that is gone": (
        lambda f: shutil.rmtree(f / OTHER),
        [],
        r"cells.csv: line 7, column status, is \"finished\", and must be \"missing\" by the cells",
    ),
    "a result that is gone": (
        lambda f: (f / OTHER / "metrics.json").unlink(),
        [],
        r"dgd/seed1/metrics.json: no such file: the cell is not finished",
    ),
    "a teacher that is gone": (
        lambda f: shutil.rmtree(f / TEACHER),
        [],
        r"provenance.json: its teacher is small/digits/cifar_resnet20/baseline/seed0, and \S+ is not there",
    ),
    "a number of cells.csv": (
        lambda f: replace(f / "cells.csv", ",0.1,", ",0.2,"),
        [],
        r"cells.csv: line 2, column lr, is \"0.2\", and must be \"0.1\" by the cells",
    ),
    "a standing of cells.csv": (
        lambda f: replace(f / "cells.csv", ",fresh,", ",frozen,"),
        [],
        r"cells.csv: line 2, column standing, is \"frozen\", and must be \"fresh\" by the cells",
    ),
    "rows of cells.csv": (
        lambda f: swap_lines(f / "cells.csv", 1, 2),
        [],
        r"cells.csv: line 2, column model, is \"cifar_resnet8\", and must be \"cifar_resnet20\" by the cells",
    ),
    "a number of a table": (
        lambda f: digit(f / "tables/results.csv", last=False),
        [],
        r"tables/results.csv: line \d+, column \w+, is",
    ),
    "a word of a table": (
        lambda f: replace(f / "tables/results.md", "inconclusive ", "reproduced "),
        [],
        r"tables/results.md: line \d+, column \d+, is \"reproduced\", and must be \"inconclusive\" by the cells",
    ),
    "rows of a table": (
        lambda f: swap_lines(f / "tables/results.tex", -4, -5),
        [],
        r"tables/results.tex: line \d+, column \d+, is",
    ),
    "a table that is gone": (
        lambda f: (f / "tables/density.md").unlink(),
        [],
        r"tables/density.md: is not there, and the cells give it",
    ),
    "a table of somebody's own": (
        lambda f: (f / "tables/mine.md").write_text("| 99 |\n"),
        [],
        r"tables/mine.md: is there, and the cells give no such table",
    ),
    "the config of the tables": (
        lambda f: (f / "benchmark.yaml").unlink(),
        [],
        r"benchmark.yaml: no such file, and \S+cells.csv is made by it",
    ),
}  # fmt: skip


QUICKLY = ("metrics alone", "metrics and history", "metrics of two cells", "the code of a record", "weights")
QUICKLY += ("a seed that is another's copy", "a cell that is gone", "a word of a table")


@pytest.mark.parametrize("name", [name if name in QUICKLY else pytest.param(name, marks=pytest.mark.faults) for name in FORGED])
def test_a_careful_forger_is_found(results, name):
    change, cells, message = FORGED[name]
    change(results)
    forge(results, *cells)
    found = faults(results)
    matches = [match for line in found if (match := re.search(message, line))]
    assert matches, "\n".join(found)
    assert all(len(set(match.groups())) == len(match.groups()) for match in matches)


def test_every_fault_is_listed_and_the_exit_status_says_so(results, capsys, monkeypatch):
    for name in (CELL, OTHER, BASELINE):
        digit(results / name / "history.csv")
    (results / "notes.txt").write_text("mine\n")
    monkeypatch.chdir(ROOT)
    assert cli.main(["verify", str(results)]) == 1
    *lines, counts = capsys.readouterr().out.splitlines()
    for name in (CELL, OTHER, BASELINE):
        # By the manifest, and by the seal.
        assert sum(line.startswith(f"{results / name / 'history.csv'}: its SHA-256") for line in lines) == 2
    assert f"{results / 'notes.txt'}: is there, and SHA256SUMS does not have it" in lines
    assert counts.endswith(f": {len(lines)} faults")


def test_a_change_is_not_written_into_a_new_manifest(results):
    """Not of a sealed cell, and not of any cell of a frozen benchmark."""
    path = results / CELL / "history.csv"
    before = path.read_bytes()
    digit(path)
    with pytest.raises(ValueError, match=r"history.csv was changed or damaged after it was written"):
        write_manifest.main(["--folder", str(results)])
    path.write_bytes(before)
    frozen.freeze(results)
    digit(path)
    record = results / CELL / seals.RECORD
    hashes = {name: files.file_hash(record.with_name(name)) for name in identity.OUTPUTS if name != seals.RECORD}
    files.write_json(record, seals.sealed(json.loads(record.read_text()), hashes))
    for write in (lambda: write_manifest.main(["--folder", str(results)]), lambda: frozen.freeze(results)):
        with pytest.raises(ValueError, match=r"its SHA-256 is \w+, and SHA256SUMS has \w+: no training changed it"):
            write()
    frozen.thaw(results)
    assert not (results / manifest.MANIFEST).exists()


def test_the_marker_of_a_frozen_benchmark_is_held_to_its_cells(results):
    frozen.freeze(results)
    digit(results / frozen.MARKER, last=True)
    forge(results)
    assert any("frozen.yaml: made_by does not say 5 cells made by" in line for line in faults(results))


@contextlib.contextmanager
def changed_byte(path: Path, place: float, value: int):
    """Change one byte of a file, and put it back."""
    before = path.read_bytes()
    content = bytearray(before)
    content[min(int(place * len(content)), len(content) - 1)] ^= value
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("examples", [20, pytest.param(200, marks=pytest.mark.faults)])
def test_any_byte_of_any_file(finished, examples):
    names = [*manifest.read(finished), manifest.MANIFEST]

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, phases=[Phase.generate]
    )
    @given(st.sampled_from(names), st.floats(0, 1), st.integers(1, 255))
    def found(name, place, value):
        with changed_byte(finished / name, place, value):
            lines = faults(finished)
            assert name == manifest.MANIFEST or any(str(finished / name) in line for line in lines)
            assert lines

    with contextlib.redirect_stderr(io.StringIO()):
        found()


COMMITTED = sorted(path.parent for path in (ROOT / "results").glob("*/frozen.yaml"))
QUICK = ("cifar10-small", "fast-path")


@pytest.mark.parametrize(
    "folder",
    [pytest.param(path, id=path.name, marks=[] if path.name in QUICK else pytest.mark.slow) for path in COMMITTED],
)
def test_committed_results_verify(folder):
    """What is kept in the repository; and the config that is there today asks for it."""
    assert not faults(folder)
    asked = config.load(ROOT / "config" / f"{folder.name}.yaml", folders=False)
    assert asked == config.load(folder / config.ASKED, folders=False)
