"""Which code a module uses, by its imports, and what of it counts."""

from pathlib import Path

import pytest

from dgd import codehash


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """A package in which a test writes modules."""
    (tmp_path / "dgd").mkdir()
    (tmp_path / "dgd/__init__.py").write_text("")
    monkeypatch.setattr(codehash, "FOLDERS", dict.fromkeys(codehash.FOLDERS, tmp_path))
    return tmp_path / "dgd"


def test_formatting_and_docstrings_do_not_count(source):
    path = source / "two.py"
    path.write_text('"""One."""\n\ndef f(a):\n    """Do."""\n    return {"a": a}\n')
    before = codehash.code("dgd.two")
    path.write_text("def f(\n    a,\n):\n    return {'a': a}  # comment\n")
    assert codehash.code("dgd.two") == before
    path.write_text("def f(a):\n    return {'b': a}\n")
    assert codehash.code("dgd.two") != before


def test_imports_are_followed_wherever_they_stand(source):
    (source / "leaf.py").write_text("X = 1\n")
    for text in (
        "from dgd import leaf\n",
        "from dgd.leaf import X\n",
        "import dgd.leaf as other\n",
        "from . import leaf\n",
        "def f():\n    from dgd.leaf import X\n    return X\n",
    ):
        (source / "root.py").write_text(text)
        assert "dgd/leaf.py" in codehash.files("dgd.root"), text
    with pytest.raises(ValueError, match=r"dgd\.nowhere: no such module"):
        codehash.code("dgd.nowhere")


def test_of_a_package_only_what_is_asked_for_is_followed(source):
    (source / "rooms").mkdir()
    (source / "rooms/one.py").write_text("ONE = 1\n")
    (source / "rooms/two.py").write_text("TWO = 2\n")
    init = "from dgd.rooms.one import ONE\nfrom dgd.rooms.two import TWO\n"
    (source / "rooms/__init__.py").write_text(init + '__all__ = ["ONE", "TWO"]\n')
    (source / "root.py").write_text("from dgd.rooms import ONE\n")
    rooms = [name for name in codehash.files("dgd.root") if "rooms" in name]
    assert rooms == ["dgd/rooms/__init__.py", "dgd/rooms/one.py"]
    (source / "root.py").write_text("from dgd import rooms\nx = rooms.TWO\n")
    assert "dgd/rooms/two.py" in codehash.files("dgd.root")
    assert "dgd/rooms/one.py" not in codehash.files("dgd.root")
    (source / "rooms/__init__.py").write_text(init + "BOTH = ONE + TWO\n")
    assert {"dgd/rooms/one.py", "dgd/rooms/two.py"} <= codehash.files("dgd.root").keys()
