"""What benchmarks cost by measured speed: hours are worked out, printed and written into the headers of config/."""

import json
import re

import pytest

from dgd import config
from speed import ROOT, cost
from speed.format import percent
from speed.rates import NOT_COUNTED, Rates, multiply_adds

COSTED = ("cifar10", "cifar100", "controls", "filter-grafting", "imagenet", "zoo")


@pytest.mark.parametrize("name", COSTED)
def test_headers_hold_the_cost_that_was_measured(name):
    path = ROOT / "config" / f"{name}.yaml"
    assert cost.line(path, cost.measured_machines()) in path.read_text(), (
        f"run `python -m speed.cost --write config/{name}.yaml`"
    )


def machine(gpu=None, threads=1) -> dict:
    """What `speed.measure` would write: 100 images/s of ResNet-20, 80 in a group of four, 75 with a teacher."""

    def row(networks, speed, teacher=None):
        median = {"ours": {"median": speed}}
        return {"model": "cifar_resnet20", "teacher": teacher, "networks": networks, "images_per_second": median}

    name = f"{gpu or 'A CPU'}, {threads} thread"
    steps = [row(1, 100.0), row(2, 100.0), row(4, 80.0), row(1, 75.0, "cifar_resnet56"), row(2, 75.0, "cifar_resnet56")]
    return {"machine": {"name": name, "gpu": gpu and {"name": gpu}, "threads": threads, "cpu": "A CPU"}, "steps": steps}


def with_methods(found: dict) -> dict:
    """The same with what it would write of methods: kd takes 1.5 steps of baseline, HKD with few negatives 2, and so on."""

    def row(method, networks, multiple, teacher=None, **terms):
        objective = {"ce": {"weight": 1.0}, **terms}
        multiples = {"fp32": {"median": 9.0}, "bf16": {"median": multiple}}
        about = {"method": method, "model": "cifar_resnet20", "teacher": teacher, "networks": networks}
        return about | {"objective": objective, "multiple": multiples}

    taught = {"teacher": "cifar_resnet56"}
    rows = [
        row("baseline", 1, 1.0),
        row("kd", 1, 1.5, **taught, kd={"weight": 1.0, "teachers": "mean"}),
        row("hkd", 1, 4.5, **taught, hkd={"weight": 3.0}),
        row("hkd-512", 1, 2.0, **taught, hkd={"weight": 3.0, "negatives": 512}),
        row("ffsd", 3, 3.6, ffsd={"weight": 1.0}),
        row("dml", 2, 1.9, mutual={"weight": 1.0}),
    ]
    return found | {"methods": rows}


def hours(found=None, student="cifar_resnet20", teacher="cifar_resnet56", **method) -> tuple[float, str]:
    """Hours and their basis of one seed of a method on 3,600 images for 10 epochs."""
    row = priced(found, student, teacher, **method)
    return row["hours"], row["from"]


def priced(found=None, student="cifar_resnet20", teacher="cifar_resnet56", **method) -> dict:
    """The row of one seed of a method on 3,600 images for 10 epochs."""
    base = {"base": "kd" if method.get("teachers") else "baseline", **method}
    benchmark = {
        "benchmark": "c",
        "seeds": [0],
        "datasets": ["cifar100"],
        "data": {"train_images": 3600},
        "pairs": [{"student": student, "teacher": teacher}],
        "methods": [{"m": base}],
        "teacher_seeds": [0, 1, 2],
        "recipe": {"epochs": 10},
    }
    rates = Rates(found or machine())
    (row,) = cost.cost([cell for cell in config.cells(config.check(benchmark)) if cell.method == "m"], rates)
    return row


def test_hours_are_images_times_epochs_times_networks_over_the_measured_rate():
    assert hours() == (pytest.approx(0.1), "measured")
    assert hours(networks=2) == (pytest.approx(0.2), "measured")
    assert hours(networks=3) == (pytest.approx(0.3), "measured")  # by the largest group that is not larger
    assert hours(networks=6) == (pytest.approx(0.1 * 6 / 0.8), "measured")
    assert hours(teachers=1) == (pytest.approx(0.1 / 0.75), "measured")
    assert hours(teachers=3)[0] == pytest.approx(0.1 + 3 * (0.1 / 0.75 - 0.1))
    assert hours(machine(threads=2))[0] == pytest.approx(0.2)  # core-hours
    assert hours(machine("A GPU", threads=2))[0] == pytest.approx(0.1)


def test_a_model_that_was_not_measured_is_scaled_and_said_to_be():
    own, reference = (multiply_adds(f"cifar_resnet{n}", 32, True) for n in (32, 20))
    assert 40.5e6 < reference < 40.6e6  # 40.55 million in the literature's count
    found, basis = hours(student="cifar_resnet32")
    assert found == pytest.approx(0.1 * own / reference)
    assert basis == "scaled: cifar_resnet20 x 1.70"
    assert hours(teacher="cifar_resnet110", teachers=1)[1].startswith("scaled: teacher cifar_resnet56 x 2.")


def test_hours_count_what_a_methods_own_terms_take():
    """A step of baseline is 0.1 hours here, one with a teacher 0.1 / 0.75 by its own measurement."""
    found, taught = with_methods(machine()), 0.1 / 0.75
    for method, wanted, terms in (
        ({"base": "hkd"}, taught + 0.1 * (4.5 - 1.5), "hkd of cifar_resnet20"),
        ({"base": "hkd+graft"}, 2 * (taught + 0.1 * (4.5 - 1.5)), "hkd of cifar_resnet20"),
        ({"base": "ffsd"}, 3 * (0.1 + 0.1 * (3.6 / 3 - 1)), "ffsd of cifar_resnet20"),
        ({"base": "dml"}, 2 * 0.1, "dml of cifar_resnet20"),  # noise made it cheaper than its two networks
        ({"base": "kd"}, taught, ""),
        ({"base": "repr", "exchange": {"normal": 2, "pruned": 1, "cycles": 3}}, 0.1, ""),
    ):
        row = priced(found, **method)
        assert (row["hours"], row["terms from"]) == (pytest.approx(wanted), terms), method
    row = priced(found, student="cifar_resnet32", base="ffsd")
    factor = multiply_adds("cifar_resnet32", 32, True) / multiply_adds("cifar_resnet20", 32, True)
    assert row["of them for terms"] == pytest.approx(factor * 3 * 0.1 * 0.2)
    assert row["terms from"] == "ffsd of cifar_resnet20 x 1.70"


def test_a_term_with_other_options_is_taken_for_the_nearest_that_was_measured():
    found = with_methods(machine())
    for negatives, nearest in ((256, "hkd-512"), (2048, "hkd-512"), (16384, "hkd"), (4096, "hkd")):
        objective = {"ce": 1.0, "kd": 1.0, "hkd": {"weight": 0.1, "negatives": negatives}}
        row = priced(found, base="hkd", objective=objective)
        assert row["terms from"] == f"{nearest} of cifar_resnet20", negatives


def test_terms_that_were_not_measured_are_said_to_be_left_out():
    for found in (machine(), with_methods(machine())):
        rates = Rates(found)
        row = priced(found, base="review")
        assert row["hours"] == pytest.approx(0.1 / 0.75)
        assert row["terms from"] == NOT_COUNTED
        assert cost.total([row], rates).endswith(" (without the methods' own terms, not measured)")
    assert "terms" not in cost.total([priced(base="kd")], rates)
    rows = [priced(found, base="hkd"), priced(found, base="baseline")]
    share = percent(0.3 / (0.1 / 0.75 + 0.3 + 0.1))
    assert cost.total(rows, rates).endswith(f" ({share} of it for the methods' own terms, as measured with cifar_resnet20)")


def gpu_machine() -> dict:
    """The same machine with a GPU's rows: replayed, and of a network alone also five cells side by side."""

    def row(networks, teacher=None, **speeds):
        about = {"model": "cifar_resnet20", "teacher": teacher, "networks": networks, "batch_size": 128, "cells": 5}
        return about | {"images_per_second": {arm: {"median": speed} for arm, speed in speeds.items()}}

    taught = {"teacher": "cifar_resnet56"}
    rows = [row(1, captured=1000.0, together=4000.0, eager=100.0), row(2, captured=2000.0)]
    rows += [row(1, **taught, captured=800.0, together=2000.0), row(2, **taught, captured=1000.0), row(4, eager=100.0)]
    return machine("A GPU") | {"gpu": {"rows": rows, "left_out": []}}


def test_hours_of_a_gpu_are_those_of_cells_side_by_side_where_they_were_measured():
    found = gpu_machine()
    assert hours(found)[0] == pytest.approx(36000 / 4000 / 3600)
    assert hours(found, networks=2)[0] == pytest.approx(2 * 36000 / 2000 / 3600)
    assert hours(found, teachers=1)[0] == pytest.approx(36000 / 2000 / 3600)
    rates = Rates(found)
    assert (rates.batch, rates.unit) == (128, "GPU-hours")
    text = cost.total([priced(found)], rates)
    assert text.endswith(
        "GPU-hours on A GPU, 1 thread (steps replayed as CUDA graphs, of baseline and kd in 5 cells side by side)"
    )
    found["gpu"]["rows"] = found["gpu"]["rows"][:1]
    assert not Rates(found).enough  # no teacher's time is known
    assert Rates(machine()).enough


def test_a_trial_is_named_only_until_a_gpu_is_measured():
    text = cost.line(ROOT / "config/cifar100.yaml", [])
    assert (
        "GPU-hours: not measured yet (about 7.5 for the 60 cells of table 8 by a trial on an H100, not by this loop).\n" in text
    )
    assert "trial" not in cost.line(ROOT / "config/cifar10.yaml", [])
    assert "trial" not in cost.line(ROOT / "config/cifar100.yaml", [Rates(gpu_machine())])


def test_costs_are_printed_and_written_into_a_header(tmp_path, capsys):
    path = tmp_path / "quick.yaml"
    path.write_text("# Digits.\n# Cost: old\n#   snakemake\n" + (ROOT / "config/quick.yaml").read_text())
    rates = tmp_path / "machine.json"
    rates.write_text(json.dumps(machine("A GPU")))
    assert cost.main([str(path), "--rates", str(rates)]) == 0
    out = capsys.readouterr().out
    assert "21 cells, " in out
    assert "GPU-hours on A GPU, 1 thread (100 % of it for models that were not measured)" in out
    assert "where this benchmark has fp32" in out
    assert cost.main([str(path), "--rates", str(rates), "--write"]) == 0
    assert cost.main([str(path), "--rates", str(rates), "--write"]) == 0
    head = path.read_text().splitlines()[:4]
    assert head[0] == "# Digits."
    assert re.fullmatch(r"# Cost: 21 cells; [\d.]+ GPU-hours on A GPU, 1 thread \(100 % of it .*\)\.", head[1])
    assert head[2].startswith("#   For another machine: `make speed`")
    assert head[3] == "#   snakemake"
    path.write_text("# Digits.\nbenchmark: quick\n")
    assert not cost.write(path, [])
    assert path.read_text() == "# Digits.\nbenchmark: quick\n"
