"""Keys that a published number is measured under: constants, augmentation, a row's own baseline and teachers."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torchvision.transforms import functional as F
from torchvision.transforms import v2

from dgd import config, data, identity, keys
from dgd.cell import OWN_AUGMENTATION, Cell, Normalise, Recipe
from dgd.config import ConfigError
from dgd.read import papers
from dgd.read.cells import OWN, collect, conditions
from dgd.read.controls import controls_table
from dgd.read.departures import departures, render
from dgd.read.results import results_table
from dgd.train import train_cell
from tests.helpers import ROOT, digits_cells, files_but_timings
from tests.test_data import dataset, generator, joined, noise

CONSTANTS = {"mean": [0.5], "std": [0.25]}
SLOW = {"lr": 0.02}
OFFICIAL = [
    "baseline",
    "kd",
    {"slow": {"base": "baseline", "recipe": SLOW}},
    {"kd-slow": {"base": "kd", "recipe": SLOW, "baseline": "slow", "taught_by": "slow"}},
    {"at-slow": {"base": "at", "recipe": SLOW, "taught_by": "slow"}},
]


def under(images, **recipe):
    """Return a data set that pads by 2 and mirrors, as a recipe has it."""
    return dataset(images, 2, True).under(keys.build(Recipe, recipe))


def epoch(found):
    return joined(found.loader("train", batch_size=64).batches(generator(0), generator(1)))


# --- images


def test_the_defaults_leave_a_data_set_as_it_is():
    found = dataset(noise(8, 3, 8, 8), 2, True)
    assert found.under(Recipe()) is found
    own = found.under(keys.build(Recipe, {"augment": {"pad": 2, "flip": True}}))
    assert all(torch.equal(a, b) for a, b in zip(epoch(own), epoch(found)))
    for name, (pad, flip) in OWN_AUGMENTATION.items():
        assert (data.SOURCES[name].pad, data.SOURCES[name].flip) == (pad, flip)


@pytest.mark.parametrize("pad", [1, 4, 7])
def test_reflection_is_torchvisions_to_the_last_bit(pad):
    images = noise(200, 3, 8, 8)
    found = under(images, augment={"pad": pad, "mode": "reflect"})
    drawn = found.loader("train", batch_size=64).draw(generator(0), generator(1), None)
    index, shifts, flips = (drawn["image", what] for what in ("index", "shifts", "flips"))
    ours, _, order = epoch(found)
    assert torch.equal(order, index)
    assert shifts.min() == 0
    assert shifts.max() == 2 * pad
    padded = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)), "reflect"))
    for image, k, row, column, flip in zip(ours, index, *shifts, flips):
        own = F.crop(F.pad(images[k], [pad] * 4, padding_mode="reflect"), row, column, 8, 8)
        assert torch.equal(own, F.crop(padded[k], row, column, 8, 8))
        assert torch.equal(image, (F.hflip(own) if flip else own).float() / 255)
    assert torch.equal(under(images).on_device("test", torch.device("cpu"))[0], images)  # test images are not padded


def test_no_padding_does_not_crop_and_no_flip_does_not_mirror():
    images = noise(64, 3, 8, 8)
    ours, _, index = epoch(under(images, augment={"pad": 0, "flip": False}))
    assert torch.equal(ours, images[index].float() / 255)
    ours, _, index = epoch(under(images, augment={"pad": 0}))
    mirrored = [torch.equal(image, images[k].flip(2).float() / 255) for image, k in zip(ours, index)]
    assert 16 < sum(mirrored) < 48


def test_constants_are_torchvisions_for_training_and_test():
    images, mean, std = noise(40, 3, 8, 8), [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
    found = under(images, normalise={"mean": mean, "std": std}, augment={"pad": 0, "flip": False})
    wanted = torch.stack([v2.functional.normalize(image.float() / 255, mean, std) for image in images])
    for split in ("train", "test"):
        ours, _, index = joined(found.loader(split, batch_size=16).batches())
        assert torch.allclose(ours, wanted[index], rtol=0, atol=1e-6)
    assert (found.mean, found.std) == (mean, std)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Return a folder of images whose left half is dark."""
    root = tmp_path_factory.mktemp("letters") / "letters"
    for part in ("train", "test"):
        for name in "ab":
            (root / part / name).mkdir(parents=True)
            for k in range(8):
                pixels = np.zeros((20, 20, 3), np.uint8)
                pixels[:, 10:] = 100 + k
                Image.fromarray(pixels).save(root / part / name / f"{k}.png")
    return root


@pytest.mark.parametrize("loader", ["memory", "stream"])
def test_a_folder_of_letters_is_not_mirrored(letters, tmp_path, loader):
    data.prepare(f"imagefolder:{letters}", tmp_path, image_size=16, loader=loader)
    read = data.load(tmp_path)

    def mirrored(found) -> int:
        images = epoch(found)[0]
        return int((images[:, 0, 8, 0] > images[:, 0, 8, -1]).sum())

    assert mirrored(read) > 0
    own = read.under(keys.build(Recipe, {"augment": {"flip": False}}))
    assert mirrored(own) == 0
    assert own.manifest["augmentation"] == {**read.manifest["augmentation"], "mode": "zeros", "flip": False}


def test_what_images_cannot_have_is_refused_by_its_key(letters, tmp_path):
    images = noise(4, 3, 8, 8)
    with pytest.raises(ValueError, match=r"recipe\.normalise\.mean has 1 numbers, and images of made-up have 3 channels"):
        under(images, normalise=CONSTANTS)
    with pytest.raises(ValueError, match=r"recipe\.augment\.pad is 8; images of 8 pixels are reflected by at most 7"):
        under(images, augment={"pad": 8, "mode": "reflect"})
    data.prepare(f"imagefolder:{letters}", tmp_path, image_size=16, loader="stream")
    with pytest.raises(ValueError, match=r"recipe\.augment: pad and mode are for images in memory"):
        data.load(tmp_path).under(keys.build(Recipe, {"augment": {"pad": 2}}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"normalise": {"mean": [0.5], "std": [0]}}}, "recipe.normalise.std[0] is 0; it must be above 0"),
        ({"recipe": {"normalise": {"mean": [0.5]}}}, "recipe.normalise.std is missing"),
        (
            {"recipe": {"normalise": {"mean": [125.3], "std": [0.2]}}},
            "recipe.normalise.mean[0] is 125.3; it must be at least 0",
        ),
        ({"recipe": {"normalise": {"mean": [0.5, 0.5], "std": [0.2]}}}, "recipe.normalise.std has 1 numbers and recipe"),
        (
            {"recipe": {"normalise": {"mean": [0.5] * 3, "std": [0.2] * 3}}},
            "recipe.normalise.mean has 3 numbers, and images of 'dig",
        ),
        ({"recipe": {"augment": {"mode": "edge"}}}, "recipe.augment.mode is 'edge'; it must be one of zeros, reflect"),
        ({"recipe": {"augment": {"pad": 8, "mode": "reflect"}}}, "recipe.augment.pad is 8; images of 'digits', of 8 pixels"),
        (
            {"data": {"loader": "stream"}, "recipe": {"augment": {"pad": 2}}},
            "recipe.augment: pad and mode do not apply to data.loader",
        ),
        ({"teacher_recipe": {"normalise": CONSTANTS}}, "methods.kd.recipe.normalise: its teachers, of 'baseline', have other"),
    ],
)
def test_a_config_is_refused_in_one_line(changes, message):
    with pytest.raises(ConfigError) as error:
        digits_cells(["baseline", "kd"], **changes)
    assert message in str(error.value)


# --- cells


def test_identities_and_files_of_before_are_those_of_the_defaults():
    (cell,) = digits_cells(["baseline"])
    fields = identity.fields(cell)
    assert not [name for name in fields if "normalise" in name or "augment" in name or "baseline" in name]
    given = cell.plain()
    del given["recipe"]["normalise"], given["recipe"]["augment"], given["baseline"]
    assert Cell.from_plain(given) == cell
    (changed,) = digits_cells(["baseline"], recipe={"normalise": CONSTANTS, "augment": {"mode": "reflect"}})
    assert Cell.from_plain(yaml.safe_load(yaml.safe_dump(changed.plain()))) == changed
    assert identity.field_differences(fields, identity.fields(changed)) == [
        'recipe.normalise was null and is {"mean": [0.5], "std": [0.25]}',
        'recipe.augment was {"pad": null, "mode": "zeros", "flip": null} and is {"pad": null, "mode": "reflect", "flip": null}',
    ]
    assert len(identity.field_differences(identity.fields(changed), fields)) == 2


def test_an_option_that_came_later_has_its_default_in_an_older_record():
    ffsd = digits_cells(["ffsd"])[-1]
    now = identity.fields(ffsd)
    was = {name: value for name, value in now.items() if name != "objective.ffsd.chain_decay"}
    assert identity.field_differences(was, now) == []
    own = replace(ffsd, objective={"ce": 1.0, "ffsd": {"weight": 1.0, "chain_decay": 5e-4}})
    assert identity.field_differences(was, identity.fields(own)) == ["objective.ffsd.chain_decay was 0.0001 and is 0.0005"]
    without = {name: value for name, value in now.items() if not name.startswith("objective.ffsd.")}
    assert "objective.ffsd.weight is not set and is 1" in identity.field_differences(without, now)


def test_a_row_has_teachers_and_a_baseline_of_its_own():
    cells = {cell.path.removeprefix("t/digits/"): cell for cell in digits_cells(OFFICIAL)}
    taught = cells["cifar_resnet8/kd-slow/seed0"]
    assert taught.teachers == ("t/digits/cifar_resnet20/slow/seed0",)
    assert cells["cifar_resnet8/at-slow/seed0"].teachers == taught.teachers  # one teacher for both
    assert cells["cifar_resnet8/kd/seed0"].teachers == ("t/digits/cifar_resnet20/baseline/seed0",)
    teacher = cells["cifar_resnet20/slow/seed0"]
    assert teacher.recipe == taught.recipe
    assert teacher.recipe.lr == 0.02
    assert identity.fields(teacher)["student"] == "cifar_resnet20"
    over = {path.split("/")[1]: cell.baseline for path, cell in cells.items() if path.startswith("cifar_resnet8/")}
    assert over == {"baseline": "baseline", "kd": "baseline", "slow": "slow", "kd-slow": "slow", "at-slow": "baseline"}
    assert len(cells) == 7
    assert list(cells).index("cifar_resnet20/slow/seed0") < list(cells).index("cifar_resnet8/kd-slow/seed0")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"x": {"base": "kd", "baseline": "nothing"}}], "methods.x.baseline is 'nothing'; it is no name of methods"),
        (
            [{"x": {"base": "kd", "taught_by": "grafting"}}, "grafting"],
            "methods.x.taught_by is 'grafting', which is no row of a network",
        ),
        (
            [{"x": {"base": "baseline", "taught_by": "baseline"}}, "baseline"],
            "methods.x.taught_by: x has no teachers; leave it out",
        ),
        (
            [{"x": {"base": "kd", "recipe": {"normalise": CONSTANTS}}}],
            "methods.x.recipe.normalise: its teachers, of 'baseline', have other constants",
        ),
        (
            [{"a": {"base": "baseline", "baseline": "baseline"}}, {"x": {"base": "kd", "baseline": "a"}}, "baseline"],
            "methods.x.baseline is 'a', which has a baseline itself, 'baseline'; leave that out",
        ),
    ],
)
def test_a_row_that_cannot_be_a_baseline_or_a_teacher_is_refused(rows, message):
    with pytest.raises(ConfigError) as error:
        digits_cells(rows)
    assert message in str(error.value)


def test_a_pair_is_trained_by_the_baselines_of_its_rows():
    pair = {"student": "cifar_resnet8", "teacher": "cifar_resnet20", "methods": ["kd-slow"]}
    with pytest.raises(ConfigError, match="pairs: cifar_resnet8 is trained by 'kd-slow' and not by its baseline 'slow'"):
        digits_cells(OFFICIAL, pairs=[pair])


def test_a_teacher_of_other_constants_is_refused_before_training(few_digits, tmp_path):
    """The config would refuse the pair; here the teacher's folder is that of another benchmark's."""
    recipe = {"epochs": 1, "precision": "fp32"}
    teacher, student = digits_cells(["kd"], "cifar_resnet8", "cifar_resnet14", recipe=recipe)
    own = replace(teacher, recipe=replace(teacher.recipe, normalise=keys.build(Normalise, CONSTANTS)))
    train_cell(own, results=tmp_path, data=few_digits)
    with pytest.raises(ValueError, match=r"cifar_resnet14/baseline/seed0: it was trained with recipe.normalise .*0.5.* None"):
        train_cell(student, results=tmp_path, data=few_digits)
    same = replace(student, recipe=own.recipe)
    assert train_cell(same, results=tmp_path, data=few_digits)["status"] == "finished"


def test_constants_and_augmentation_reach_the_training(few_digits, tmp_path):
    """Bytes with what the data set has anyway are those without the keys; other values give others."""
    manifest = json.loads((few_digits / "manifest.json").read_text())
    measured = {name: manifest[name] for name in ("mean", "std")}
    found = []
    for number, given in enumerate(
        (
            {},
            {"normalise": measured, "augment": {"pad": 1, "flip": False}},
            {"normalise": CONSTANTS},
            {"augment": {"mode": "reflect"}},
        )
    ):
        (cell,) = digits_cells(["baseline"], recipe={"epochs": 1, "precision": "fp32", **given})
        train_cell(cell, results=tmp_path / str(number), data=few_digits)
        _, files = files_but_timings(tmp_path / str(number) / cell.path)
        found.append({name: content for name, content in files.items() if name != "config.yaml"})
    assert found[0] == found[1]
    assert found[2]["history.csv"] != found[0]["history.csv"] != found[3]["history.csv"]


# --- tables


def test_cells_csv_has_columns_only_for_what_cells_have(few_digits, tmp_path):
    (cell,) = digits_cells(["baseline"], recipe={"epochs": 1, "precision": "fp32"})
    train_cell(cell, results=tmp_path, data=few_digits)
    assert not set(OWN) & set(collect(tmp_path / "t"))
    cells = digits_cells(OFFICIAL, recipe={"augment": {"mode": "reflect"}})
    found = collect(tmp_path / "t", cells)
    assert [name for name in OWN if name in found] == ["baseline", "taught_by", "augment"]
    of = found.set_index(["student", "method"])
    assert of.loc[("cifar_resnet8", "kd-slow"), ["baseline", "taught_by"]].tolist() == ["slow", "slow"]
    assert pd.isna(of.loc[("cifar_resnet8", "kd"), "baseline"])


def frame(values: dict[str, list[float]]) -> pd.DataFrame:
    """Return made-up results of the cells of `OFFICIAL`, a list of seeds for each of the student's rows."""
    rows = []
    for cell in digits_cells(OFFICIAL, seeds=[0, 1, 2]):
        ours = values[cell.method][cell.seed] if cell.student == "cifar_resnet8" else 90.0
        row = {name: getattr(cell, name) for name in ("benchmark", "dataset", "model", "student", "method", "seed")}
        row |= {"teacher": cell.teacher, "networks": 1, "teachers": len(cell.teachers), "network": 0, "status": "finished"}
        row |= conditions(cell) | {"protocol": "paper", "metric": "top1", "last": ours, "best_on_test": ours}
        row |= {"baseline": cell.baseline, "taught_by": cell.teachers[0].split("/")[-2] if cell.teachers else None}
        rows.append(row | {"validation_last": None, "validation_selected": None, "ensemble": None, "images_per_second": 1.0})
    return pd.DataFrame(rows)


VALUES = {"baseline": [70, 71, 72], "kd": [75, 76, 77], "slow": [60, 61, 62], "kd-slow": [61, 62, 63], "at-slow": [71, 72, 73]}


def test_gains_are_over_the_rows_own_baseline(tmp_path):
    paper = papers.load(ROOT / "papers" / "review.yaml")
    found = results_table(frame(VALUES), [paper])
    of = found.frame[found.frame["student"] == "cifar_resnet8"].set_index("method")
    assert of["gain"].to_dict() == pytest.approx(
        {"baseline": np.nan, "slow": np.nan, "kd": 5.0, "kd-slow": 1.0, "at-slow": 1.0}, nan_ok=True
    )
    assert of["verdict"]["slow"] == ""
    assert of["over"]["kd-slow"] == "slow"
    assert set(found.frame.loc[found.frame["student"] == "cifar_resnet20", "role"]) == {"teacher"}
    assert any("Gains over slow instead of baseline: kd-slow." in line for line in found.footnotes)
    left = controls_table(frame(VALUES), {"kd-slow": ["at-slow"]}).frame.iloc[0]
    assert (left["baseline_gain"], left["gain"]) == pytest.approx((1.0, -10.0))


def test_a_departure_is_of_the_rows_own_baseline_and_teacher(tmp_path):
    recipe = {"epochs": 3, "batch_size": 16, "schedule": "slr", "lr": 0.02}
    method = {"kd-slow": {"base": "kd"}}
    row = {"id": "x", "table": "T", "dataset": "digits", "model": "cifar_resnet8", "teacher": "cifar_resnet20", "source": "s"}
    row |= {"method": "kd-slow", "networks": 1, "teachers": 1, "metric": "top1", "value": 80.0}
    document = {"paper": "p", "headline": ["T"], "methods": [method], "conditions": {"digits": recipe}, "results": [row]}
    found = results_table(frame(VALUES), [document]).frame.set_index("method")
    assert found["scale"]["kd-slow"] == "as published"
    assert found["scale"]["kd"] == "lr 0.1"
    document["conditions"] = {"digits": recipe | {"augment": {"pad": 1, "mode": "reflect"}}}
    found = results_table(frame(VALUES), [document]).frame.set_index("method")
    assert found["scale"]["kd-slow"] == "augmentation: 1 pixels of zeros, no flips"


def test_the_conditions_of_a_paper_are_compared_and_said_in_words():
    given = {"normalise": [None, CONSTANTS], "augment": {"pad": 4, "mode": "zeros", "flip": True}}
    wanted = papers.checked_conditions(given, "x")
    assert departures({"dataset": "cifar100"}, wanted) == ()
    row = {"dataset": "cifar100", "augment": '{"mode": "reflect"}', "normalise": json.dumps(CONSTANTS)}
    assert render(departures(row, wanted)) == "augmentation: 4 pixels of reflection, flips"
    own = papers.checked_conditions({"normalise": CONSTANTS}, "x")
    assert (
        render(departures({"dataset": "cifar100"}, own)) == "images normalised by the mean and deviation of the data set itself"
    )
    other = {"dataset": "digits", "normalise": '{"mean": [0.1], "std": [0.2]}'}
    assert render(departures(other, own)) == "images normalised by mean 0.1 and deviation 0.2"
    with pytest.raises(ValueError, match=r"x\.normalise\.std is missing"):
        papers.checked_conditions({"normalise": {"mean": [0.5]}}, "x")
    with pytest.raises(ValueError, match=r"x\.augment\.mode is 'edge'"):
        papers.checked_conditions({"augment": {"mode": "edge"}}, "x")


def test_official_rows_of_the_zoo_share_their_recipe_with_baseline_and_teacher():
    cells = config.cells(config.load(ROOT / "config" / "zoo.yaml", folders=False))
    at = {cell.path: cell for cell in cells}
    official = [cell for cell in cells if cell.method.partition("-")[2].startswith("official")]
    assert {cell.method for cell in official} == {"review-official", "review-official-0.6", "ffsd-official", "dml-official"}
    for cell in official:
        base = at[cell.path.replace(f"/{cell.method}/", f"/{cell.baseline}/")]
        assert base.recipe == cell.recipe
        assert base.baseline == base.method
        assert all(at[path].recipe == cell.recipe for path in cell.teachers)
        assert cell.recipe.precision == "fp32"
        assert cell.recipe.normalise
