"""Training images that cells generate: from the config to a prepared data set, and the rows that train on them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_workflow import repo, run

from dgd import config, data, frozen, identity, running
from dgd.cell import Cell
from dgd.config import ConfigError
from dgd.read.cells import collect, predicting
from dgd.read.figures import from_cells
from dgd.read.figures.sheets import sheet
from dgd.read.generated import generated_table
from dgd.read.table import markdown
from dgd.train import generate
from speed.cost import images
from tests.helpers import ROOT, cells_of, unseal

__all__ = ["repo"]

CHOSEN = {"images": 60, "subsample": True, "burn_in": 40, "filter": 0.9, "filter_burn_in": 20}


def benchmark(folder, dataset="digits", methods=(), **keys) -> dict:
    """Return a benchmark that trains in seconds."""
    return {
        "benchmark": "g",
        "seeds": [0],
        "datasets": [dataset],
        "data": {"dir": str(folder / "data"), "train_images": 120, "validation_images": 20},
        "pairs": [{"student": "cifar_resnet8", "teacher": "test_resnet"}],
        "adapt_stem": True,
        "methods": ["baseline", *methods],
        "generator": {"ratio": "ratio_mlp3", "recipe": {"epochs": 2, "lr": 1e-3}, "ratio_recipe": {"epochs": 1, "lr": 1e-3}},
        "generated": {"raw": {"images": 60}, "chosen": CHOSEN, "alone": {"images": 40, "real": False}},
        "recipe": {"epochs": 1, "batch_size": 20, "lr": 0.02, "precision": "fp32", "device": "cpu"},
        **keys,
    }


ROWS = (
    {"raw": {"base": "baseline", "generated": "raw"}},
    {"chosen": {"base": "kd", "generated": "chosen"}},
    {"alone": {"base": "baseline", "generated": "alone"}},
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The cells of rows with generated images, and the root of their results."""
    folder = tmp_path_factory.mktemp("generated")
    cells = cells_of(benchmark(folder, methods=ROWS))
    order = running.Order(cells, {cell.path: cell for cell in cells})
    assert running.train(order, folder / "results")
    return {cell.method: cell for cell in cells if cell.student == "cifar_resnet8"}, cells, folder / "results"


def test_what_makes_images_is_trained_before_what_trains_on_them(tmp_path):
    cells = cells_of(benchmark(tmp_path, methods=ROWS))
    assert [cell.method for cell in cells] == ["baseline", "gan", "density-ratio", "baseline", "raw", "chosen", "alone"]
    by_method = {cell.method: cell for cell in cells}
    gan, ratio, chosen = by_method["gan"], by_method["density-ratio"], by_method["chosen"]
    teacher = "g/digits/test_resnet/baseline/seed0"
    assert (gan.sources, ratio.sources) == ((teacher,), (teacher, gan.path))
    assert chosen.sources == (teacher, gan.path, ratio.path)
    assert by_method["raw"].makers == (gan.path, teacher)
    assert (gan.recipe.optimiser, gan.recipe.lr, gan.recipe.batch_size) == ("adam", 1e-3, 20)
    order = running.Order([chosen], {cell.path: cell for cell in cells})
    assert [cell.path for cell in order.needed] == [teacher, gan.path, ratio.path, chosen.path]
    assert Cell.from_plain(chosen.plain()) == chosen
    # Without rows that ask for it, nothing generates; without subsampling there is no density ratio.
    assert {cell.method for cell in cells_of(benchmark(tmp_path, methods=ROWS[:1]))} == {"baseline", "gan", "raw"}
    assert {cell.method for cell in cells_of(benchmark(tmp_path))} == {"baseline"}


def test_generated_images_are_a_prepared_data_set(trained):
    cells, _, _ = trained
    real = data.load(identity.prepared_folder(cells["baseline"]))
    raw, alone = (data.load(identity.prepared_folder(cells[name])) for name in ("raw", "alone"))
    assert raw.sizes == {"train": 180, "validation": 20, "test": 599}
    assert torch.equal(raw.tensors["train_images"][:120], real.tensors["train_images"])
    assert torch.equal(raw.tensors["test_images"], real.tensors["test_images"])
    assert raw.tensors["train_labels"][120:].bincount().tolist() == [6] * 10
    assert (raw.mean, raw.std) == (real.mean, real.std)
    assert raw.tensors["train_images"][120:].float().std() > 10
    assert alone.sizes["train"] == 40
    assert raw.manifest["origin"]["makers"] == list(cells["raw"].makers)
    chosen = data.load(identity.prepared_folder(cells["chosen"])).manifest["origin"]
    assert 0 < chosen["accepted"] <= 1
    assert 0.5 < chosen["filter_kept"] <= 1
    assert 0 <= chosen["teacher_agreement"] <= 100
    assert chosen["feature_distance"] > 0
    assert [row["images"] for row in chosen["labels"]] == [6] * 10


def test_the_same_cells_and_options_give_the_same_images(trained, tmp_path):
    cells, _, results = trained
    base, cell = identity.prepared_folder(cells["baseline"]), cells["chosen"]
    folder = identity.prepared_folder(cell)
    assert generate.is_generated(cell, results=results, base=base, out=folder)
    generate.generate(cell, results=results, base=base, out=tmp_path)
    for name in ("images.safetensors", "manifest.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    other = replace(cell, generated=replace(cell.generated, seed=1, relabel=True))
    assert not generate.is_generated(other, results=results, base=base, out=folder)
    changed = generate.generate(other, results=results, base=base, out=tmp_path)
    assert changed["images_sha256"] != data.load(folder).manifest["images_sha256"]
    # Every label is the teacher's prediction now.
    labels = data.load(tmp_path).tensors["train_labels"][120:]
    assert labels.bincount(minlength=10).tolist() != [6] * 10


def test_a_cell_is_stale_when_its_images_would_be_others(trained):
    cells, everything, results = trained
    assert all(state.fresh for state in identity.states(everything, results).values())
    cell = cells["chosen"]
    other = replace(cell, generated=replace(cell.generated, filter=0.8))
    (state,) = identity.states([other], results, everything).values()
    assert "generated.filter was 0.9 and is 0.8" in state.reasons
    gan = next(one for one in everything if one.method == "gan")
    more = replace(gan, recipe=replace(gan.recipe, epochs=3))
    (state,) = identity.states([cell], results, [more if one is gan else one for one in everything]).values()
    assert any("gan/seed0 is another one: recipe.epochs was 2 and is 3" in reason for reason in state.reasons)
    assert frozen.differences(results / "g", everything, {c.data_slug: "nowhere" for c in everything}) == ""
    assert "generated.filter was 0.9" in frozen.differences(results / "g", [other], {other.data_slug: "nowhere"})


def test_a_row_says_why_it_has_no_images(trained, tmp_path, capsys):
    """An empty filter, or a GAN that diverged, ends the rows that need the images; the others go on."""
    cells, everything, results = trained
    cell = cells["alone"]
    tight = replace(cell, images="tight", method="tight", generated=replace(cell.generated, filter=1e-9, filter_burn_in=2000))
    order = running.Order([tight], {one.path: one for one in everything} | {tight.path: tight})
    assert not running.train(order, results)
    metrics = json.loads((results / tight.path / "metrics.json").read_text())
    assert metrics["status"] == "no images"
    assert metrics["error"].startswith("digits: generated.tight, label 0: the teacher's filter keeps ")
    assert metrics["error"].endswith("raise filter, or take another teacher")
    assert metrics["error"] in capsys.readouterr().err
    base, (gan, *_) = identity.prepared_folder(cells["baseline"]), cell.makers
    for path in cell.makers:
        (tmp_path / path).mkdir(parents=True)
        for name in identity.OUTPUTS:
            (tmp_path / path / name).write_bytes((results / path / name).read_bytes())
    unseal(tmp_path / gan)
    (tmp_path / gan / "metrics.json").write_text(json.dumps({"status": "diverged", "error": "not finite", "cell": {}}))
    manifest = generate.generate(cell, results=tmp_path, base=base, out=tmp_path / "out")
    assert manifest["failed"] == f"the teacher in {tmp_path / gan} has no result: not finite"
    assert manifest["sizes"]["train"] == 0
    (tmp_path / gan / "config.yaml").unlink()
    with pytest.raises(ValueError, match="no finished cell in it, and digits: generated.alone is made by it; train it first"):
        generate.generate(cell, results=tmp_path, base=base, out=tmp_path / "out")


def test_tables_and_figures_of_generated_images(trained, tmp_path):
    cells, everything, results = trained
    frame = collect(results / "g", everything)
    table = generated_table(frame, results / "g")
    assert sorted(table.frame["images"]) == ["alone", "chosen", "raw"]
    row = table.frame.set_index("images").loc["chosen"]
    origin = data.load(identity.prepared_folder(cells["chosen"])).manifest["origin"]
    assert row["accepted"] == pytest.approx(origin["accepted"])
    assert row["feature_distance"] == pytest.approx(origin["feature_distance"])
    assert row["cutoff_low"] == min(one["cutoff"] for one in origin["labels"])
    text = markdown(table)
    assert "Fréchet" in text
    assert f"{100 * origin['accepted']:.1f} %" in text
    assert set(predicting(frame)["metric"]) == {"top1"}
    assert set(frame["metric"]) == {"top1", "ffd", "ratio_loss"}
    assert markdown(generated_table(frame[frame["method"] == "baseline"], results / "g"))
    drawn = [path.name for path in from_cells(results / "g", tmp_path)]
    assert "samples-digits-gan_generator.svg" in drawn
    assert "curves-digits-gan_generator.svg" in drawn


def test_numbers_are_generated_evenly_filtered_together_and_labelled_by_the_teacher(tmp_path):
    made = {"images": 12, "subsample": True, "burn_in": 10, "filter": 0.7, "relabel": True, "labels": 4, "real": False}
    given = benchmark(tmp_path, "digits-angle", [{"m": {"base": "baseline", "generated": "made"}}], generated={"made": made})
    cells = cells_of(given)
    assert running.train(running.Order(cells, {cell.path: cell for cell in cells}), tmp_path)
    (cell,) = [cell for cell in cells if cell.method == "m"]
    assert (cell.task, list(cell.objective)) == ("regression", ["mse"])
    found = data.load(identity.prepared_folder(cell))
    labels = found.tensors["train_labels"]
    assert (labels.dtype, len(labels)) == (torch.float32, 12)
    real = data.load(identity.prepared_folder(replace(cell, generated=None))).tensors["train_labels"]
    assert real.min() <= labels.min() <= labels.max() <= real.max()
    origin = found.manifest["origin"]
    assert origin["filter_kept"] == pytest.approx(0.7, abs=0.06)
    assert [row["images"] for row in origin["labels"]] == [5, 5, 5, 5]  # ceil(12 / 0.7) + 2, over 4 labels
    assert "teacher_error" in origin
    with np.load(tmp_path / cells[1].path / "predictions.npz") as arrays:
        assert arrays["predictions"].shape == (1, 300, 1, 16, 16)
        assert arrays["labels"].dtype == np.float32
    assert "samples-digits-angle-gan_generator.svg" in [path.name for path in from_cells(tmp_path / "g", tmp_path / "figures")]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"methods": [{"m": {"base": "kd", "generated": "rwa"}}]},
            r"methods.m.generated is 'rwa'; it is no name of generated",
        ),
        (
            {"pairs": [{"student": "cifar_resnet8"}]},
            r"pairs\[0\].teacher: method 'raw' trains on generated images",
        ),
        ({"generated": {"raw": {"images": 0}}}, "generated.raw.images is 0; it must be at least 1"),
        ({"generated": {"raw": {"filter": 0.5}}}, "generated.raw.images is missing"),
        ({"generated": {"raw": {"images": 5, "filter": 0}}}, "generated.raw.filter is 0; it must be above 0 and at most 1"),
        ({"generated": {"a/b": {"images": 5}}}, "generated: 'a/b' names folders"),
        (
            {"generator": {"network": "gan_generatr"}},
            "generator.network: unknown model 'gan_generatr': did you mean",
        ),
        ({"generator": {"adversarial": {"kappa": 1}}}, "generator.adversarial.kappa: unknown option"),
        ({"generator": {"recipe": {"epoch": 1}}}, "generator.recipe.epoch: unknown key"),
        ({"data": {"loader": "stream"}}, "data.loader is 'stream'; generated images are held in memory"),
        (
            {"recipe": {"optimiser": "adam"}, "methods": ["grafting"]},
            "recipe.optimiser is 'adam'; an exchange",
        ),
        (
            {"recipe": {"weight_average": "swa", "average_every": "step"}},
            "average_every is 'step'; with weight",
        ),
        ({"methods": [{"m": {"base": "baseline", "objective": {"adversarial": 1}}}]}, "adversarial is for generation"),
        (
            {"methods": [{"m": {"base": "kd", "objective": {"ce": 1, "ratio": 1}}}]},
            "some of these terms run their networks themselves",
        ),
        (
            {"pairs": [{"student": "cifar_resnet8", "teacher": t} for t in ("cifar_resnet20", "cifar_resnet32")]},
            r"pairs\[1\].teacher: generated images of one benchmark are judged by one teacher",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, change, line):
    given = benchmark(tmp_path, methods=ROWS[:1]) | change
    if "methods" in change:
        given["methods"] = ["baseline", *change["methods"]]
    with pytest.raises(ConfigError, match=line):
        config.check(given, "test")


def test_digits_are_turned_by_the_angle_that_is_their_label(tmp_path):
    """Turned back by it, an image looks like the upright one; turned on, it does not."""
    from scipy.ndimage import rotate, zoom

    data.prepare("digits", tmp_path / "upright")
    data.prepare("digits-angle", tmp_path / "turned")
    upright, turned = (data.load(tmp_path / name) for name in ("upright", "turned"))
    labels = turned.tensors["test_labels"][:100].numpy()
    assert turned.tensors["test_images"].shape == (599, 1, 16, 16)
    assert (0 <= labels.min() < 0.05, 0.95 < labels.max() <= 1) == (True, True)
    framed = np.pad(upright.tensors["test_images"][:100, 0].numpy(), ((0, 0), (2, 2), (2, 2))).astype(float)
    before = np.stack([zoom(image, 16 / 12, order=1) for image in framed])
    images = turned.tensors["test_images"][:100, 0].numpy().astype(float)

    def apart(sign: int) -> float:
        back = [rotate(image, sign * (90 * y - 45), reshape=False, order=1) for image, y in zip(images, labels)]
        return float(np.abs(np.stack(back) - before).mean())

    assert apart(-1) < 0.5 * apart(1)


@pytest.mark.slow
def test_generated_images_go_through_the_workflow(repo):
    arguments = ("--cores", "2", "--configfile", "config/test/generated.yaml")
    said = run(repo, "snakemake", *arguments)
    assert said.count("generating digits+") >= 2
    folder = repo / "results" / "generated"
    table = pd.read_csv(folder / "tables" / "generated.csv").set_index("images")
    assert set(table.index) == {"raw", "chosen"}
    assert 0 < table.loc["chosen", "accepted"] <= 1
    assert "gan" not in set(pd.read_csv(folder / "tables" / "results.csv")["method"])
    assert (folder / "figures" / "samples-digits-gan_generator.svg").is_file()
    assert "Generated" in (folder / "report.html").read_text()
    assert "Nothing to be done" in run(repo, "snakemake", *arguments)
    # Another option of one set of images: that set and its row alone.
    config_file = repo / "config" / "test" / "generated.yaml"
    config_file.write_text(config_file.read_text().replace("filter: 0.9", "filter: 0.8"))
    plan = run(repo, "snakemake", "-n", *arguments)
    assert "generating digits+chosen" in plan
    assert "generating digits+raw" not in plan
    assert "training generated/digits/cifar_resnet8/chosen/seed0" in plan
    assert "cifar_resnet8/raw/seed0" not in [line for line in plan.splitlines() if "training" in line]
    assert "training the teacher" not in plan


@pytest.mark.parametrize("name", ["cgan-kd", "cgan-kd-angle"])
def test_the_control_of_real_images_has_as_many_steps(name):
    by_method = {cell.method: cell for cell in config.cells(config.load(ROOT / "config" / f"{name}.yaml")) if cell.seed == 0}

    def steps(cell: Cell) -> int:
        return cell.recipe.epochs * -(-images(cell) // cell.recipe.batch_size)

    for method in [method for method in by_method if method.endswith("-matched")]:
        generated = [cell for cell in by_method.values() if cell.generated and cell.method.startswith(method.split("-")[0])]
        assert generated
        for cell in generated:
            assert steps(cell) == pytest.approx(steps(by_method[method]), rel=0.02)


def test_a_sheet_has_a_row_for_each_class_or_the_order_of_numbers():
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    picture = sheet(images, np.arange(40) % 2)
    assert picture.shape == (10, 50, 3)
    assert picture[::5, ::5, 0].tolist() == [list(range(0, 20, 2)), list(range(1, 20, 2))]
    numbers = sheet(images[:20, :1], np.linspace(1, 0, 20, dtype=np.float32))
    assert numbers[::5, ::5].tolist() == [list(range(19, 9, -1)), list(range(9, -1, -1))]
    with pytest.raises(ValueError, match="there are 3 images"):
        sheet(images[:3], np.linspace(0, 1, 3))
