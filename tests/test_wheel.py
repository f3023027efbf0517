"""The package where no checkout is: its wheel in a folder of its own, called from an empty one."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers import ROOT

TINY = """
benchmark: tiny
seeds: [0]
datasets: [digits]
data: {train_images: 40}
pairs: [{student: cifar_resnet8}]
methods: [baseline, label-smoothing]
recipe: {epochs: 1, batch_size: 20, device: cpu}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that the wheel is installed in; it was built from a copy, so that nothing is written here."""
    root = tmp_path_factory.mktemp("wheel")
    kept = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("dgd", "papers", "config"):
        shutil.copytree(ROOT / name, root / "source" / name, symlinks=True, ignore=kept)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(root), str(root / "source")]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = root.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"dgd/{path.relative_to(ROOT)}" for path in (ROOT / "papers").rglob("*.yaml")} <= set(names)
    assert {f"dgd/benchmarks/{path.name}" for path in (ROOT / "config").glob("*.yaml")} <= set(names)
    assert "dgd/strided_rows.csv" in names
    assert not [name for name in names if name.startswith(("pipeline", "tests", "config", "papers"))]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(root / "installed"), str(wheel)], check=True)
    return root / "installed"


@pytest.mark.slow
def test_the_command_works_in_an_empty_folder(installed, tmp_path):
    def run(*words: str, code: int = 0) -> str:
        # -P: what is in the folder that the command is called from is not imported
        command = [sys.executable, "-P", "-c", "import sys; from dgd import cli; sys.exit(cli.main(sys.argv[1:]))", *words]
        env = {**os.environ, "PYTHONPATH": str(installed)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout

    where = subprocess.run(
        [sys.executable, "-P", "-c", "import dgd; print(dgd.__file__)"],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(installed))
    assert "quick" in {row["benchmark"] for row in json.loads(run("list", "benchmarks", "--json"))}
    assert run("list", "cells", "quick").startswith("quick/digits/")
    (tmp_path / "tiny.yaml").write_text(TINY)
    run("train", "tiny.yaml")
    assert run("status", "tiny.yaml").endswith("2 cells: 2 done\n")
    assert "| digits     | cifar_resnet8       | baseline        |" in run("table", "results/tiny")
    assert "dgd-t8-dgd-over-kd" in run("claims", "results/tiny", "--paper", "dgd")
    assert "title = {{Decoupled Knowledge Distillation}}" in run("cite", "zoo-small")
    assert "my_loss.py" in run("new", "term", "my-loss")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "my_loss.py", "results", "tiny.yaml"]
