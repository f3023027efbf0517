"""docs/results-with-dvc.md as a reader follows it: its commands, in its order, in a git clone with a small benchmark."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from dgd import running
from pipeline import record
from pipeline.cells import render
from speed import copy_workflow

ROOT = Path(__file__).parents[1]
PARTS = (
    *("Snakefile", "pipeline", "dgd", "config", "papers", "profiles", "envs", "pyproject.toml", "LICENSE"),
    *(".dvcignore", ".gitignore"),
)
DGD = "quick/digits/cifar_resnet8/dgd/seed0"
BASELINE, TEACHER = "quick/digits/cifar_resnet8/baseline/seed0", "quick/digits/cifar_resnet20/baseline/seed0"
OTHERS = ("cifar_resnet20/baseline", "cifar_resnet8/dgd")
NOBODY = {f"GIT_{who}_{what}": "nobody@nowhere" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def test_dvc_yaml_is_that_of_the_config():
    assert render([Path("config/quick.yaml")]) == (ROOT / "dvc.yaml").read_text(), "run `make cells`"


def test_only_what_is_fresh_is_recorded(tmp_path, monkeypatch, capfd):
    """A stage is kept for a cell that is trained, with its weights, its data and its score; the others are named."""
    monkeypatch.chdir(tmp_path)
    config = Path("tiny.yaml")
    config.write_text((ROOT / "config/test/tiny.yaml").read_text())
    assert running.train(running.order(config, "*/cifar_resnet8/baseline/*"), "results")
    kept, left = record.stages(config)
    assert kept == ["cell@tiny-digits-cifar_resnet8-baseline-0", "data@tiny-digits"]
    assert [line.split()[0] for line in left[:2]] == [f"results/tiny/digits/{name}/seed0" for name in OTHERS]
    assert "metrics.json is missing" in left[0]
    assert "the tables of results/tiny are not kept" in left[2]
    own = Path("results/tiny/digits/cifar_resnet8/baseline/seed0")
    found = json.loads((own / "metrics.json").read_text())["top1"]
    assert json.loads(Path("scores/tiny/digits/cifar_resnet8/baseline/seed0.json").read_text()) == {"top1": found}
    (own / "model.safetensors").unlink()
    kept, left = record.stages(config)
    assert kept == []
    assert any("model.safetensors: no such file; a cell is kept with its weights" in line for line in left)
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 3"))
    assert any("recipe.epochs was 2 and is 3" in line for line in record.stages(config)[1])


def documented() -> list[str]:
    """The commands of the page: lines of its code blocks."""
    text = (ROOT / "docs/results-with-dvc.md").read_text()
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def follow(folder: Path, commands: list[str]) -> dict[str, str]:
    """Run commands in one shell, and return each with what it printed; the first that fails ends it."""
    lines = ["set -euo pipefail", 'dgd-bench() { python -m dgd.cli "$@"; }']
    for number, command in enumerate(commands):
        lines += [f"echo '>>> {number}'", command]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE_", "DVC_", "GIT_"))}
    env |= NOBODY | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
        "DGD_NETWORKS": "no",
        "OMP_NUM_THREADS": "1",
    }
    env |= {"XDG_CACHE_HOME": str(folder.parent / "cache"), "HOME": str(folder.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash"], input="\n".join(lines), cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout
    found = re.split(r"^>>> (\d+)\n", done.stdout, flags=re.MULTILINE)[1:]
    return {commands[int(number)]: text for number, text in zip(found[::2], found[1::2], strict=True)}


def trained(folder: Path) -> Counter:
    """How often each cell was trained, by Snakemake's own logs."""
    logs = "".join(path.read_text() for path in folder.glob(".snakemake/log/*.log"))
    return Counter(re.findall(r"^Job \d+: training (?:the teacher )?(\S+)$", logs, re.MULTILINE))


def damaged(cache: Path) -> list[Path]:
    """The files of DVC's cache that are not what their names say."""
    return [
        path
        for path in cache.rglob("*")
        if path.is_file() and hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.name.removesuffix(".dir")
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_can_be_followed(tmp_path):
    """Nothing that was kept is trained again: not in the clone, not after an experiment, not by DVC's own commands."""
    one, clone, other = (tmp_path / name for name in ("one", "clone", "other"))
    one.mkdir()
    copy_workflow(one, PARTS)
    (one / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        (one / ".dvc" / name).write_text((ROOT / ".dvc" / name).read_text())
    given = yaml.safe_load((ROOT / "config/quick.yaml").read_text())
    given |= {"seeds": [0], "methods": ["baseline", "dgd"], "together": 1}
    given["recipe"]["epochs"], given["teacher_recipe"]["epochs"] = 6, 1
    (one / "config/quick.yaml").write_text(yaml.safe_dump(given))
    follow(one, ["git init --quiet .", "python -m pipeline.cells config/quick.yaml", "git add . && git commit -qm one"])

    def said(start: str) -> str:
        return next(text for command, text in found.items() if command.startswith(start))

    found = follow(one, documented())
    assert trained(one) == dict.fromkeys([DGD, BASELINE, TEACHER], 1)
    assert "5 stages are in dvc.lock, 0 are not" in said("python -m pipeline.record")
    assert re.search(r"\d\d files pushed", said("dvc push"))
    assert said("dgd-bench status").count("fresh") == 3
    assert "3 cells" in said("dgd-bench verify")
    assert "0 faults" in said("dgd-bench verify")
    assert "Nothing to be done" in said("snakemake -n")
    assert (clone / f"results/{DGD}/model.safetensors").read_bytes() == (one / f"results/{DGD}/model.safetensors").read_bytes()
    assert (clone / "data/prepared/quick/digits/images.safetensors").is_file()

    assert trained(clone) == {DGD: 1}, "by the experiment"
    rows = [line.split()[:2] for line in said("dvc metrics diff").splitlines()[1:] if line]
    assert rows
    assert {path for path, _ in rows} == {f"scores/{DGD}.json"}
    assert "recipe.epochs" in said("dvc params diff")
    plot = next((clone / "dvc_plots").glob("index.html")).read_text()
    assert plot.count("test_top1_0") > 2
    assert "recipe.epochs" in said("dvc exp show")
    for command in ("dvc repro 'cell@", "dvc repro tables-quick"):
        assert "Data and pipelines are up to date" in said(command)
    assert trained(other) == {}
    assert "3 came in, 0 there already, 0 left out" in said("dgd-bench import")
    assert "dgd" in said("dgd-bench table")

    # DVC's cache, linked into the results, is not written into by a training, with Snakemake or without it.
    run = [
        "dvc config --local cache.type hardlink && dvc checkout --quiet --relink",
        f"test $(stat -c %h results/{DGD}/metrics.json) = 2",
        "echo 'EDITED = 1' >> dgd/exchange/graft.py",
        "snakemake --cores 2",
        "dgd-bench train config/quick.yaml '*/baseline/*' --again",
    ]
    follow(clone, run)
    assert trained(clone) == {DGD: 2}
    assert damaged(clone / ".dvc/cache/files/md5") == []
    back = "git checkout --quiet . && dvc checkout --quiet --force"
    status = "dgd-bench status config/quick.yaml"
    assert follow(clone, [back, status])[status].count("fresh") == 3
