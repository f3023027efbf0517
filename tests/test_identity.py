"""What decides a cell's result: fields, code, teachers, data; what makes a result stale, and what does not."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from taught import STUDENT, TEACHER, leave, of

from dgd import codehash, identity
from dgd.cell import Cell, Data, exchange

ROOT = Path(__file__).parents[1]


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """A copy of the package, whose files a test may edit."""
    shutil.copytree(ROOT / "dgd", tmp_path / "dgd", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(codehash, "FOLDERS", dict.fromkeys(codehash.FOLDERS, tmp_path))
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


LATER = ("recipe.average_decay", "exchange.until", "data.train_images")


def test_a_key_that_came_later_has_its_default_in_an_older_record():
    older = {key: value for key, value in of(STUDENT).fields.items() if key not in LATER}
    assert identity.field_differences(older, of(STUDENT).fields) == []
    alone = {key: value for key, value in of(TEACHER).fields.items() if key != "networks"}
    assert identity.field_differences(alone, of(TEACHER).fields) == []
    assert identity.field_differences(alone, of(replace(TEACHER, networks=2)).fields) == ["networks was 1 and is 2"]
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
    hashes = set()
    for text in ('{"loader": "a"}', '{"loader": "bc"}'):  # a change shows in the size, too
        (tmp_path / "same.json").write_text(text)
        os.utime(tmp_path / "same.json", ns=(1, 1))
        hashes.add(identity.data_hash(tmp_path / "same.json"))
    assert len(hashes) == 2
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
    assert {name for name in found if name.startswith("objective.ce.")} == {"objective.ce.weight", "objective.ce.smoothing"}
    assert identity.fields(replace(STUDENT, objective={"ce": {}, "kd": {}})) == found  # the weight's default
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
    assert identity.field_differences({"student": "X1"}, {"student": "1X"}) == ["student was X1 and is 1X"]
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
    assert "dgd/models/cifar_vgg.py" in of(replace(STUDENT, teacher="cifar_vgg16_bn")).code  # the teacher's network too


def test_cells_that_are_asked_for_together_have_the_code_that_each_has_alone():
    made_of = [
        {"exchange": exchange({"name": "average"})},
        {"exchange": None},
        {"objective": {"ce": {"weight": 1.0}}},
        {"student": "cifar_mobilenetv2"},
        {"teacher": "cifar_vgg16_bn"},
        {"dataset": "imagefolder:/a/birds"},
    ]
    cells = [STUDENT, *(replace(STUDENT, method=f"m{n}", **changes) for n, changes in enumerate(made_of))]
    together = identity.Identities([TEACHER, *cells])
    assert [together.of(cell).code for cell in cells] == [of(cell).code for cell in cells]
    assert len({tuple(of(cell).code) for cell in cells}) == len(cells)
    reading = ["dgd/data/sources.py" in of(cell).code for cell in cells]
    assert reading == [cell.dataset.startswith("imagefolder:") for cell in cells]


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
    """The root of results with a teacher and its student."""
    leave(tmp_path)
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


def test_the_states_of_cells(made, tmp_path):
    (made / STUDENT.path / "model.safetensors").unlink()  # committed results come without weights
    assert identity.states([TEACHER, STUDENT], made) == {cell.path: identity.Fresh() for cell in (TEACHER, STUDENT)}
    assert identity.states(iter([STUDENT]), str(made), known=[TEACHER]) == {STUDENT.path: identity.Fresh()}
    changed = replace(TEACHER, recipe=replace(TEACHER.recipe, lr=0.2))
    assert identity.states([changed], made) == {TEACHER.path: identity.Stale(("recipe.lr was 0.1 and is 0.2",))}
    placed = replace(TEACHER, data=Data(dir=str(tmp_path / "data")))
    folder = tmp_path / "data/prepared/b/digits"
    assert identity.prepared_folder(placed) == folder
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    assert identity.states([placed], made)[TEACHER.path].reasons == ("the data set differs",)


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
    record = identity.record(third, results=made, data=made / "nothing")
    (made / third.path).mkdir(parents=True)
    (made / third.path / "provenance.json").write_text(json.dumps({"identity": record}))
    fourth = replace(STUDENT, method="fourth", teachers=(third.path,), teacher=third.student)
    assert identity.at(fourth, made).hash == identity.of_cell(fourth, [TEACHER, STUDENT, third]).hash
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


def test_each_teacher_that_is_another_one_is_named(made):
    both = [TEACHER, replace(TEACHER, seed=1)]
    student = replace(STUDENT, method="two", teachers=tuple(one.path for one in both))
    for cell in (both[1], student):
        shutil.copytree(made / TEACHER.path, made / cell.path)
        record = identity.record(cell, results=made, data=made / "nothing") | {"data": "d"}
        (made / cell.path / "provenance.json").write_text(json.dumps({"cell": cell.path, "identity": record}))
    changed = [replace(one, recipe=replace(one.recipe, lr=0.2)) for one in both]
    wanted = identity.of_cell(student, changed)
    assert identity.status(student, made / student.path, identity=wanted, data="d").reasons == tuple(
        f"the teacher {one.path} is another one: recipe.lr was 0.1 and is 0.2" for one in both
    )
    (made / both[1].path / "model.safetensors").write_bytes(b"other weights")
    found = identity.status(student, made / student.path, identity=identity.of_cell(student, both), data="d").reasons
    assert found == (f"the teacher {both[1].path} was trained again",)


def test_a_folder_may_be_given_from_where_one_stands(made, monkeypatch):
    for place in (place for place in (made / TEACHER.path).parents if place.is_relative_to(made)):
        monkeypatch.chdir(place)
        folder = (made / TEACHER.path).relative_to(place)
        assert identity.status(TEACHER, folder, identity=of(TEACHER), data="d").fresh, folder


def test_a_teacher_of_an_older_record_is_the_same_one_if_the_student_learned_from_it(made):
    """A key that came later changes the teacher's hash, and by its default nothing else."""
    path = made / TEACHER.path / "provenance.json"
    content = json.loads(path.read_text())
    del content["identity"]["fields"]["recipe.average_decay"]
    path.write_text(json.dumps(content | {"identity": content["identity"] | {"hash": "older"}}))
    path = made / STUDENT.path / "provenance.json"
    for learned_from, expected in (("older", []), ("oldest", [f"the teacher {TEACHER.path} is another one"])):
        content = json.loads(path.read_text())
        content["identity"]["teachers"][TEACHER.path]["identity"] = learned_from
        path.write_text(json.dumps(content))
        assert reasons(made, STUDENT) == expected


def test_edited_code_is_named(made, source):
    append(source / "exchange/graft.py", "\nNEW = 1\n")
    assert reasons(made, STUDENT) == ["the code of dgd/exchange/graft.py differs"]
    assert reasons(made, TEACHER) == []


def test_a_result_of_older_code_has_no_identity(made):
    path = made / TEACHER.path / "provenance.json"
    path.write_text(json.dumps({"cell": TEACHER.path}))
    changed = replace(TEACHER, recipe=replace(TEACHER.recipe, lr=0.2))
    assert reasons(made, changed) == ["recipe.lr was 0.1 and is 0.2", "made before identities were recorded"]
    (made / TEACHER.path / "config.yaml").unlink()
    assert reasons(made, changed) == ["made before identities were recorded"]


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
    for text, time in (("a", 1), ("bb", 1), ("cc", 2)):  # a change shows in the size or in the time
        path.write_text(text)
        os.utime(path, ns=(time, time))
        assert identity.file_hash(path) == hashlib.sha256(text.encode()).hexdigest()
