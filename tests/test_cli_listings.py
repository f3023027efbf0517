"""What `dgd-bench` lists of a benchmark and of its results: as text, as JSON, and where something is missing or wrong."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from dgd import cli, files, identity, progress, shipped
from dgd.cli.common import app
from dgd.running import benchmark_cells
from tests.helpers import ROOT

BENCHMARK = """
benchmark: t
seeds: [0, 1]
datasets: [digits]
data: {dir: %s, train_images: 40}
pairs: [{student: cifar_resnet8}]
methods: [baseline, label-smoothing, {wild: {base: baseline, recipe: {lr: 1.0e+30}}}]
controls: {label-smoothing: [wild]}
papers: []
recipe: {epochs: 2, batch_size: 20, device: cpu}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The root of the results of a benchmark of which one method diverges, and its YAML beside them."""
    root = tmp_path_factory.mktemp("trained")
    (root / "t.yaml").write_text(BENCHMARK % (root / "data"))
    assert cli.main(["train", str(root / "t.yaml"), "--results", str(root / "results")]) == 1
    return root


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the results, to be changed."""
    return shutil.copytree(trained / "results/t", tmp_path / "results/t")


def said(capsys, *words) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(list(map(str, words)))
    return code, *capsys.readouterr()


LISTINGS = {
    "list": ["list"],
    "list methods": ["list", "methods"],
    "list models": ["list", "models", "resnet1*"],
    "list datasets": ["list", "datasets"],
    "list claims": ["list", "claims"],
    "list benchmarks": ["list", "benchmarks"],
    "list cells": ["list", "cells", "{root}/t.yaml"],
    "list published": ["list", "published", "cifar10"],
    "prepare": ["prepare", "{root}/t.yaml"],
    "status": ["status", "{results}"],
    "table": ["table", "{results}"],
    "controls": ["controls", "{results}"],
    "claims": ["claims", "{results}"],
    "filters": ["filters", "{results}/digits/cifar_resnet8/baseline/seed0"],
    "prune": ["prune", "{results}/digits/cifar_resnet8/baseline/seed0", "--shares", "0.5"],
    "compare": ["compare", *(f"{{results}}/digits/cifar_resnet8/{name}/seed0" for name in ("baseline", "label-smoothing"))],
    "verify": ["verify", "{results}"],
    "version": ["version"],
}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_is_there_as_json(name, capsys, trained, copy):
    """Strict JSON: none of it is NaN."""
    words = [word.format(root=trained, results=copy) for word in LISTINGS[name]]
    code, out, err = said(capsys, *words, "--json")
    assert code == (name in ("status", "verify")), err  # a cell failed; dgd-bench writes no manifest before `freeze`
    assert json.loads(out, parse_constant=pytest.fail)
    assert said(capsys, *words)[1] != out


def test_listings_agree_with_the_files(capsys, trained, copy):
    cells = benchmark_cells(trained / "t.yaml")
    assert json.loads(said(capsys, "list", "cells", trained / "t.yaml", "--json")[1]) == [cell.path for cell in cells]
    (row,) = json.loads(said(capsys, "prepare", trained / "t.yaml", "--json")[1])
    folder = identity.prepared_folder(cells[0])
    assert (row["folder"], row["train"], row["test"], row["classes"]) == (str(folder), 40, 599, 10)
    assert row["sha256"] == identity.data_hash(folder / "manifest.json")
    benchmarks = json.loads(said(capsys, "list", "benchmarks", "--json")[1])
    assert [one["benchmark"] for one in benchmarks] == sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))
    assert next(one for one in benchmarks if one["benchmark"] == "quick")["cells"] == 21
    rows = json.loads(said(capsys, "table", copy, "--json")[1])["results"]["rows"]
    metrics = [json.loads((copy / f"digits/cifar_resnet8/baseline/seed{k}/metrics.json").read_text()) for k in (0, 1)]
    mean = sum(one["networks"][0]["last"]["top1"] for one in metrics) / 2
    assert next(row for row in rows if row["method"] == "baseline")["mean"] == pytest.approx(mean)


def test_a_method_that_was_deleted_shows_as_missing(capsys, copy):
    shutil.rmtree(copy / "digits/cifar_resnet8/label-smoothing")
    shutil.rmtree(copy / "digits/cifar_resnet8/baseline/seed1")
    code, out, _ = said(capsys, "table", copy)
    rows = {line.split("|")[3].strip(): line for line in reversed(out.splitlines()) if line.startswith("| digits")}
    assert code == 0
    seeds = {name: line.split("|")[-2].strip() for name, line in rows.items()}
    assert seeds == {"baseline": "1 of 2: 1 missing", "label-smoothing": "0 of 2: 2 missing", "wild": "0 of 2: 2 diverged"}
    assert "not run" in said(capsys, "controls", copy)[1]  # of benchmark.yaml, without --config
    code, out, _ = said(capsys, "status", copy)
    assert code == 1
    assert out.count("label-smoothing/seed0: missing\n") == 1
    assert out.endswith(" left, by the cells that are done\n") or "3 missing" in out
    # A benchmark that asks for less leaves out what is there, and says so.
    asked = (copy / "benchmark.yaml").read_text()
    (copy / "benchmark.yaml").write_text(asked.replace("seeds:\n- 0\n- 1\n", "seeds:\n- 0\n"))
    assert "1 cells are there that benchmark.yaml does not ask for, e.g. t/digits/" in said(capsys, "table", copy)[1]
    (copy / "benchmark.yaml").unlink()
    assert "label-smoothing" not in said(capsys, "table", copy)[1]
    code, _, err = said(capsys, "controls", copy)
    assert code == 1
    assert err.endswith("no benchmark.yaml in it, which names the controls; give the benchmark by --config\n")


def test_the_states_of_cells(capsys, trained, copy):
    cell = copy / "digits/cifar_resnet8"
    shutil.rmtree(cell / "label-smoothing")
    files.remove(cell / "baseline/seed1/metrics.json")
    (cell / "baseline/seed1/resume.pt").touch()
    with files.locked(cell / "label-smoothing/seed0", "trained") as lock, files.locked(cell / "label-smoothing/seed1"):
        lock.say(epoch=1, epochs=2, seconds=7.5)
        found = progress.progress(benchmark_cells(trained / "t.yaml"), copy.parent)
    by = {one.cell.removeprefix("t/digits/cifar_resnet8/"): one for one in found.cells}
    assert found.counts == {"done": 1, "running": 2, "stale": 0, "failed": 2, "missing": 1}
    seconds = json.loads((cell / "baseline/seed0/metrics.json").read_text())["timings"]["seconds"]
    assert by["baseline/seed1"].seconds_left == pytest.approx(seconds)
    assert by["baseline/seed1"].why.startswith("it was stopped, and goes on from its resume point of 20")
    assert by["label-smoothing/seed0"].seconds_left == 7.5
    assert by["label-smoothing/seed0"].why.startswith("epoch 1 of 2, since ")
    assert by["label-smoothing/seed1"].seconds_left is None
    assert by["label-smoothing/seed1"].why.startswith("before the end of its first epoch, since ")
    assert by["wild/seed0"].why.startswith("diverged: the loss of network 0 is not finite")
    assert (found.seconds_left, found.unknown) == (pytest.approx(seconds + 7.5), 1)  # one process trains both
    assert files.holder(cell / "label-smoothing/seed0") is None
    assert not (cell / "label-smoothing/seed0/.lock").exists()
    text = (trained / "t.yaml").read_text()
    changed = copy.parents[1] / "changed.yaml"
    changed.write_text(text.replace("batch_size: 20", "batch_size: 10"))
    code, out, _ = said(capsys, "status", changed, "--results", copy.parent)
    assert code == 1
    assert "baseline/seed0: stale: recipe.batch_size was 20 and is 10\n" in out
    # Nothing runs, so watching it ends at once.
    assert said(capsys, "status", copy, "--watch")[:2] == said(capsys, "status", copy)[:2]


def test_who_looks_at_a_lock_keeps_nobody_from_taking_it(tmp_path):
    """A reader has the lock, shared, for a moment: who wants to write asks again."""
    import fcntl
    import os
    import threading

    handle = os.open(tmp_path / files.LOCK, os.O_RDONLY | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_SH)
    threading.Timer(0.01, os.close, [handle]).start()
    with files.locked(tmp_path):
        assert files.holder(tmp_path)["pid"] == os.getpid()
        with pytest.raises(files.Locked, match="is being written by process"), files.locked(tmp_path):
            pass


WRONG = ("list cells", "prepare", "train", "status", "reproduce", "prune", "table", "claims", "controls", "filters", "plot")
WRONG += ("cite", "check", "verify", "freeze", "cite quick --papers", "list claims --papers", "table {results} --papers")


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "other"])
def test_a_wrong_path_is_one_line(kind, capsys, trained, tmp_path):
    path = tmp_path / "path"
    if kind == "file":
        path.write_text("hello")
    elif kind != "missing":
        path.mkdir()
    if kind == "other":
        (path / "sub").mkdir()
        (path / "x.yaml").write_text("a: 1")
        shutil.copy(ROOT / "README.md", path)
    for command in WRONG:
        code, out, err = said(capsys, *command.format(results=trained / "results/t").split(), path)
        assert code == 1, command
        lines = (out + err).splitlines()
        assert len(lines) == 1, command
        assert str(path) in lines[0]
        assert err.startswith("dgd-bench: ") or command == "check"


def test_wrong_words_are_one_line_and_status_2(capsys):
    for words, message in {
        ("frob",): "No such command 'frob'",
        ("list", "frob"): "No such command 'frob'",
        ("table",): "Missing argument 'RESULTS'",
        ("train", "quick", "--agian"): "No such option: --agian",
        ("train", "quick", "--together", "0"): "Invalid value for '--together'",
    }.items():
        code, out, err = said(capsys, *words)
        assert (code, out, err.count("\n")) == (2, "", 1), words
        assert err.startswith(f"dgd-bench: {message}")
        assert "--help`)" in err


def test_the_help_needs_nothing_heavy():
    """Which would take seconds: the help of everything, and of each command, is there in a third of one."""
    code = "import sys; sys.argv[0] = 'dgd-bench'; from dgd import cli; cli.main(sys.argv[1:]); sys.exit(' '.join(sys.modules))"
    for words in (["--help"], ["train", "--help"], ["list", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT, check=False)
        assert "Example: " in done.stdout
        assert not {"torch", "pandas", "numpy", "scipy", "timm", "yaml_files", "dgd.config"} & set(done.stderr.split())


def test_shipped_benchmarks_are_found_by_name_and_a_local_file_wins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert said(capsys, "list", "cells", "quick")[1].startswith("quick/digits/")
    assert shipped.benchmark("quick") == shipped.BENCHMARKS / "quick.yaml"
    (tmp_path / "quick.yaml").write_text((BENCHMARK % "data").replace("benchmark: t", "benchmark: own"))
    for name in ("quick", "quick.yaml"):
        assert said(capsys, "list", "cells", name)[1].startswith("own/digits/")
    code, _, err = said(capsys, "list", "cells", "quik")
    assert (code, err) == (1, "dgd-bench: quik: no such file, nor a benchmark of the package; did you mean quick?\n")
    assert "title = {{Decoupled Knowledge Distillation}}" in said(capsys, "cite", "zoo-small")[1]


def test_figures_are_drawn_of_what_was_asked_for(capsys, copy, tmp_path):
    code, out, _ = said(capsys, "plot", copy, "--out", tmp_path / "figures")
    assert code == 0
    assert sorted(out.split()) == sorted(map(str, (tmp_path / "figures").iterdir()))
    assert any("curves" in line for line in out.split())


def test_the_filters_of_a_network_of_timm(capsys, tmp_path, monkeypatch):
    """A fresh one, where no pretrained weights are in the cache; else these, by timm's own reading of them."""
    import timm
    import torch

    from dgd import filter_statistics

    code, out, _ = said(capsys, "filters", "cifar_resnet8")
    assert code == 0
    assert out.startswith("cifar_resnet8: a fresh initialisation")
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), weights)
    monkeypatch.setattr(filter_statistics, "_cached", lambda name: weights)
    code, out, _ = said(capsys, "filters", "resnet10t", "--json")
    found = json.loads(out)
    assert found["weights"] == f"resnet10t: pretrained weights, {weights}"
    assert found["rows"] == json.loads(said(capsys, "filters", weights, "--json")[1])["rows"]
    code, _, err = said(capsys, "filters", "resnet10")
    assert code == 1
    assert err.startswith("dgd-bench: resnet10: no file, no folder, and no network of timm; did you mean resnet")


def test_a_report_is_written_of_several_benchmarks(capsys, tmp_path):
    pytest.importorskip("dgd.read.report", reason="the page is not there")
    out = tmp_path / "report.html"
    code, text, err = said(capsys, "report", ROOT / "results/ddnn", ROOT / "results/decay-small", "--out", out)
    assert (code, text) == (0, f"{out}\n"), err
    assert "ddnn" in out.read_text()
    assert said(capsys, "report", tmp_path / "none", "--out", out)[0] == 1


def test_the_examples_of_the_documentation_run(capsys, tmp_path, monkeypatch):
    """Each command of `dgd-bench` has one; those of results that are not there are in other tests."""
    text = (ROOT / "docs/command-line.md").read_text()
    (tmp_path / "mine.yaml").write_text(re.search(r"^```yaml mine.yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1])
    commands = [shlex.split(line) for line in re.findall(r"^\$ dgd-bench (.*)$", text, re.MULTILINE)]
    named = {words[0] for words in commands} | {"claims", "report"}
    assert named == {command.name or command.callback.__name__ for command in app.registered_commands} | {"list"}
    monkeypatch.chdir(tmp_path)
    for words in commands[: commands.index(["list"])]:
        if words[0] not in ("filters", "plot"):  # in other tests
            code, _, err = said(capsys, *words)
            assert code == 0, (words, err)
    assert "| 2 of 2 " in said(capsys, "table", "results/mine")[1]
    for command in app.registered_commands:
        assert "Example: dgd-bench " in command.callback.__doc__, command.callback.__name__
        name = command.name or command.callback.__name__
        assert f"`{name}" in text or f"dgd-bench {name}" in text
