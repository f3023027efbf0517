"""Pairs of which more is said than names: a teacher from a file, options of models, which maps are stages."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from dgd import data, identity, models
from dgd.cell import Cell
from dgd.config import ConfigError
from dgd.train import train_cell
from dgd.train.cell import load_file
from dgd.train.group import Group, units
from dgd.train.outcomes import NotApplicable
from tests.helpers import digits_cells, fresh_group, method_cell, train_loader

CPU = torch.device("cpu")


def weights(seed=0, **options) -> dict:
    torch.manual_seed(seed)
    return models.create("test_resnet", num_classes=10, in_chans=1, image_size=8, adapt_stem=True, options=options).state_dict()


@pytest.fixture
def file(tmp_path):
    save_file(weights(), tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


def cells(pair, methods=("baseline", "kd"), **keys) -> dict[str, Cell]:
    """Return the cells of one pair by their methods; the student is cifar_resnet8."""
    found = digits_cells(methods, recipe={"epochs": 1}, pairs=[{"student": "cifar_resnet8", **pair}], **keys)
    return {cell.method: cell for cell in found if cell.student == "cifar_resnet8"}


def from_file(file, **about) -> dict:
    return {"adapt_stem": True, "teacher": {"name": "test_resnet", "checkpoint_path": str(file), **about}}


def test_a_teacher_from_a_file_teaches(few_digits, tmp_path, file):
    found = cells(from_file(file, mean=[0.5], std=[0.25]))
    assert [*found] == ["baseline", "kd"]  # and no cell of the teacher
    cell = Cell.from_plain(json.loads(json.dumps(found["kd"].plain())))
    assert (cell, cell.taught, cell.teachers) == (found["kd"], 1, ())
    metrics = train_cell(cell, results=tmp_path, data=few_digits)
    assert (metrics["status"], metrics["cell"]["teacher"], metrics["cell"]["teachers"]) == ("finished", "test_resnet", 1)
    status = identity.states([cell], tmp_path)[cell.path]
    assert status.fresh
    moved = replace(cell, teacher_file=replace(cell.teacher_file, path="elsewhere.safetensors"))
    assert identity.of_cell(moved).hash == identity.of_cell(cell).hash
    save_file(weights(seed=1), file)
    now = cells(from_file(file, mean=[0.5], std=[0.25]))["kd"]
    assert "teacher_file.sha256 was" in str(identity.states([now], tmp_path)[cell.path])
    with pytest.raises(ValueError, match=r"teacher.safetensors: its SHA-256 is .*; plan the cell again"):
        load_file(cell.teacher_file, data.load(few_digits), cell)


def test_it_sees_images_as_it_was_trained_on(few_digits, file):
    """Its logits are those of the network on pixels that its own constants normalise."""
    cell = replace(cells(from_file(file, mean=[0.4], std=[0.5]))["kd"], recipe=method_cell("kd").recipe)
    dataset = data.load(few_digits)
    group = Group(cell, dataset, [load_file(cell.teacher_file, dataset, cell)], CPU)
    network = load_file(cell.teacher_file, dataset, cell).eval()
    images = next(iter(train_loader(cell, few_digits).batches())).inputs["image"]
    pixels = images * torch.tensor(dataset.std)[:, None, None] + torch.tensor(dataset.mean)[:, None, None]
    with torch.no_grad():
        wanted = network((pixels - 0.4) / 0.5)
        assert (group.frozen[0]({"image": images}).logits - wanted).abs().max() < 1e-4 * wanted.abs().max()
    with pytest.raises(NotApplicable, match="of 3 and 3 channels, and the images have 1"):
        units(cells(from_file(file))["kd"], dataset, CPU)  # timm's own constants are of three


def test_files_of_other_networks_are_named(few_digits, tmp_path, file):
    cell, dataset = cells(from_file(file, mean=[0.5], std=[0.5]))["kd"], data.load(few_digits)
    for change, message in (
        ({"fc.weight": torch.zeros(1000, 512)}, r"it has fc.weight of shape \(1000, 512\), which is \(10, "),
        ({"fc.weight": None}, "it lacks fc.weight$"),
        ({"head.weight": torch.zeros(1)}, "it has head.weight, which the network does not$"),
    ):
        other = {key: value for key, value in {**weights(), **change}.items() if value is not None}
        save_file(other, tmp_path / "other.safetensors")
        found = cells(from_file(tmp_path / "other.safetensors"))["kd"].teacher_file
        with pytest.raises(ValueError, match=f"other.safetensors: no weights of test_resnet for these images.*{message}"):
            load_file(found, dataset, cell)


def test_new_keys_are_no_part_of_what_cells_were_before():
    fields = identity.fields(method_cell("kd"))
    assert not [name for name in fields if "options" in name or "out_indices" in name or "teacher_file" in name]
    other = identity.fields(replace(method_cell("kd"), options={"drop_rate": 0.1}))
    assert identity.field_differences(fields, other) == ['options was {} and is {"drop_rate": 0.1}']


def test_options_and_taps_reach_the_networks(few_digits):
    pair = {"teacher": {"name": "test_resnet", "options": {"drop_rate": 0.2}, "out_indices": [2, 3]}, "adapt_stem": True}
    cell = cells({**pair, "options": {"drop_rate": 0.1}, "out_indices": [1, 2]}, ("baseline", "at"))["at"]
    teachers = [one for one in digits_cells(["at"], pairs=[{"student": "cifar_resnet8", **pair}]) if one.method == "baseline"]
    assert [(one.student, one.options, one.adapt_stem) for one in teachers] == [("test_resnet", {"drop_rate": 0.2}, True)]
    group = fresh_group(replace(cell, recipe=method_cell("kd").recipe), few_digits)
    assert group.networks[0].drop.p == 0.1
    images = {"image": next(iter(train_loader(cell, few_digits).batches())).inputs["image"]}
    assert [x.shape[1:] for x in group.members[0].read(images).stages] == [(16, 8, 8), (32, 4, 4)]
    assert len(group.frozen[0](images).stages) == 2
    with pytest.raises(NotApplicable, match="out_indices has 7; CifarResNet gives 4 maps, 0 to 3"):
        fresh_group(replace(cell, out_indices=(7,)), few_digits)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([{"options": {"drop": 1}}], r"pairs\[0\].options: cifar_resnet8 has no option 'drop'; did you mean drop_rate?"),
        ([{"options": {"in_chans": 1}}], r"pairs\[0\].options: the option 'in_chans' is decided by the data and the task"),
        ([{}, {"options": {"drop_rate": 0.5}}], r"pairs\[1\].options: cifar_resnet8 has {} in another place and {'drop_rate'"),
        ([{"teacher": {"name": "test_vit", "checkpoint_path": "no"}}], "teacher.checkpoint_path: 'no' is no file"),
        ([{"teacher": {"name": "test_vit", "mean": [1]}}], r"pairs\[0\].teacher.mean: a teacher that is trained here"),
        ([{"teacher": {"name": "test_vit", "mean": "x"}}], r"pairs\[0\].teacher.mean is 'x'; it must be a list"),
        ([{"teacher": {"nam": "test_vit"}}], r"pairs\[0\].teacher.nam: unknown key; did you mean name?"),
    ],
)
def test_mistakes_are_named(pairs, message):
    with pytest.raises(ConfigError, match=message):
        digits_cells(["baseline"], pairs=[{"student": "cifar_resnet8", **pair} for pair in pairs])
