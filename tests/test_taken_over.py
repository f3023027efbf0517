"""A cell of the same identity elsewhere under the results: found, and taken over."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from taught import STUDENT, TEACHER, leave, of

from dgd import identity


@pytest.fixture
def made(tmp_path) -> Path:
    """The root of results with a teacher and its student."""
    leave(tmp_path)
    return tmp_path


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
    with pytest.raises(ValueError, match="zip"):  # a cell of other teachers is another cell
        identity.adopt(made / again.path, made / "other", replace(STUDENT, teachers=()))


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
    assert (folder / "metrics.json").read_text() == json.dumps(metrics, indent=2) + "\n"  # as a training writes it
    labels = {"benchmark": "c", "dataset": "digits", "model": "m", "method": "kd-2", "seed": 0}
    assert metrics == {"status": "finished", "cell": labels, "last": 5}
    assert list(yaml.safe_load((folder / "config.yaml").read_text()).items()) == list(cell.plain().items())  # in this order
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
