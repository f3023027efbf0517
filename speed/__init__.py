"""Measure speed: our training loop against a plain one and against the machine's limit."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "pipeline", "dgd", "papers", "profiles", "envs")


def copy_workflow(folder: Path) -> None:
    """Copy the workflow without configs, results or data, so that it runs apart from this one."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
