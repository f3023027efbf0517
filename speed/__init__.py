"""Measure speed: our training loop against a plain one and against the machine's limit."""

import shutil
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "pipeline", "dgd", "papers", "profiles", "envs")


def copy_workflow(folder: Path, parts: Iterable[str] = PARTS) -> None:
    """Copy the workflow without results or data, so that it runs apart from this one; `parts` are its files and folders."""
    for part in parts:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
