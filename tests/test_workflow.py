"""The workflow as a user meets it: Snakemake and DVC are run on a copy of the repository, in the smallest world."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from dgd import cli
from dgd.cell import Cell
from dgd.config import cells as cells_of
from dgd.config import check, load, read
from dgd.verify import verify
from pipeline.cells import names
from pipeline.config import one_of
from pipeline.jobs import gpus, launcher, mem_mb, threads
from speed import copy_workflow
from tests.helpers import files_but_timings

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PARTS = ("Snakefile", "pipeline", "dgd", "config", "papers", "profiles", "envs", "dvc.yaml", ".dvcignore")
TINY = ("--configfile", "config/test/tiny.yaml")
TEACHER = "tiny/digits/cifar_resnet20/baseline/seed0"
BASELINE = "tiny/digits/cifar_resnet8/baseline/seed0"
DGD = "tiny/digits/cifar_resnet8/dgd/seed0"


def start(folder: Path, *command: str, networks: bool = False) -> subprocess.Popen:
    """Start a command; without `networks`, Snakemake plans without torch and timm, in a third of the time."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE_", "DVC_"))}
    env |= {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / ".cache"), "PATH": f"{BIN}{os.pathsep}{env['PATH']}"}
    env |= {} if networks else {"DGD_NETWORKS": "no"}
    return subprocess.Popen(
        [BIN / command[0], *command[1:]], cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(folder: Path, *command: str, networks: bool = False) -> str:
    process = start(folder, *command, networks=networks)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return output


def trained(folder: Path) -> Counter:
    """How often each cell was trained, by Snakemake's own logs."""
    logs = "".join(path.read_text() for path in folder.glob(".snakemake/log/*.log"))
    return Counter(re.findall(r"^Job \d+: training (?:the teacher )?(\S+)$", logs, re.MULTILINE))


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def plan(folder: Path, *options: str) -> tuple[set[str], set[str]]:
    """The cells that a dry run would train, and the other rules that it would run."""
    output = run(folder, "snakemake", "-n", *options)
    cells = set(re.findall(r"^Job \d+: training (?:the teacher )?(\S+)$", output, re.MULTILINE))
    rules = set(re.findall(r"^(\w+) +\d+$", output, re.MULTILINE)) - {"train", "teacher", "all", "total"}
    return cells, rules


@pytest.fixture
def repo(tmp_path) -> Path:
    """A copy of what the workflow is made of, without results, data or version control."""
    copy_workflow(tmp_path, PARTS)
    for name in ("test/tiny", "cifar100"):  # also where the machine has a GPU
        append(tmp_path / f"config/{name}.yaml", "together: 1\n")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text((ROOT / ".dvc" / "config").read_text() + "    no_scm = true\n")
    return tmp_path


def test_config_on_the_command_line_has_numbers_and_lists(repo):
    run(repo, "snakemake", "-n", *TINY, "--config", "recipe={epochs: 3, lr: 0.02, deterministic: false}", "seeds=[1, 2]")
    process = start(repo, "snakemake", "-n", *TINY, "--config", "recipe={epochs: many}")
    assert "recipe.epochs is 'many'; it must be a whole number" in process.communicate()[0]


def test_the_snakefile_is_short():
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 60


def cell(**recipe) -> Cell:
    given = read(ROOT / "config/test/tiny.yaml")
    return cells_of(check({**given, "recipe": {**given["recipe"], **recipe}}))[-1]


@pytest.mark.parametrize(("device", "tool", "expected"), [("auto", True, 1), ("cpu", True, 0), ("cuda", False, 1)])
def test_cells_on_one_gpu_run_one_after_another(device, tool, expected, tmp_path, monkeypatch):
    if tool:
        (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus(cell(device=device)) == expected
    assert gpus(cell(device=device, ranks_per_network=2)) == 4 * expected
    assert yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())["resources"] == {"gpu": 1}


def test_a_job_asks_for_what_its_processes_take():
    alone, spread = cell(threads=2), cell(threads=2, ranks_per_network=1)
    assert (threads(alone), threads(spread)) == (2, 4)
    assert launcher(alone) == "OMP_NUM_THREADS=2 MKL_NUM_THREADS=2 python"
    assert launcher(spread).endswith("python -m dgd.spread --standalone --nproc-per-node=2")
    assert mem_mb(alone) < mem_mb(cell(batch_size=2000)) < mem_mb(spread)


def test_a_model_that_cannot_take_the_images_is_planned_like_the_others():
    assert mem_mb(replace(cell(), student="vgg11_bn")) == 4000


@pytest.mark.slow
def test_a_cell_over_two_processes_gives_the_bytes_of_one(repo):
    config = yaml.safe_load((repo / "config/test/tiny.yaml").read_text())
    config["recipe"] |= {"ranks_per_network": 1, "device": "cpu"}
    (repo / "spread.yaml").write_text(yaml.safe_dump(config | {"results": "spread"}))
    config["recipe"]["ranks_per_network"] = 0
    (repo / "alone.yaml").write_text(yaml.safe_dump(config | {"results": "alone"}))
    for name in ("spread", "alone"):
        run(repo, "snakemake", "--cores", "2", "--configfile", f"{name}.yaml", "--", f"{name}/{DGD}/metrics.json")
    for file in ("model.safetensors", "history.csv"):
        assert (repo / "spread" / DGD / file).read_bytes() == (repo / "alone" / DGD / file).read_bytes()


def test_wrong_configs_give_one_line_and_no_traceback(repo):
    base = yaml.safe_load((repo / "config/test/tiny.yaml").read_text())
    mistakes = {
        "key": ({"seed": [0]}, "key.yaml: seed: unknown key; did you mean seeds?"),
        "model": (
            {"pairs": [{"student": "cifar_resnet9", "teacher": "cifar_resnet20"}]},
            "model.yaml: pairs[0].student: unknown model",
        ),
    }
    running = {}
    for name, (changes, _) in mistakes.items():
        (repo / f"{name}.yaml").write_text(yaml.safe_dump(base | changes))
        running[name] = start(repo, "snakemake", "-n", "--configfile", f"{name}.yaml", networks=name == "model")
    for name, (_, expected) in mistakes.items():
        output = running[name].communicate()[0]
        assert running[name].returncode == 1, output
        lines = [line for line in output.splitlines() if not line.startswith("Using workflow specific profile")]
        assert len(lines) == 1, output
        assert lines[0].startswith(expected), output


def test_another_config_is_not_mixed_with_the_default(repo):
    plan = run(repo, "snakemake", "-n", "--configfile", "config/cifar100.yaml")
    counts = dict(re.findall(r"^(train|teacher)\s+(\d+)$", plan, re.MULTILINE))
    assert int(counts["train"]) + int(counts["teacher"]) == len(cells_of(load(ROOT / "config" / "cifar100.yaml")))
    assert "quick" not in plan


def test_the_rulegraph_is_the_documented_dag(repo):
    graph = run(repo, "snakemake", "--rulegraph", *TINY)
    label = dict(re.findall(r"(\d+)\[label = \"(\w+)\"", graph))
    edges = {(label[a], label[b]) for a, b in re.findall(r"(\d+) -> (\d+)", graph)}
    chain = ["prepare", "teacher", "train", "collect", "tabulate", "report", "manifest"]
    assert set(pairwise(chain)) | {("collect", "plot"), ("plot", "report")} <= edges


def test_one_command_goes_from_the_data_to_the_report(repo):
    """A cell that diverges is a hole in the table, and the others go on."""
    config = yaml.safe_load((repo / "config/test/tiny.yaml").read_text())
    config["methods"] = ["dgd", {"wild": {"base": "baseline", "recipe": {"lr": 1.0e30}}}]
    (repo / "wild.yaml").write_text(yaml.safe_dump(config))
    output = run(repo, "snakemake", "--cores", "2", "--configfile", "wild.yaml", networks=True)
    assert re.search(r"wild/seed0: DIVERGED: .*not finite", output)
    folder = repo / "results" / "tiny"
    for name in ("results", "filters", "claims"):
        assert all((folder / "tables" / f"{name}.{kind}").stat().st_size for kind in ("md", "csv", "tex"))
    assert list(folder.glob("figures/*.svg"))
    assert verify([folder], repo / "papers").faults == []
    assert {path.suffix for path in folder.glob("figures/[!.]*")} == {".svg"}
    page = (folder / "report.html").read_text()
    assert "1 diverged" in page
    assert "not finite" in page
    for cell in cells_of(load(repo / "wild.yaml")):
        status = json.loads((repo / "results" / cell.path / "metrics.json").read_text())["status"]
        assert status == ("diverged" if cell.method == "wild" else "finished")
        assert cell.path in page
    assert "diverged" in (folder / "cells.csv").read_text()
    shown = run(repo, "python", "-m", "pipeline.show", "results/tiny")
    assert "0 of 1" in shown
    assert "results/tiny/report.html" in shown
    assert "Nothing to be done" in run(repo, "snakemake", "-n", "--configfile", "wild.yaml")


def side_by_side(folder: Path, *options: str) -> list[list[str]]:
    """The cells of each job of several that a dry run would start."""
    found = re.findall(
        r"^Job \d+: training side by side.*:\n((?:\S+ stale: .*\n)+)", run(folder, "snakemake", "-n", *options), re.M
    )
    return sorted([line.split()[0] for line in job.splitlines()] for job in found)


def test_cells_on_a_gpu_are_planned_side_by_side(repo, monkeypatch):
    """A GPU of 24 GiB has room for five cells that nothing is known of."""
    monkeypatch.setenv("PATH", f"{repo}{os.pathsep}{os.environ['PATH']}")
    (repo / "nvidia-smi").write_text("#!/bin/sh\ntest $1 = -L || echo 24564\n")
    (repo / "nvidia-smi").chmod(0o755)
    paths = [cell.path for cell in cells_of(load(ROOT / "config" / "cifar100.yaml"))]
    jobs = side_by_side(repo, "--configfile", "config/cifar100.yaml", "--config", "together=null")
    assert sorted(path for job in jobs for path in job) == sorted(paths)
    assert sorted(map(len, jobs)) == [3, *[5] * 16]
    assert side_by_side(repo, *TINY, "--config", "together=null", "seeds=[0, 1]") == [
        [TEACHER, BASELINE, BASELINE.replace("seed0", "seed1")],
        [DGD, DGD.replace("seed0", "seed1")],
    ]
    # What is asked for by its file is trained with its teacher, and with no other cells.
    assert plan(repo, *TINY, "--config", "together=null", "--", f"results/{DGD}/metrics.json") == ({TEACHER, DGD}, {"prepare"})


BROKEN = """
import torch
from timm import create_model
from timm.models import register_model


def refuse(network, images):
    if network.training and torch.is_grad_enabled():
        raise ValueError("a mistake of broken_net")


@register_model
def broken_net(pretrained=False, **options):
    network = create_model("cifar_resnet8", **options)
    network.register_forward_pre_hook(refuse)
    return network
"""


def bundle(repo: Path, monkeypatch, **keys) -> tuple[list[Path], list[str]]:
    """Train two cells alone, in `alone/`; returns folders of three in `results/`, and how to train them in one job.

    The one between them cannot be trained: its network, of a plugin, raises an error in its first step.
    """
    (repo / "broken.py").write_text(BROKEN)
    config = yaml.safe_load((repo / "config/test/tiny.yaml").read_text())
    config |= {
        "pairs": [{"student": name} for name in ("cifar_resnet8", "broken_net", "cifar_resnet14")],
        "methods": ["baseline"],
        "plugins": ["broken.py"],
    }
    (repo / "three.yaml").write_text(yaml.safe_dump(config | {"together": 3, **keys}))
    monkeypatch.chdir(repo)
    # In processes of their own, which leave no plugin in this one.
    train = [sys.executable, "-m", "dgd.cli", "train", "three.yaml"]
    for name in ("cifar_resnet8", "cifar_resnet14"):
        run(repo, *train, f"*/{name}/*", "--results", "alone", "--together", "1", "--stop-after", "600")
    folders = [repo / "results/tiny/digits" / pair["student"] / "baseline/seed0" for pair in config["pairs"]]
    command = ["snakemake", "--cores", "2", "--latency-wait", "1", "--configfile", "three.yaml"]
    return folders, [*command, "--", *(f"{folder.relative_to(repo)}/metrics.json" for folder in folders)]


def check_bundle(repo: Path, folders: list[Path], output: str) -> None:
    first, broken, last = folders
    for folder in (first, last):
        assert files_but_timings(folder) == files_but_timings(repo / "alone" / folder.relative_to(repo / "results"))
        assert json.loads((folder / "metrics.json").read_text())["timings"]["together"] == 3
        assert "epoch 1/2" in (folder / "train.log").read_text()
    assert [path.name for path in broken.iterdir()] == ["train.log"]
    assert "tiny/digits/broken_net/baseline/seed0: FAILED: ValueError: a mistake of broken_net" in output
    assert "a mistake of broken_net" in (broken / "train.log").read_text()


def test_cells_side_by_side_leave_the_bytes_of_cells_alone_and_one_that_fails_takes_none_with_it(repo, monkeypatch):
    folders, command = bundle(repo, monkeypatch)
    process = start(repo, *command)
    output = process.communicate()[0]
    assert process.returncode == 1
    check_bundle(repo, folders, output)
    assert re.search(r"^train_together +1$", output, re.MULTILINE)
    # Those that are done are files like any other, also where the command names them; the one that failed is tried again.
    assert plan(repo, *command[3:]) == ({"tiny/digits/broken_net/baseline/seed0"}, set())


@pytest.mark.slow
def test_a_job_that_stops_is_started_again_and_goes_on(repo, monkeypatch):
    """An epoch each time: two jobs, the first of which ends with 75 and leaves no outputs that Snakemake would delete."""
    folders, command = bundle(repo, monkeypatch, stop_after=1e-9)
    process = start(repo, *command[:-4], "--retries", "1", *command[-4:])
    output = process.communicate()[0]
    assert process.returncode == 1
    check_bundle(repo, folders, output)
    assert output.count("returned non-zero exit status 75") == 1
    assert "2 of 3 cells are left after 1e-09 s; the same command goes on" in output


def train_by_the_command_line(repo: Path, monkeypatch, *options: str) -> None:
    """Train cells of the smallest benchmark in this process, which has imported torch already."""
    monkeypatch.chdir(repo)
    assert cli.main(["train", "config/test/tiny.yaml", *options]) == 0


def test_cells_are_trained_again_for_what_decides_and_for_nothing_else(repo, monkeypatch):
    train_by_the_command_line(repo, monkeypatch)
    run(repo, "snakemake", "--cores", "2", *TINY)
    assert not trained(repo)
    append(repo / "dgd/objectives/hkd.py", "# a comment\n")
    shutil.copy(repo / "dgd/objectives/kd.py", repo / "dgd/objectives/kd_again.py")
    shutil.move(repo / "data", repo / "elsewhere")
    assert "Nothing to be done" in run(repo, "snakemake", "-n", *TINY)
    shutil.move(repo / "elsewhere", repo / "data")
    reading = {"collect", "tabulate", "plot", "report", "manifest"}
    assert plan(repo, *TINY, "--config", "recipe={threads: 2, device: cpu}") == (set(), reading)

    append(repo / "dgd/read/statistics.py", "EDITED = 1\n")
    assert plan(repo, *TINY) == (set(), reading)

    shutil.rmtree(repo / ".snakemake")  # Snakemake's own records are not needed, as after `make clean`
    assert plan(repo, *TINY, "--config", "teacher_recipe={lr: 0.2}") == ({TEACHER, DGD}, reading)
    append(repo / "dgd/exchange/graft.py", "EDITED = 1\n")
    assert plan(repo, *TINY, "--", f"results/{BASELINE}/metrics.json") == (set(), set())
    before = {path: path.read_bytes() for path in repo.glob("results/*/*/*/baseline/*/*")}
    output = run(repo, "snakemake", "--cores", "2", *TINY, "--", f"results/{DGD}/metrics.json")
    assert "stale: the code of dgd/exchange/graft.py differs" in output
    assert trained(repo) == {DGD: 1}
    assert {path: path.read_bytes() for path in before} == before

    # The same cells under another name are taken over.
    renamed = "renamed".join(DGD.split("tiny", 1))
    shutil.copytree(repo / "data/prepared/tiny", repo / "data/prepared/renamed")
    output = run(
        repo, "snakemake", "--cores", "2", *TINY, "--config", "benchmark=renamed", "--", f"results/{renamed}/metrics.json"
    )
    assert output.count("taken over from results/tiny/") == 2
    assert (repo / "results" / renamed / "history.csv").read_bytes() == (repo / "results" / DGD / "history.csv").read_bytes()


def test_a_frozen_benchmark_is_read_and_another_config_is_refused(repo):
    """Committed results without weights, whose code and data are not those of today."""
    shutil.copytree(ROOT / "results/decay-small", repo / "results/decay-small")
    before = {path: path.read_bytes() for path in repo.glob("results/decay-small/cifar10/**/*") if path.is_file()}
    frozen = ("--configfile", "config/decay-small.yaml")
    assert plan(repo, *frozen) == (set(), {"collect", "tabulate", "plot", "report", "manifest"})
    process = start(repo, "snakemake", "-n", *frozen, "--config", "recipe={lr: 0.2}")
    output = process.communicate()[0]
    assert process.returncode == 1
    lines = [line for line in output.splitlines() if not line.startswith(("Using workflow", "Assuming"))]
    assert len(lines) == 1, output
    assert "results/decay-small is frozen" in lines[0]
    assert "recipe.lr was 0.1 and is 0.2 (decay-small/" in lines[0]
    run(repo, "snakemake", "--cores", "2", *frozen, "--", "results/decay-small/tables")
    for name in ("results", "filters"):
        assert (repo / f"results/decay-small/tables/{name}.md").stat().st_size
    assert {path: path.read_bytes() for path in before} == before


def test_dvc_names_every_cell_of_every_config(repo):
    """`make cells` writes the stages, and DVC finds the README's cell among those of the repository."""
    configs = sorted(ROOT.glob("config/*.yaml"))
    run(repo, "python", "-m", "pipeline.cells", *(f"config/{path.name}" for path in configs), "--out", "all.yaml")
    found = yaml.safe_load((repo / "all.yaml").read_text())["stages"]["cell"]["foreach"]
    assert sorted(cell["folder"] for cell in found.values()) == sorted(
        f"results/{cell.path}" for path in configs for cell in cells_of(load(path, folders=False))
    )
    assert {cell["config"] for cell in found.values()} == {f"config/{path.name}" for path in configs}
    hostile = repo / "it's $(touch evil).yaml"
    shutil.copy(ROOT / "config/test/tiny.yaml", hostile)
    append(hostile, 'results: "all re\'sults; touch evil"\n')
    for cell in names([hostile]).values():  # the shell that runs them reads the same words
        words = ["--configfile", hostile.as_posix(), "--", f"{cell['folder']}/metrics.json"]
        assert shlex.split(cell["arguments"]) == words
        assert shlex.split(cell["quoted"]) == [cell["folder"]]
    shown = run(repo, "dvc", "stage", "list", "--name-only", "cell@quick-digits-cifar_resnet8-dgd-0")
    assert shown.split() == ["cell@quick-digits-cifar_resnet8-dgd-0"]


@pytest.mark.slow
def test_dvc_takes_a_path_for_what_it_is(repo):
    """A shell runs what dvc.yaml says, and paths may have whatever a file system lets them have."""
    config = repo / "it's $(touch evil).yaml"
    shutil.copy(repo / "config/test/tiny.yaml", config)
    append(config, 'results: "all re\'sults; touch evil & `touch evil`"\n')
    run(repo, "python", "-m", "pipeline.cells", config.name)
    run(repo, "dvc", "repro", "cell@tiny-digits-cifar_resnet8-baseline-0")
    assert list(repo.rglob("evil")) == []
    assert len(list((repo / "all re'sults; touch evil & `touch evil`/tiny").rglob("metrics.json"))) == 1


def test_dvc_trains_a_cell_once_and_again_only_for_new_code(repo, monkeypatch):
    """It trains one cell and its teacher; nothing that is there, or after a comment; exactly once after an edit of its code."""
    run(repo, "python", "-m", "pipeline.cells", "config/test/tiny.yaml")
    run(repo, "dvc", "repro", "cell@tiny-digits-cifar_resnet8-dgd-0")
    assert trained(repo) == {TEACHER: 1, DGD: 1}
    kept = yaml.safe_load((repo / "dvc.lock").read_text())["stages"]
    assert set(kept) == {f"cell@tiny-digits-cifar_resnet{name}-0" for name in ("20-baseline", "8-dgd")} | {"data@tiny-digits"}

    train_by_the_command_line(repo, monkeypatch, BASELINE)
    before = {path: path.stat().st_mtime_ns for path in repo.glob("results/**/metrics.json")}
    run(repo, "dvc", "repro", "--single-item", "cell@tiny-digits-cifar_resnet8-baseline-0")
    assert trained(repo) == {TEACHER: 1, DGD: 1}
    assert {path: path.stat().st_mtime_ns for path in before} == before

    append(repo / "dgd/exchange/graft.py", "# edited\n")
    run(repo, "dvc", "repro", "--single-item", "cell@tiny-digits-cifar_resnet8-dgd-0")
    assert trained(repo) == {TEACHER: 1, DGD: 1}
    append(repo / "dgd/exchange/graft.py", "EDITED = 1\n")
    run(repo, "dvc", "repro", "--single-item", "cell@tiny-digits-cifar_resnet8-dgd-0")
    assert trained(repo) == {TEACHER: 1, DGD: 2}
    assert "didn't change" in run(repo, "dvc", "repro", "--single-item", "cell@tiny-digits-cifar_resnet8-dgd-0")
    assert trained(repo) == {TEACHER: 1, DGD: 2}
    assert '"top1": {"last": ' in run(repo, "dvc", "metrics", "show", "--json")
    assert json.loads((repo / f"scores/{DGD}.json").read_text()).keys() == {"top1"}


def test_patterns_of_cells_match_them_and_nothing_else():
    """On names that need care: prefixes of each other, dots, a teacher beside students."""
    paths = [
        f"b/{d}/{m}/{k}/seed{s}"
        for d in ("c10", "c1.0")
        for m in ("r8", "r8-by-r20")
        for k in ("kd", "kd-x")
        for s in (0, 1, 10)
    ]
    paths += ["b/c10/r20/baseline/seed0"]
    pattern = re.compile(one_of(paths))
    assert all(pattern.fullmatch(path) for path in paths)
    others = [
        "b/c10/r20/kd/seed0",
        "b/c10/r8/kd/seed2",
        "b/c1x0/r8/kd/seed0",
        "b/c10/r8/kd",
        "b/c10/r8/kd/seed0/x",
        "xb/c10/r8/kd/seed0",
    ]
    assert not any(pattern.fullmatch(path) for path in others)
    assert not re.fullmatch(one_of([]), "")


def test_a_config_longer_than_a_command_line_may_be_is_collected(repo):
    """Linux takes no argument above 128 KiB; a config of 2,000 methods is longer, and is stood in for by blanks."""
    shutil.copytree(ROOT / "results/decay-small", repo / "results/decay-small", ignore=shutil.ignore_patterns("cells.csv"))
    rules = (repo / "pipeline/rules/tables.smk").read_text()
    assert rules.count("config=RESOLVED") == 1
    (repo / "pipeline/rules/tables.smk").write_text(rules.replace("config=RESOLVED", "config=RESOLVED + ' ' * 200_000"))
    cells = "results/decay-small/cells.csv"
    run(repo, "snakemake", "--cores", "1", "--configfile", "config/decay-small.yaml", "--", cells)
    assert (repo / cells).read_bytes() == (ROOT / cells).read_bytes()
