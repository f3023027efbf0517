"""Bundles: what goes in comes out, the same results give the same bytes, and nothing else comes in."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from dgd import cli, files, frozen, identity, manifest, seals, verify
from dgd.export import TOP, export, take
from dgd.train import train_cell
from tests.helpers import ROOT, digits_cells

COMMITTED = ROOT / "results" / "fast-path"
TEACHER, STUDENT = digits_cells(["kd"], recipe={"epochs": 1, "threads": 1})


@pytest.fixture(scope="module")
def trained(few_digits, tmp_path_factory) -> Path:
    """A root of results with a teacher and its student."""
    results = tmp_path_factory.mktemp("trained")
    for cell in (TEACHER, STUDENT):
        train_cell(cell, results=results, data=few_digits)
    return results


@pytest.fixture
def made(trained, tmp_path) -> Path:
    """A copy of it, for tests that change it."""
    return Path(shutil.copytree(trained, tmp_path / "made"))


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "t.tar"
    assert export([trained / "t"], out, weights=True) == 2
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entries(bundle: Path) -> dict[str, bytes]:
    with tarfile.open(bundle) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


def pack(out: Path, content: dict[str, bytes], *more: tarfile.TarInfo, sums: bool = True) -> Path:
    """Write a tar as somebody might; `sums` makes its SHA256SUMS right again."""
    if sums:
        own = {name.removeprefix(f"{TOP}/"): value for name, value in content.items() if not name.endswith(f"{TOP}/SHA256SUMS")}
        hashes = {name: hashlib.sha256(value).hexdigest() for name, value in own.items()}
        content = {**content, f"{TOP}/SHA256SUMS": manifest.text(hashes).encode()}
    with tarfile.open(out, "w") as tar:
        for name, value in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(value)
            tar.addfile(entry, io.BytesIO(value))
        for entry in more:
            tar.addfile(entry, io.BytesIO(bytes(entry.size)))
    return out


def test_committed_results_come_out_as_they_went_in(tmp_path):
    cells = export([COMMITTED], tmp_path / "one.tar")
    taken = take(tmp_path / "one.tar", tmp_path / "here")
    assert (cells, taken.counts["came in"]) == (11, 11)
    kept = {name for name in manifest.listed(COMMITTED) if not manifest.may_be_missing(name)} | {manifest.MANIFEST}
    assert contents(tmp_path / "here" / "fast-path") == {name: (COMMITTED / name).read_bytes() for name in kept}
    found = verify.verify([tmp_path / "here"], ROOT / "papers")
    assert (found.faults, found.cells) == ([], 11)
    assert frozen.is_frozen(tmp_path / "here" / "fast-path")
    export([tmp_path / "here"], tmp_path / "two.tar")
    assert (tmp_path / "two.tar").read_bytes() == (tmp_path / "one.tar").read_bytes()
    assert str(take(tmp_path / "two.tar", tmp_path / "here")) == "0 came in, 11 there already, 0 left out"
    about = entries(tmp_path / "one.tar")[f"{TOP}/README.md"].decode()
    commits = {row["commit"][:12] for row in frozen.made_by(COMMITTED)}
    assert commits
    assert all(commit in about for commit in commits)
    assert entries(tmp_path / "one.tar")[f"{TOP}/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_a_student_brings_its_teacher_and_both_are_fresh(trained, tmp_path):
    assert export([trained], tmp_path / "t.tar", "kd/seed0", weights=True) == 2
    assert str(take(tmp_path / "t.tar", tmp_path / "here")) == "2 came in, 0 there already, 0 left out"
    states = identity.states([TEACHER, STUDENT], tmp_path / "here")
    assert [state.fresh for state in states.values()] == [True, True]
    for cell in (TEACHER, STUDENT):
        assert contents(tmp_path / "here" / cell.path) == contents(trained / cell.path)
    assert verify.verify([tmp_path / "here"], strict=True).faults == []
    assert not list((tmp_path / "here").glob(".*"))


def test_weights_come_to_a_cell_that_has_none(trained, bundle, tmp_path):
    export([trained], tmp_path / "small.tar")
    assert not any(name.endswith(".safetensors") for name in entries(tmp_path / "small.tar"))
    take(tmp_path / "small.tar", tmp_path / "here")
    assert not list((tmp_path / "here").rglob("*.safetensors"))
    assert all("its weights came in" in line for line in take(bundle, tmp_path / "here").lines)
    assert contents(tmp_path / "here" / STUDENT.path) == contents(trained / STUDENT.path)


def test_a_damaged_folder_is_not_handed_on(made, tmp_path):
    path = made / TEACHER.path / "history.csv"
    path.write_text(path.read_text().replace("0", "1", 1))
    with pytest.raises(ValueError, match="history.csv"):
        export([made / "t"], tmp_path / "t.tar", "kd/*")
    shutil.rmtree(made / TEACHER.path)
    with pytest.raises(ValueError, match="no config.yaml of the teacher"):
        export([made / "t"], tmp_path / "t.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("/etc/passwd", tarfile.REGTYPE, "is no name of a file in the folder"),
        (f"{TOP}/../evil", tarfile.REGTYPE, "is no name of a file in the folder"),
        (f"{TOP}/results/t/../../../evil", tarfile.REGTYPE, "is no name of a file in the folder"),
        (f"{TOP}/results/t/.hidden", tarfile.REGTYPE, "is no name of a file in the folder"),
        (f"{TOP}/results/t/a\\b", tarfile.REGTYPE, "is no name of a file in the folder"),
        (f"{TOP}/results/{STUDENT.path}/evil.py", tarfile.REGTYPE, "is no file of a benchmark's results"),
        (f"{TOP}/results/t/digits/conftest.py", tarfile.REGTYPE, "is no file of a benchmark's results"),
        (f"{TOP}/setup.py", tarfile.REGTYPE, "is no file of a benchmark's results"),
        (f"{TOP}/README.md", tarfile.REGTYPE, "is there twice"),
        (f"{TOP}/results/t/tables/a", tarfile.SYMTYPE, "is no plain file"),
        (f"{TOP}/results/t/tables/a", tarfile.LNKTYPE, "is no plain file"),
        (f"{TOP}/results/t/tables/a", tarfile.FIFOTYPE, "is no plain file"),
        (f"{TOP}/results/t/tables", tarfile.DIRTYPE, "is no plain file"),
    ],
)
def test_a_file_that_does_not_belong_there_stops_all(bundle, tmp_path, name, kind, said):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "../../../evil"
    evil = pack(tmp_path / "evil.tar", entries(bundle), entry, sums=False)
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match=f"{said}.*nothing was taken in"):
        take(evil, tmp_path / "here" / "results")
    assert [path for path in (tmp_path / "here").rglob("*") if path.name != "results"] == []
    assert not (tmp_path / "evil").exists()


def test_a_changed_bundle_is_refused_in_one_line(bundle, tmp_path):
    whole = entries(bundle)
    own = f"{TOP}/results/{STUDENT.path}"
    metrics = json.loads(whole[f"{own}/metrics.json"])
    for value in (metrics["top1"], metrics["networks"][0]["last"], metrics["networks"][0]["best_on_test"]):
        value |= {key: 99.0 for key in ("top1", "last", "best_on_test") if key in value}
    lie = json.dumps(metrics).encode()
    record = json.loads(whole[f"{own}/provenance.json"])
    hashes = {**record["seal"]["files"], "metrics.json": hashlib.sha256(lie).hexdigest()}
    record["seal"].pop("record")
    sealed = json.dumps(seals.sealed(record, hashes)).encode()
    cases = [
        ({f"{own}/metrics.json": lie}, False, "metrics.json was changed or damaged, by SHA256SUMS"),
        ({f"{own}/metrics.json": lie}, True, "metrics.json: its SHA-256 is"),
        ({f"{own}/metrics.json": lie, f"{own}/provenance.json": sealed}, True, "and must be"),
        ({f"{TOP}/results/t/cells.csv": b"a\n"}, True, "tables without a SHA256SUMS of their benchmark"),
        ({f"{TOP}/results/t/cells.csv": b"a\n"}, False, "cells.csv is there, and SHA256SUMS does not have it"),
        ({f"{own}/filters.npz": None}, False, "filters.npz is missing"),
        ({f"{TOP}/SHA256SUMS": None}, False, "so it is no bundle"),
        ({f"{TOP}/results/{TEACHER.path}/{name}": None for name in identity.OUTPUTS}, True, "its teacher is"),
    ]
    for change, sums, said in cases:
        content = {name: value for name, value in (whole | change).items() if value is not None}
        with pytest.raises(ValueError, match=said) as caught:
            take(pack(tmp_path / "changed.tar", content, sums=sums), tmp_path / "results")
        assert "nothing was taken in" in str(caught.value)
        assert list((tmp_path / "results").iterdir()) == [], said
    (tmp_path / "short.tar").write_bytes(bundle.read_bytes()[:30_000])
    (tmp_path / "packed.tar").write_bytes(gzip.compress(bundle.read_bytes()))
    (tmp_path / "text.tar").write_text("no tar")
    for name in ("short", "packed", "text"):
        with pytest.raises(ValueError, match=r"(no whole tar|is missing \(SHA256SUMS\)).*nothing was taken in"):
            take(tmp_path / f"{name}.tar", tmp_path / "results")
    assert list((tmp_path / "results").iterdir()) == []


def test_another_result_is_not_overwritten_unless_told(bundle, made, few_digits, trained):
    for cell in (TEACHER, STUDENT):
        shutil.rmtree(made / cell.path)
    train_cell(replace(TEACHER, recipe=replace(TEACHER.recipe, lr=0.01)), results=made, data=few_digits)
    before = contents(made / TEACHER.path)
    taken = take(bundle, made)
    assert str(taken) == "0 came in, 0 there already, 2 left out"
    assert "another cell is here: recipe.lr was 0.01 and is 0.1 (--replace takes the bundle's)" in taken.lines[0]
    assert f"it learned from {TEACHER.path}, which is another one here" in taken.lines[1]
    assert contents(made / TEACHER.path) == before
    assert not (made / STUDENT.path).exists()
    assert str(take(bundle, made, replace=True)) == "2 came in, 0 there already, 0 left out"
    assert contents(made / TEACHER.path) == contents(trained / TEACHER.path)


def test_an_import_that_is_stopped_leaves_no_half_cell(bundle, tmp_path, monkeypatch):
    """Whenever it stops, a cell with a metrics.json is whole; the same command goes on."""
    write, results = files.write_bytes, tmp_path / "results"
    for stop in (1, 6, 7, 13, 14):
        left = stop

        def once(path, content):
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(28, "cannot be written: No space left on device", str(path))
            write(path, content)

        shutil.rmtree(results, ignore_errors=True)
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_bytes", once)
            with pytest.raises(OSError, match="No space left"):
                take(bundle, results)
        there = [path.parent for path in results.rglob("metrics.json")]
        assert all((path / name).is_file() for path in there for name in identity.OUTPUTS)
        assert len(there) == stop // len(identity.OUTPUTS)
        assert not list(results.glob(".*"))
    assert str(take(bundle, results)) == "0 came in, 2 there already, 0 left out"
    assert verify.verify([results]).faults == []


def test_a_cell_that_is_being_written_and_a_frozen_benchmark_stay(bundle, made, tmp_path):
    with files.locked(tmp_path / "here" / TEACHER.path), pytest.raises(files.Locked):
        take(bundle, tmp_path / "here")
    frozen.freeze(made / "t")
    assert str(take(bundle, made)) == "0 came in, 2 there already, 0 left out"
    assert frozen.is_frozen(made / "t")
    shutil.rmtree(made / STUDENT.path)
    with pytest.raises(ValueError, match="is frozen, and .*kd/seed0 is not that of the bundle.*nothing was taken in"):
        take(bundle, made, replace=True)


def test_the_commands(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", str(trained / "t"), "--cells", "*/baseline/*", "--out", "t.tar"]) == 0
    assert "t.tar: 1 cells" in capsys.readouterr().out
    assert cli.main(["import", "t.tar"]) == 0
    assert "1 came in, 0 there already, 0 left out" in capsys.readouterr().out
    (tmp_path / "results" / TEACHER.path / "history.csv").write_text("epoch\n")
    assert cli.main(["import", "t.tar"]) == 1
    assert "another result of the cell is here: its history.csv differs" in capsys.readouterr().out
    assert cli.main(["import", "t.tar", "--replace"]) == 0
    assert cli.main(["status", "results/t"]) == 0
    assert cli.main(["verify"]) == 0
    assert cli.main(["table", "results/t"]) == 0
    assert cli.main(["import", "none.tar"]) == 1
    assert "none.tar" in capsys.readouterr().err
    assert cli.main(["export", "results/t", "--out", "u.tar", "--weights"]) == 1
    assert "model.safetensors: no such file; leave --weights out" in capsys.readouterr().err
