"""What decides a cell's result: fields, code, teachers, data; what makes a result stale, and what does not."""

import hashlib
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dgd import codehash, identity
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


def test_what_says_where_data_come_from_does_not_count(tmp_path):
    def hashed(**changes) -> str:
        content = {"loader": "memory", "images_sha256": "1", "sources_sha256": "2", "sizes": {"train": 5, "test": 6}}
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(content | changes))
        return identity.data_hash(path)

    plain = hashed()
    for place in ("format", "name", "arguments", "seed", "files"):
        assert hashed(**{place: "x"}) == plain, place
    assert hashed(sources_sha256="3") == plain  # the images have a hash of their own
    assert hashed(sizes={"test": 6, "train": 5}) == plain
    assert hashed(sizes={"train": 5, "test": 7}) != plain
    streamed = [hashed(loader="stream", sources_sha256=digest) for digest in ("2", "3")]
    assert streamed[0] != streamed[1]
    (tmp_path / "cut.json").write_text('{"loader": ')
    assert identity.data_hash(tmp_path / "cut.json") is None


def test_the_fields_of_a_cell_are_plain_and_complete():
    found = identity.fields(STUDENT)
    assert json.loads(json.dumps(found)) == found
    chosen = ("dataset", "seed", "student", "teacher", "networks", "exchange", "exchange.a", "recipe.lr", "recipe.epochs")
    assert [found[name] for name in chosen] == ["digits", 0, "cifar_resnet8", "cifar_resnet20", 2, "graft", 0.4, 0.1, 1]
    assert found["objective.ce.weight"] == 1
    assert found["data.train_images"] is None
    assert isinstance(found["objective.ce.weight"], int)  # 1.0 and 1 are one value
    assert not {"benchmark", "model", "method", "teachers", "objective", "data.dir", "recipe.threads"} & found.keys()
    assert identity.fields(TEACHER)["exchange"] is None
    assert not any(name.startswith("exchange.") for name in identity.fields(TEACHER))
    placed = replace(TEACHER, dataset="imagefolder:/a/birds")
    assert identity.fields(placed)["dataset"] == placed.slug != placed.dataset


def test_a_teacher_that_is_not_given_is_named():
    with pytest.raises(ValueError, match=f"^{STUDENT.path}: its teacher {TEACHER.path} is no cell that is known here$"):
        identity.of_cell(STUDENT)
    several = identity.Identities([TEACHER, STUDENT])
    assert several.of(STUDENT).teachers == (several.of(TEACHER),)
    assert several.of(STUDENT) is several.of(STUDENT)  # computed once
    other = replace(TEACHER, recipe=replace(TEACHER.recipe, lr=0.2))
    assert identity.of_cell(STUDENT, [other]).hash != of(STUDENT).hash


def test_what_one_side_lacks_is_said_so():
    was, now = {"seed": 0, "exchange": "graft", "exchange.a": 0.4}, {"seed": 0, "exchange": None, "objective.kd.t": "x"}
    assert identity.field_differences(was, now) == [
        "exchange was graft and is null",
        "objective.kd.t is not set and is x",
        "exchange.a was 0.4 and now it is not set",
    ]
    recorded = {"fields": {"seed": 0}, "code": {"a.py": "1", "b.py": "2", "c.py": "3"}}
    today = identity.Identity({"seed": 1}, {"b.py": "2", "c.py": "4", "d.py": "5"})
    assert identity.differences(recorded, today) == [
        "seed was 0 and is 1",
        "the code of c.py differs",
        "the code of d.py was not used",
        "the code of a.py is not used any more",
    ]
    assert identity.differences(recorded, identity.Identity(recorded["fields"], recorded["code"])) == []


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


def test_a_status_says_itself(made):
    wanted = of(STUDENT)
    fresh = identity.status(STUDENT, made / STUDENT.path, identity=wanted, data="d")
    assert (str(fresh), fresh.fresh, fresh.reasons) == ("fresh", True, ())
    (made / STUDENT.path / "filters.npz").unlink()
    stale = identity.status(STUDENT, str(made / STUDENT.path), identity=wanted, data="e")
    assert (str(stale), stale.fresh) == ("stale: filters.npz is missing; the data set differs", False)
    there = [name for name in identity.OUTPUTS if name != "filters.npz"]
    assert identity.status(STUDENT, made / STUDENT.path, identity=wanted, data="d", files=there).fresh


def test_what_is_recorded(made):
    (made / "data").mkdir()
    (made / "data/manifest.json").write_text('{"images_sha256": "1"}')
    found = identity.record(STUDENT, results=made, data=str(made / "data"))
    assert found.keys() == {"hash", "fields", "code", "data", "teachers"}
    assert found["hash"] == of(STUDENT).hash
    assert (found["fields"], found["code"]) == (identity.fields(STUDENT), of(STUDENT).code)
    assert found["data"] == identity.data_hash(made / "data/manifest.json") is not None
    weights = hashlib.sha256(b"{}").hexdigest()
    assert found["teachers"] == {TEACHER.path: {"identity": of(TEACHER).hash, "weights_sha256": weights}}
    (made / TEACHER.path / "provenance.json").write_text("{}")  # by older code
    (made / TEACHER.path / "model.safetensors").unlink()
    found = identity.record(STUDENT, results=str(made), data=made / "nothing")
    assert found["data"] is None
    assert found["teachers"] == {TEACHER.path: {"identity": None, "weights_sha256": None}}
    assert found["hash"] != of(STUDENT).hash


def test_a_teachers_own_teacher_counts(made):
    """A student of a student: the chain is read from the folders as it is from the cells."""
    third = replace(STUDENT, method="third", teachers=(STUDENT.path,), teacher=STUDENT.student)
    wanted = identity.of_cell(third, [TEACHER, STUDENT])
    assert identity.at(third, made).hash == wanted.hash
    other = replace(TEACHER, seed=1)
    changed = replace(STUDENT, teachers=(other.path,))
    assert identity.of_cell(replace(third, teachers=(changed.path,)), [other, changed]).hash != wanted.hash


def test_a_student_of_another_teacher_is_stale(made):
    other = replace(TEACHER, recipe=replace(TEACHER.recipe, lr=0.2))
    assert reasons(made, STUDENT, other) == [f"the teacher {TEACHER.path} is another one: recipe.lr was 0.1 and is 0.2"]
    (made / TEACHER.path / "model.safetensors").write_bytes(b"other weights")
    assert reasons(made, STUDENT) == [f"the teacher {TEACHER.path} was trained again"]
    shutil.rmtree(made / TEACHER.path)  # what it learned from is recorded: the teacher need not be there
    assert reasons(made, STUDENT) == []
    assert reasons(made, STUDENT, other) == [f"the teacher {TEACHER.path} is another one: it is not there"]


def test_students_of_more_teachers_or_of_one_that_was_made_again_are_stale(made):
    second = replace(TEACHER, seed=1)
    more = replace(STUDENT, teachers=(TEACHER.path, second.path))
    wanted = identity.of_cell(more, [TEACHER, second])
    found = identity.status(STUDENT, made / STUDENT.path, identity=wanted, data="d").reasons
    assert found == ("it had 1 teachers and has 2",)
    path = made / TEACHER.path / "provenance.json"
    content = json.loads(path.read_text())
    content["identity"] |= {"hash": "0", "fields": content["identity"]["fields"] | {"seed": 9}}
    path.write_text(json.dumps(content))  # the teacher's folder holds another cell, the student learned from the right one
    assert reasons(made, STUDENT) == []
    path = made / STUDENT.path / "provenance.json"
    content = json.loads(path.read_text())
    content["identity"]["teachers"][TEACHER.path]["identity"] = "1"
    path.write_text(json.dumps(content))
    assert reasons(made, STUDENT) == [f"the teacher {TEACHER.path} is another one: seed was 9 and is 0"]


def test_edited_code_is_named(made, source):
    append(source / "exchange/graft.py", "\nNEW = 1\n")
    assert reasons(made, STUDENT) == ["the code of dgd/exchange/graft.py differs"]
    assert reasons(made, TEACHER) == []


def test_a_result_of_older_code_has_no_identity(made):
    path = made / TEACHER.path / "provenance.json"
    path.write_text(json.dumps({"cell": TEACHER.path}))
    changed = replace(TEACHER, recipe=replace(TEACHER.recipe, lr=0.2))
    assert reasons(made, changed) == ["recipe.lr was 0.1 and is 0.2", "made before identities were recorded"]


def test_the_cell_of_a_folder(tmp_path):
    assert identity.cell_of(tmp_path) is None
    path = tmp_path / "config.yaml"
    for text in ("- 1\n", "", "seed: 0\n"):
        path.write_text(text)
        assert identity.cell_of(tmp_path) is None, text
    path.write_text(json.dumps(STUDENT.plain()))
    assert identity.cell_of(str(tmp_path)) == STUDENT
    path.write_text(json.dumps(STUDENT.plain() | {"recipe": {"lr": "fast", "momentum": 7}}))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*lr") as error:
        identity.cell_of(tmp_path)
    assert "\n" not in str(error.value)
    assert identity.file_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert identity.file_hash(tmp_path / "nothing") is None


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


def test_only_a_finished_and_whole_cell_of_the_same_teacher_is_taken_over(made):
    wanted, folder = of(STUDENT), made / STUDENT.path
    assert identity.find(str(made), wanted, "d") == folder
    assert identity.find(made, wanted, "d", but=str(folder)) is None
    for name, text in (("metrics.json", '{"status": "diverged"}'), ("metrics.json", "{"), ("provenance.json", '{"cell": "x"}')):
        before = (folder / name).read_text()
        (folder / name).write_text(text)
        assert identity.find(made, wanted, "d") is None, text
        (folder / name).write_text(before)
    assert identity.find(made, wanted, "d") == folder
    other = identity.of_cell(STUDENT, [replace(TEACHER, recipe=replace(TEACHER.recipe, lr=0.2))])
    assert identity.find(made, other, "d") is None
    content = json.loads((folder / "provenance.json").read_text())
    content["identity"]["teachers"][TEACHER.path]["identity"] = "another"
    (folder / "provenance.json").write_text(json.dumps(content))
    assert identity.find(made, wanted, "d") is None


def test_a_first_folder_that_does_not_fit_hides_no_second(made):
    again = replace(STUDENT, method="zzz")  # after "dgd" in the order of the folders
    identity.adopt(made / STUDENT.path, made / again.path, again)
    for change in ({"fields": {}}, {"data": "e"}, {"teachers": {}}):
        path = made / STUDENT.path / "provenance.json"
        before = path.read_text()
        content = json.loads(before)
        path.write_text(json.dumps(content | {"identity": content["identity"] | change}))
        assert identity.find(made, of(STUDENT), "d") == made / again.path, change
        path.write_text(before)
    assert identity.find(made, of(STUDENT), "d") == made / STUDENT.path
    assert identity.find(made, of(STUDENT), "d", but=made / STUDENT.path) == made / again.path
    (made / STUDENT.path / "model.safetensors").unlink()
    assert identity.find(made, of(STUDENT), "d") == made / again.path


def test_what_is_taken_over_has_the_labels_of_the_other_cell(made):
    source = made / STUDENT.path
    (source / "model.safetensors").write_bytes(b"weights")
    (source / "history.csv").write_text("epoch\n0\n")
    (source / "metrics.json").write_text(json.dumps({"status": "finished", "cell": {"benchmark": "b", "seed": 0}, "last": 5}))
    content = json.loads((source / "provenance.json").read_text()) | {"teachers": {TEACHER.path: "weights"}, "host": "h"}
    (source / "provenance.json").write_text(json.dumps(content))
    taken = TEACHER.path.replace("b/", "c/", 1)
    cell = replace(STUDENT, benchmark="c", model="m", method="kd-2", teachers=(taken,))
    metrics = identity.adopt(str(source), str(made / cell.path), cell)
    folder = made / cell.path
    assert sorted(path.name for path in folder.iterdir()) == sorted(identity.OUTPUTS)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert (folder / "history.csv").read_text() == "epoch\n0\n"
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    labels = {"benchmark": "c", "dataset": "digits", "model": "m", "method": "kd-2", "seed": 0}
    assert metrics == {"status": "finished", "cell": labels, "last": 5}
    assert yaml.safe_load((folder / "config.yaml").read_text()) == cell.plain()
    found = json.loads((folder / "provenance.json").read_text())
    assert (found["cell"], found["origin"], found["host"]) == (cell.path, STUDENT.path, "h")
    assert found["teachers"] == {taken: "weights"}
    assert found["identity"]["teachers"] == {taken: content["identity"]["teachers"][TEACHER.path]}
    assert {key: found["identity"][key] for key in ("hash", "fields", "code", "data")} == {
        key: content["identity"][key] for key in ("hash", "fields", "code", "data")
    }
    third = replace(cell, benchmark="d")
    identity.adopt(folder, made / third.path, third)  # onto a folder that is there, too
    identity.adopt(folder, made / third.path, third)
    assert json.loads((made / third.path / "provenance.json").read_text())["origin"] == STUDENT.path  # where it was trained


def test_nothing_here_needs_torch():
    import subprocess

    code = "import sys; from dgd import identity, frozen; sys.exit('torch' in sys.modules)"
    environment = {"DGD_NETWORKS": "no", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
