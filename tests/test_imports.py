"""What may import what: the contract of pyproject.toml, and a library that works where the workflow is not."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_imports_point_down():
    run = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


def test_every_module_of_the_library_is_imported_where_the_workflow_and_triton_are_not():
    code = (
        "import sys, pkgutil, importlib\n"
        "sys.modules['pipeline'] = sys.modules['snakemake'] = sys.modules['triton'] = None\nimport dgd\n"
        "for module in pkgutil.walk_packages(dgd.__path__, 'dgd.'):\n"
        "    if module.name != 'dgd.models.triton_norm': importlib.import_module(module.name)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
