"""What may import what: the library never the pipeline, training never what only reads."""

import subprocess
import sys

from dgd import provenance


def test_nothing_that_trains_imports_what_only_reads():
    """The readers are left out of the code hash; that is only right while training cannot depend on them."""
    code = (
        "import sys, dgd.training;"
        f"bad = [m for m in sys.modules if m.startswith('dgd.') and m.split('.')[1] + '.py' in {provenance.READERS!r}];"
        "sys.exit(' '.join(bad) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_library_never_imports_the_pipeline():
    """Every module of dgd is imported where the pipeline cannot be."""
    code = (
        "import sys, pkgutil, importlib\nsys.modules['pipeline'] = None\nimport dgd\n"
        "for module in pkgutil.walk_packages(dgd.__path__, 'dgd.'): importlib.import_module(module.name)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_code_hash_sees_every_training_file(tmp_path, monkeypatch):
    import shutil

    copy = tmp_path / "dgd"
    shutil.copytree(provenance.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    before = provenance.code_hash()
    for name, changes in (
        ("grafting.py", True),
        ("objectives/kd.py", True),
        ("tables.py", False),
        ("cli.py", False),
        ("claims.py", False),
    ):
        (copy / name).write_text((copy / name).read_text() + "\n# edited\n")
        assert (provenance.code_hash() != before) is changes, name
        before = provenance.code_hash()
