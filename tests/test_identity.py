"""What decides a cell's result: fields, code, teachers, data; what makes a result stale, and what does not."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dgd import codehash, config, frozen, identity, running
from dgd.cell import Cell, Data, Recipe, exchange

ROOT = Path(__file__).parents[1]
TEACHER = Cell("b", "digits", "cifar_resnet20", "baseline", 0, "cifar_resnet20", recipe=Recipe(epochs=1, batch_size=20))
STUDENT = replace(
    TEACHER,
    model="cifar_resnet8",
    method="dgd",
    student="cifar_resnet8",
    teacher="cifar_resnet20",
    networks=2,
    teachers=(TEACHER.path,),
    objective={"ce": {"weight": 1.0}, "kd": {"weight": 1.0}},
    exchange=exchange({"name": "graft"}),
)


def of(cell: Cell) -> identity.Identity:
    return identity.of_cell(cell, [TEACHER])


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """A copy of the package, whose files a test may edit."""
    shutil.copytree(ROOT / "dgd", tmp_path / "dgd", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(codehash, "ROOT", tmp_path)
    return tmp_path / "dgd"


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


# ------------------------------------------------------------------------------------------------------------- fields


@pytest.mark.parametrize(
    "changes",
    [
        {"benchmark": "other"},
        {"model": "x"},
        {"method": "kd-2"},
        {"recipe": replace(STUDENT.recipe, threads=2, device="cpu")},
        {"recipe": replace(STUDENT.recipe, ranks_per_network=1)},
        {"data": Data(dir="elsewhere", workers=0)},
        {"objective": {"kd": {"weight": 1}, "ce": {"weight": 1}}},
    ],
)
def test_labels_places_and_ways_of_running_decide_nothing(changes):
    assert of(replace(STUDENT, **changes)).hash == of(STUDENT).hash


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"recipe": replace(STUDENT.recipe, lr=0.2)}, "recipe.lr was 0.1 and is 0.2"),
        ({"recipe": replace(STUDENT.recipe, ranks_per_network=2)}, "recipe.ranks_per_network was 0 and is 2"),
        ({"data": Data(train_images=40)}, "data.train_images was null and is 40"),
        ({"exchange": exchange({"name": "graft", "a": 0.5})}, "exchange.a was 0.4 and is 0.5"),
        ({"exchange": None}, "exchange was graft and is null"),
        ({"objective": {"ce": {"weight": 1.0}, "kd": {"weight": 2.0}}}, "objective.kd.weight was 1 and is 2"),
        ({"student": "cifar_resnet20"}, "student was cifar_resnet8 and is cifar_resnet20"),
    ],
)
def test_what_decides_is_named_with_both_values(changes, reason):
    changed = of(replace(STUDENT, **changes))
    assert changed.hash != of(STUDENT).hash
    assert reason in identity.field_differences(of(STUDENT).fields, changed.fields)


def test_a_key_that_came_later_has_its_default_in_an_older_record():
    older = {key: value for key, value in of(STUDENT).fields.items() if key not in ("recipe.average_decay", "exchange.until")}
    assert identity.field_differences(older, of(STUDENT).fields) == []
    later = of(replace(STUDENT, recipe=replace(STUDENT.recipe, average_decay=0.5)))
    assert identity.field_differences(older, later.fields) == ["recipe.average_decay was 0.9 and is 0.5"]


def test_a_folder_of_images_may_move_and_its_data_decide(tmp_path):
    moved = [replace(TEACHER, dataset=f"imagefolder:{place}/birds") for place in ("/a", "/b")]
    assert of(moved[0]).hash == of(moved[1]).hash
    manifest = {
        "name": "imagefolder:/a/birds",
        "loader": "memory",
        "images_sha256": "1",
        "mean": [0.5],
        "arguments": {"seed": 0},
    }
    hashes = []
    for change in ({}, {"name": "imagefolder:/b/birds"}, {"images_sha256": "2"}, {"mean": [0.4]}):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest | change, indent=len(hashes) + 1))
        hashes.append(identity.data_hash(tmp_path / "manifest.json"))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    assert identity.data_hash(tmp_path / "nothing.json") is None


# --------------------------------------------------------------------------------------------------------------- code


def test_only_the_code_that_a_cell_uses_is_part_of_it():
    used = set(of(STUDENT).code)
    assert {
        "dgd/train/cell.py",
        "dgd/train/group.py",
        "dgd/objectives/kd.py",
        "dgd/exchange/graft.py",
        "dgd/filters.py",
    } <= used
    assert "dgd/models/cifar_resnet.py" in used
    for other in (
        "objectives/hkd.py",
        "exchange/repr.py",
        "models/cifar_vgg.py",
        "cli.py",
        "identity.py",
        "read/statistics.py",
    ):
        assert f"dgd/{other}" not in used, other
    assert not any(name.startswith("dgd/models/cifar") for name in of(replace(TEACHER, student="resnet18")).code)
    assert "dgd/exchange/graft.py" not in of(TEACHER).code


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [
        ("objectives/kd.py", "\n# a comment\n", False),
        ("objectives/kd.py", '\n"""A text that stands alone."""\n', False),
        ("objectives/kd.py", "\nNEW = 1\n", True),
        ("objectives/hkd.py", "\nNEW = 1\n", False),
        ("train/step.py", "\nNEW = 1\n", True),
        ("exchange/graft.py", "\nNEW = 1\n", True),
        ("models/cifar_vgg.py", "\nNEW = 1\n", False),
        ("models/__init__.py", "\nfrom dgd.models.new import New\n", False),
        ("objectives/new.py", "TERM = 1\n", False),
        ("data/loader.py", "\nNEW = 1\n", True),
        ("data/sources.py", "\nNEW = 1\n", False),
        ("read/statistics.py", "\nNEW = 1\n", False),
    ],
)
def test_edits_change_the_identity_of_the_cells_that_use_the_code(source, name, text, changes):
    before = of(STUDENT)
    (source / "models/new.py").write_text("class New: ...\n")
    path = source / name
    path.write_text((path.read_text() if path.is_file() else "") + text)
    assert (of(STUDENT).hash != before.hash) is changes
    differing = [file for file in before.code if before.code[file] != of(STUDENT).code[file]]
    assert differing == ([f"dgd/{name}"] if changes else [])


def test_formatting_and_docstrings_do_not_count(source):
    path = source / "two.py"
    path.write_text('"""One."""\n\ndef f(a):\n    """Do."""\n    return {"a": a}\n')
    before = identity.code("dgd.two")
    path.write_text("def f(\n    a,\n):\n    return {'a': a}  # comment\n")
    assert identity.code("dgd.two") == before
    path.write_text("def f(a):\n    return {'b': a}\n")
    assert identity.code("dgd.two") != before


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
        assert "dgd/leaf.py" in identity.code_files("dgd.root"), text
    with pytest.raises(ValueError, match=r"dgd\.nowhere: no such module"):
        identity.code("dgd.nowhere")


def test_of_a_package_only_what_is_asked_for_is_followed(source):
    (source / "rooms").mkdir()
    (source / "rooms/one.py").write_text("ONE = 1\n")
    (source / "rooms/two.py").write_text("TWO = 2\n")
    init = "from dgd.rooms.one import ONE\nfrom dgd.rooms.two import TWO\n"
    (source / "rooms/__init__.py").write_text(init + '__all__ = ["ONE", "TWO"]\n')
    (source / "root.py").write_text("from dgd.rooms import ONE\n")
    rooms = [name for name in identity.code_files("dgd.root") if "rooms" in name]
    assert rooms == ["dgd/rooms/__init__.py", "dgd/rooms/one.py"]
    (source / "root.py").write_text("from dgd import rooms\nx = rooms.TWO\n")
    assert "dgd/rooms/two.py" in identity.code_files("dgd.root")
    assert "dgd/rooms/one.py" not in identity.code_files("dgd.root")
    (source / "rooms/__init__.py").write_text(init + "BOTH = ONE + TWO\n")
    assert {"dgd/rooms/one.py", "dgd/rooms/two.py"} <= identity.code_files("dgd.root").keys()


# ------------------------------------------------------------------------------------------------------------- status


@pytest.fixture
def made(tmp_path) -> Path:
    """The root of results with a teacher and a student as `train_cell` leaves them, but for what status does not read."""
    for cell in (TEACHER, STUDENT):
        folder = tmp_path / cell.path
        folder.mkdir(parents=True)
        for name in identity.OUTPUTS:
            (folder / name).write_bytes(b"{}")
        (folder / "config.yaml").write_text(json.dumps(cell.plain()))
        (folder / "metrics.json").write_text(json.dumps({"status": "finished", "cell": {}}))
        record = identity.record(cell, results=tmp_path, data=tmp_path / "nothing")
        (folder / "provenance.json").write_text(json.dumps({"cell": cell.path, "identity": record | {"data": "d"}}))
    return tmp_path


def reasons(made: Path, cell: Cell, teacher: Cell = TEACHER, data: str | None = "d") -> list[str]:
    wanted = identity.of_cell(cell, [teacher])
    return list(identity.status(cell, made / cell.path, identity=wanted, data=data).reasons)


def test_a_result_is_fresh_until_something_that_decides_differs(made):
    assert reasons(made, TEACHER) == reasons(made, STUDENT) == reasons(made, STUDENT, data=None) == []
    assert reasons(made, STUDENT, data="e") == ["the data set differs"]
    (made / STUDENT.path / "filters.npz").unlink()
    assert reasons(made, STUDENT) == ["filters.npz is missing"]
    (made / STUDENT.path / "metrics.json").unlink()
    assert reasons(made, STUDENT) == ["metrics.json is missing"]


def test_a_student_of_another_teacher_is_stale(made):
    other = replace(TEACHER, recipe=replace(TEACHER.recipe, lr=0.2))
    assert reasons(made, STUDENT, other) == [f"the teacher {TEACHER.path} is another one: recipe.lr was 0.1 and is 0.2"]
    (made / TEACHER.path / "model.safetensors").write_bytes(b"other weights")
    assert reasons(made, STUDENT) == [f"the teacher {TEACHER.path} was trained again"]
    shutil.rmtree(made / TEACHER.path)  # what it learned from is recorded: the teacher need not be there
    assert reasons(made, STUDENT) == []


def test_edited_code_is_named(made, source):
    append(source / "exchange/graft.py", "\nNEW = 1\n")
    assert reasons(made, STUDENT) == ["the code of dgd/exchange/graft.py differs"]
    assert reasons(made, TEACHER) == []


def test_a_result_of_older_code_has_no_identity(made):
    path = made / TEACHER.path / "provenance.json"
    path.write_text(json.dumps({"cell": TEACHER.path}))
    changed = replace(TEACHER, recipe=replace(TEACHER.recipe, lr=0.2))
    assert reasons(made, changed) == ["recipe.lr was 0.1 and is 0.2", "made before identities were recorded"]


# ----------------------------------------------------------------------------------------------------------- elsewhere


def test_the_same_cell_is_found_in_another_benchmark(made):
    cell = replace(STUDENT, benchmark="c", teachers=(TEACHER.path.replace("b/", "c/", 1),))
    teacher = replace(TEACHER, benchmark="c")
    wanted = identity.of_cell(cell, [teacher])
    assert identity.find(made, wanted, "d") == made / STUDENT.path
    assert identity.find(made, wanted, "e") is None
    assert identity.find(made, wanted, None) is None
    assert identity.find(made, wanted, "d", but=made / STUDENT.path) is None
    assert identity.find(made, identity.of_cell(replace(cell, seed=1), [teacher]), "d") is None
    identity.adopt(made / TEACHER.path, made / teacher.path, teacher)
    identity.adopt(made / STUDENT.path, made / cell.path, cell)
    assert identity.status(cell, made / cell.path, identity=wanted, data="d").fresh
    assert json.loads((made / cell.path / "provenance.json").read_text())["origin"] == STUDENT.path
    assert identity.cell_of(made / cell.path) == cell
    (made / STUDENT.path / "model.safetensors").unlink()
    (made / cell.path / "model.safetensors").unlink()
    assert identity.find(made, wanted, "d") is None  # without weights it can teach nobody


# -------------------------------------------------------------------------------------------------------------- frozen

FROZEN = ("cifar10-small", "controls-small", "decay-small", "fast-path", "zoo-small")


@pytest.mark.parametrize("name", FROZEN)
def test_committed_benchmarks_are_frozen_and_hold_what_their_configs_ask_for(name):
    folder = ROOT / "results" / name
    cells = running.benchmark_cells(ROOT / f"config/{name}.yaml")
    assert frozen.is_frozen(folder)
    assert sum(row["cells"] for row in frozen.made_by(folder)) == len(cells)
    assert frozen.differences(folder, cells, {cell.slug: "nowhere" for cell in cells}) == ""


def test_a_config_that_differs_from_a_frozen_benchmark_is_refused_in_one_line(tmp_path):
    folder = ROOT / "results/decay-small"
    benchmark = config.load(ROOT / "config/decay-small.yaml")
    cells = config.cells(replace(benchmark, recipe=replace(benchmark.recipe, lr=0.2)))
    data = {"cifar10": tmp_path}
    with pytest.raises(
        ValueError, match=r"decay-small is frozen, .*recipe\.lr was 0\.1 and is 0\.2 \(.* and 45 more\)"
    ) as error:
        frozen.refuse(folder, cells, data)
    assert "\n" not in str(error.value)
    (tmp_path / "manifest.json").write_text("{}")
    assert "the data set differs" in frozen.differences(folder, config.cells(benchmark), data)
    more = config.cells(replace(benchmark, seeds=(0, 1, 2, 3, 4, 5)))
    assert "a cell is asked for that is not there" in frozen.differences(folder, more, {"cifar10": "nowhere"})


def test_nothing_here_needs_torch():
    import subprocess

    code = "import sys; from dgd import identity, frozen; sys.exit('torch' in sys.modules)"
    environment = {"DGD_NETWORKS": "no", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
