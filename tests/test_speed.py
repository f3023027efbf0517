"""The plain code that ours is timed against computes the same; measuring runs; the written figures are the measured ones."""

import json
import math
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad as zero_pad

from dgd import data, filters, methods, models
from dgd.cell import exchange
from dgd.exchange import blend, find
from speed import ROOT, measured, plain, plain_ffsd, report
from speed.images import CLASSES, MEAN, STD, random_images
from speed.measure import __main__ as command
from speed.measure import gpu
from speed.measure.methods import CLOCKS, PRECISIONS, method_row
from speed.measure.setup import FULL, QUICK, VARIANTS, Setup
from speed.ours import Ours, dataset, make_cell, train_in_turn, with_networks
from speed.plain_process import PlainProcess


def network(name: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return models.create(name, num_classes=CLASSES)


def batch():
    """16 images with labels and index, not augmented."""
    return next(dataset(16).loader("train", batch_size=16).batches())


@pytest.mark.parametrize(("base", "networks"), [("baseline", 1), ("kd", 1), ("dgd", 2)])
def test_a_step_is_the_plain_step(base, networks):
    """Weights and gradients after it; kd differs from the plain one's Kullback-Leibler form by a constant."""
    student, examples = "cifar_resnet8", batch()
    cell = make_cell(student, student, with_networks(base, networks), threads=1, precision="fp32", lr=0.1)
    ours = Ours(cell, steps=1, teachers=[network(student, 7) for _ in cell.teachers])
    nets = [network(student, 0) for _ in range(networks)]
    for net, own in zip(nets, ours.networks):
        net.load_state_dict(own.state_dict())
    recipe = cell.recipe
    optimisers = [
        torch.optim.SGD(net.parameters(), lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        for net, lr in zip(nets, ours.learning_rates(), strict=True)
    ]
    teachers = [network(student, 7).eval() for _ in cell.teachers]
    loaders = [[(examples.inputs["image"], examples.labels)]] * networks
    list(plain.train_epoch(nets, teachers, loaders, optimisers, torch.device("cpu")))
    ours.step(examples)
    for k, (net, own, optimiser) in enumerate(zip(nets, ours.networks, optimisers)):
        # After one step the momentum is the gradient, weight decay added.
        momentum = ours.momentum(k)
        for name, theirs in net.named_parameters():
            expected = optimiser.state[theirs]["momentum_buffer"]
            torch.testing.assert_close(momentum[name], expected, rtol=1e-3, atol=1e-5, msg=name)
        for name, theirs in net.state_dict().items():
            torch.testing.assert_close(own.state_dict()[name], theirs, rtol=1e-3, atol=1e-5, msg=name)


def test_a_step_of_ffsd_is_the_plain_step(monkeypatch):
    """What it does to weights and statistics of all networks and modules, with a diversity that weighs as much as the rest."""
    monkeypatch.setattr(plain_ffsd, "LAM_DIV", 1.0)
    student, examples = "cifar_resnet8", batch()
    row = {"base": "ffsd", "objective": {"ce": 1.0, "ffsd": {"weight": 1.0, "lam_div": 1.0}}}
    ours = Ours(make_cell(student, student, {"ffsd-diverse": row}, 1, precision="fp32", lr=0.1), steps=1)
    theirs = plain_ffsd.Training(student, 16, ours.cell.plain()["recipe"], "cpu")
    leader, _, second = ours.terms("ffsd")
    for norm in (*leader.chain.norms, *second.chain.norms):  # what is made with them must not be what a batch has
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
        torch.nn.init.normal_(norm.running_mean)
    pairs = [
        *zip(ours.networks, [net.net for net in (theirs.leader, *theirs.students)]),
        *((leader.trans, theirs.trans), (leader.fusion.mix, theirs.mix), (leader.fusion.fc, theirs.fc)),
        *zip([leader.chain, second.chain], theirs.chains),
    ]
    before = []
    for own, plainly in pairs:
        # A chain's layers are grouped otherwise.
        names = {key: key for key in own.state_dict()}
        if isinstance(plainly, plain_ffsd.Chain):
            names = {f"steps.{key.split('.')[1]}.{int('norms' in key)}.{key.split('.')[2]}": key for key in own.state_dict()}
        plainly.load_state_dict({name: own.state_dict()[key].clone() for name, key in names.items()})
        before.append((names, {key: value.clone() for key, value in own.state_dict().items()}))
    ours.step(examples)
    theirs.step(examples.inputs["image"], examples.labels, math.exp(-3.2))  # the first epoch of the ramp
    for (module, plainly), (names, started) in zip(pairs, before):
        for name, key in names.items():
            start = started[key].double()
            states = (module.state_dict(), key), (plainly.state_dict(), name)
            own, other = (state[k].double() - start for state, k in states)
            assert (own - other).norm() <= 2e-3 * other.norm(), f"{type(module).__name__} {key}"
            assert other.any(), key


def test_the_plain_transforms_give_our_crops_and_flips_to_the_last_bit():
    """That ours are as likely as torchvision's is tested in test_data.py."""
    images, labels = random_images(1)
    cases = [(i, j, flip) for i in range(9) for j in range(9) for flip in (False, True)]
    rows, columns, flips = (torch.tensor(values) for values in zip(*cases))
    shifts, none = torch.stack([rows, columns]), torch.zeros(len(cases), dtype=torch.int64)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    ours = data.augment(zero_pad(images, [4] * 4), none, shifts, flips, 4, mean, std)
    theirs = plain.Images(images, labels)
    assert all((ours == theirs[0][0]).flatten(1).all(1).sum() == 1 for _ in range(50))


@pytest.mark.parametrize("networks", [2, 3])
def test_the_plain_exchange_is_the_papers(networks):
    nets = [network("cifar_resnet8", seed).train() for seed in range(networks)]
    for net in nets:
        net(torch.randn(4, 3, 32, 32))
    states = [net.state_dict() for net in nets]
    for key, weight in filters.conv_weights(states[0]).items():
        assert plain.entropy(weight) == pytest.approx(float(filters.entropy(weight)), abs=1e-6), key
    options = exchange({"name": "graft"}, protocol="paper")
    shares = find("graft").shares(states, options)
    grafted = [blend(own, states[i - 1], shares[i]) for i, own in enumerate(states)]
    for theirs, ours in zip(plain.graft(states), grafted, strict=True):
        assert theirs.keys() == ours.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.slow
def test_measuring_runs_and_is_rendered(tmp_path):
    out = tmp_path / "machine.json"
    done = subprocess.run(
        [sys.executable, "-m", "speed.measure", "--quick", "--only", ",".join(command.PARTS), "--out", str(out)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    found = json.loads(out.read_text())
    assert set(command.PARTS) == set(found) - {"machine", "runs"}
    assert found["machine"]["bandwidth_gb_s"] > 0
    assert all(len(run["load"]) == 2 and run["finished"] for run in found["runs"].values())
    for row in found["methods"]:
        assert set(row["multiple"]) == set(PRECISIONS)
        assert row["seconds"]["bf16"]["min"] > 0
        assert row["cpu_seconds"]["fp32"]["max"] >= row["cpu_seconds"]["fp32"]["median"]
    for row in found["steps"]:
        assert set(row["images_per_second"]) >= {"plain", "ours", "limit"}
        assert all(values["min"] > 0 for values in row["images_per_second"].values())
    assert all(row["loops_finished"] and row["compiled_finished"] and not row["errors"] for row in found["gpu"]["rows"])
    assert set().union(*(row["images_per_second"] for row in found["gpu"]["rows"])) == set(report.ARMS)
    assert 0 < found["overhead"]["seconds_to_first_step"]["median"] < found["runs"]["overhead"]["seconds"]
    page = report.measurements_page([found], [], [])
    assert "kd, cifar_resnet8 → cifar_resnet8, batch 64: " in page
    assert "| cifar_resnet8 | grafting |" in " ".join(page.split())
    assert "after the `snakemake` command" in page


def test_every_row_of_the_method_table_is_measured():
    assert set(methods.METHODS) < set(FULL.rows)
    assert not set(VARIANTS) & set(methods.METHODS)
    assert set(measured.PUBLIC_CODE_MS) <= set(FULL.rows)


def test_a_method_runs_as_in_a_cell():
    """Banks are of a real data set's size, few batches though an epoch has; filters are dropped when RePr's step is timed."""

    def ours(method, images):
        return Ours(make_cell("cifar_resnet8", "cifar_resnet8", method, threads=1), steps=2, images=images)

    crd = ours("crd", 1000)
    (term,) = crd.terms("crd")
    assert {len(bank.rows) for bank in term.banks.values()} == {1000}
    passes, conv = [], next(module for module in crd.networks[0].modules() if isinstance(module, torch.nn.Conv2d))
    conv.register_forward_hook(lambda *_: passes.append(1))
    crd.train()
    assert len(passes) == 2
    assert ours("repr", None).drops_filters()


def test_groups_in_turn_train_what_each_trains_alone():
    """And the step of the limit leaves no gradient behind, which the next step of ours would add to."""

    def group():
        return Ours(make_cell("cifar_resnet8", "cifar_resnet8", "baseline", 1, batch_size=16), steps=2)

    alone, several = group(), [group(), group()]
    alone.train()
    alone.train()
    several[0].run_limit()
    for module in several[0].networks[0].modules():  # what the limit changes: batch statistics
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    train_in_turn(several, 2)
    for one in several:
        for name, value in one.networks[0].named_parameters():
            assert torch.equal(value, dict(alone.networks[0].named_parameters())[name])
            assert value.grad is None


def test_a_multiple_is_one_of_each_repeat_and_of_the_clock_that_is_asked_for():
    cell = make_cell("cifar_resnet8", "cifar_resnet8", "kd", threads=1)
    base, own = [(10.0, 1.0), (30.0, 3.0), (20.0, 2.0)], [(40.0, 3.0), (60.0, 6.0), (100.0, 7.0)]
    taken = {(p, arm): times for p in PRECISIONS for arm, times in (("baseline", base), ("method", own))}
    row = method_row("kd", cell, 2, taken, CLOCKS.index("seconds"))
    assert row["multiple"]["fp32"] == {"median": 4.0, "min": 2.0, "max": 5.0}
    assert row["seconds"]["bf16"] == {"median": 30.0, "min": 20.0, "max": 50.0}  # of two steps each
    row = method_row("kd", cell, 2, taken, CLOCKS.index("cpu_seconds"))
    assert row["multiple"]["fp32"] == {"median": 3.0, "min": 2.0, "max": 3.5}
    assert (row["clock"], row["repeats"], row["networks"], row["teacher"]) == ("cpu_seconds", 3, 1, "cifar_resnet8")


def test_one_part_is_merged_into_the_file_and_a_busy_machine_is_not_slower(tmp_path):
    out = tmp_path / "machine.json"
    before = {"machine": {"matrix_tflops": {"fp32": 1e9, "bf16": 1e-9}, "bandwidth_gb_s": 1e9}}
    before |= {"exchange": {"was": "there"}, "runs": {"exchange": {"finished": "2026-01-01"}}}
    out.write_text(json.dumps(before))
    command.main(["--quick", "--only", "data", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["exchange"] == before["exchange"]
    assert found["runs"]["exchange"] == before["runs"]["exchange"]
    assert found["data"]["seconds_per_batch"]["min"] > 0
    assert found["runs"]["data"]["command"].endswith(f"--only data --out {out}")
    assert found["machine"]["matrix_tflops"]["fp32"] == 1e9
    assert found["machine"]["matrix_tflops"]["bf16"] > 1e-9
    assert found["machine"]["bandwidth_gb_s"] == 1e9
    assert found["machine"]["threads"] == 1


def machine_file() -> dict:
    """What a machine's file holds, with numbers that are easy to follow."""

    def times(value: float) -> dict:
        return {"median": value, "min": 0.9 * value, "max": 1.1 * value}

    def row(model, method, networks, speed):
        arms = {"plain": times(speed), "ours": times(3 * speed), "limit": times(4 * speed)}
        return {
            "model": model,
            "teacher": "cifar_resnet56" if method == "kd" else None,
            "method": method,
            "networks": networks,
            "batch_size": 64,
            "steps": 20,
            "seconds": {arm: [1.0] * 3 for arm in (*arms, *(["ours_fp32"] if method == "kd" else []))},
            "images_per_second": arms,
            "cpu_seconds_per_image": {arm: times(0.004) for arm in arms},
            "speedup": {"ours": times(3), "ours_fp32": times(1.5)},
            "share_of_limit": times(0.75),
            "recipe": {"precision": "bf16"},
        }

    def method(name, networks, fp32, bf16, **terms):
        """A step of baseline takes 100 ms in float32 and 50 ms in bf16."""
        multiples = {"fp32": (fp32, 0.1), "bf16": (bf16, 0.05)}
        return {
            "method": name,
            "model": "cifar_resnet20",
            "teacher": "cifar_resnet56" if "teacher" in terms else None,
            "networks": networks,
            "objective": {"ce": {"weight": 1.0}, **{term: {"weight": 1.0} for term in terms if term != "teacher"}},
            "batch_size": 64,
            "steps": 2,
            "repeats": 5,
            "clock": "cpu_seconds",
            "cpu_seconds": {precision: times(multiple * base) for precision, (multiple, base) in multiples.items()},
            "baseline_cpu_seconds": {precision: times(base) for precision, (_, base) in multiples.items()},
            "multiple": {precision: times(multiple) for precision, (multiple, _) in multiples.items()},
            "plain_multiple": times(3.6) if name == "ffsd" else None,
        }

    parts = ("steps", "data")
    machine = {"name": "A CPU, 1 thread", "cpu": "A CPU", "cores": 2, "cpu_capability": "AVX2", "gpu": None, "packages": {}}
    return {
        "machine": machine | {"matrix_tflops": {"fp32": 0.1, "bf16": 0.4}, "bandwidth_gb_s": 20.0},
        "runs": {
            **{
                part: {"finished": "2026-01-02T03:04:05+00:00", "git": {"commit": "abcdef0123", "dirty": False}}
                for part in parts
            },
            "methods": {
                "finished": "2026-02-03T04:05:06+00:00",
                "git": {"commit": "0123abcdef", "dirty": True},
                "load": [0.4, 2.5],
            },
        },
        "methods": [
            method("baseline", 1, 1.0, 1.0),
            method("kd", 1, 2.0, 1.5, teacher=True, kd=True),
            method("dgd", 2, 3.6, 3.0, teacher=True, kd=True),
            method("kd-crd", 1, 2.2, 1.5, teacher=True, kd=True),
            method("review", 1, 4.0, 3.0, teacher=True, review=True),
            method("ffsd", 3, 3.75, 3.0, ffsd=True),
            method("sp+graft", 2, 3.8, 3.2, teacher=True, sp=True),
        ],
        "steps": [row("cifar_resnet20", "kd", 1, 100.0), row("cifar_resnet20", "grafting", 2, 250.0)],
        "data": {"batch_size": 64, "seconds_per_batch": times(0.0032)},
        "exchange": [
            {
                "model": "cifar_resnet20",
                "networks": 4,
                "seconds": {"plain": times(2), "ours": times(0.016)},
                "speedup": times(120),
            },
            {
                "model": "cifar_resnet56",
                "networks": 2,
                "seconds": {"plain": times(1), "ours": times(0.01)},
                "speedup": times(100),
            },
        ],
        "overhead": {"seconds_to_first_step": times(10), "seconds_per_cell": times(5), "cells": 4},
        "memory": [{"model": "resnet18", "method": "kd", "networks": 1, "measured_mib": 1000.0, "estimated_mib": 1100.0}],
    }


def test_what_is_rendered_is_what_was_measured(tmp_path):
    (tmp_path / "a-cpu-1-thread.json").write_text(json.dumps(machine_file()))
    growth = {"cells": 1000, **{f"{step}_seconds": 2.5 for step in report.GROWTH}}
    (tmp_path / "scale-a-cpu.json").write_text(
        json.dumps(
            {
                "scale": [growth],
                "machine": {"cpu": "A CPU", "cores": 2},
                "git": {"commit": "abcdef0123", "dirty": False},
                "finished": "2026-01-02T03:04:05+00:00",
            }
        )
    )
    machines, growth = measured.read(tmp_path)
    tried = [{"what": "CUDA graphs", "figure": "1.00 times", "verdict": "left out"}]
    page = " ".join(report.measurements_page(machines, growth, tried).split())
    for text in (
        "## A CPU, 1 thread",
        "Measured: steps, data on 2026-01-02 at abcdef0; methods on 2026-02-03 at 0123abc with changes.",
        "in CPU-seconds; cifar_resnet20 ← cifar_resnet56, batch 64, 5 repeats of 2 steps.",
        "load average was 0.4 when it started and 2.5 when it ended",
        "| baseline | 1 | 1.00 (0.900–1.10) | 1.00 (0.900–1.10) | 1.00 | | 1.00 | | | 100 | 50.0 | 236 |",
        "| kd | 1 | 2.00 (1.80–2.20) | 1.50 (1.35–1.65) | 2.00 | | 2.17 | | | 200 | 75.0 | 511 |",
        # Of four steps of baseline two are the network's and its teacher's (of 2, 1.8 and 2.2), of three one and a half.
        "| review | 1 | 4.00 (3.60–4.40) | 3.00 (2.70–3.30) | 4.00 | | 3.10 | 50.0 % | 50.0 % | 400 | 150 | 731 |",
        "| ffsd | 3 | 3.75 (3.38–4.12) | 3.00 (2.70–3.30) | 3.75 | 3.60 (3.24–3.96) | 3.31 | 20.0 % | 0 % | 375 | 150 | 782 |",
        # Two networks with a teacher each take four steps of baseline: it cannot take less, so it is noise.
        "| sp+graft | 2 | 3.80 (3.42–4.18) | 3.20 (2.88–3.52) | 3.80 | | | 0 % | 6.25 % | 380 | 160 | |",
        "batch 64: 3.00 (2.70–3.30) times the plain loop**, 300 images/s against 100, and 75.0 % of the limit.",
        "| cifar_resnet20 ← cifar_resnet56 | kd | bf16 | 3.00 (2.70–3.30) | 0.750 (0.675–0.825) | 100 | 300 | 400 | 4.00 | "
        "4.00 |",
        # 3.2 ms of a step of 64 images at 300 images/s
        "takes 3.20 (2.88–3.52) ms: 1.50 % of a kd step of cifar_resnet20.",
        # 16 ms of an epoch in which four networks see 50,000 images each, at 750 images/s
        "| cifar_resnet20 | 4 | 120 (108–132) | 2.00 | 16.0 | 0.00600 % |",
        "| cifar_resnet56 | 2 | 100 (90.0–110) | 1.00 | 10.0 | |",
        "at least 100 times as fast",
        "starts 10.0 (9.00–11.0) s after the `snakemake` command",
        "| resnet18 | kd | 1 | 1,000 | 1,100 | 1.10 |",
        "| 1,000 | 2.50 | 2.50 | 2.50 | 2.50 | 2.50 |",
        "| CUDA graphs | 1.00 times | left out |",
    ):
        assert text in page
    assert "at most 0.00600 % of an epoch" in page
    assert "| cifar_resnet20 ← cifar_resnet56 | kd | 100 | 300 | 3.00 |" in " ".join(report.summary(machines).split())


def gpu_rows() -> dict:
    """What a GPU's part holds: one row whole, one whose step cannot be captured, one that was not measured."""

    def times(value: float) -> dict:
        return {"median": value, "min": 0.9 * value, "max": 1.1 * value}

    about = {
        "networks": 1,
        "batch_size": 128,
        "recipe": {"precision": "bf16"},
        "repeats": 3,
        "cells": 5,
        "moved_bytes": 1_000_000,
    }
    about |= {"steps": {"captured": 390, "eager": 50}, "start_seconds": 12.3}
    speeds = {
        "captured": 300,
        "together": 800,
        "eager": 75,
        "limit_eager": 80,
        "limit_captured": 400,
        "plain": 30,
        "compiled": 90,
    }
    whole = {"model": "cifar_resnet32", "method": "baseline", "teacher": None, **about, "errors": {}}
    whole |= {
        "how": {"captured": "replayed as a CUDA graph"},
        "images_per_second": {arm: times(s) for arm, s in speeds.items()},
    }
    other = whole | {"method": "kd", "teacher": "cifar_resnet56", "how": {"captured": "eager, because of something"}}
    other |= {"images_per_second": {"captured": times(60)}, "errors": {"loops": "out of memory"}}
    nothing = {"model": "resnet18", "method": "dgd", "images_per_second": {}, "errors": {"loops": "it is broken"}}
    return {"rows": [whole, other, nothing], "left_out": ["cifar_resnet56 kd, compiled"]}


def test_the_rows_of_a_gpu_are_rendered_with_what_is_missing():
    found = machine_file() | {"gpu": gpu_rows()}
    page = " ".join("\n".join(report.machine_section(found)).split())
    for text in (
        "### On the GPU Images/s over all networks, batch 128, bf16, 3 repeats.",
        "*side by side* (5 cells) are epochs of 390 steps, *eager* and *compiled* of 50.",
        "cifar_resnet32 kd ran eager, because of something.",
        "cifar_resnet32 kd, loops: out of memory. resnet18 dgd, loops: it is broken.",
        "Not measured, because the time was over: cifar_resnet56 kd, compiled.",
        # 20 GB/s move 20,000 images of 1 MB; 300 of 400 images/s are 75 %
        "| cifar_resnet32 | baseline | 30.0 (27.0–33.0) | 75.0 (67.5–82.5) | 300 (270–330) | 800 (720–880) | 90.0 (81.0–99.0) "
        "| 80.0 (72.0–88.0) | 400 (360–440) | 20,000 | 75.0 % | 12.3 |",
        "| cifar_resnet32 ← cifar_resnet56 | kd | | | 60.0 (54.0–66.0) | | | | | 20,000 | | 12.3 |",
    ):
        assert text in page


def test_a_trial_is_not_taken_for_this_project():
    trial = measured.read_trial()
    text = "\n\n".join(report.trial_section(trial))
    assert "## A trial on a GPU: not this loop\n\n**None of these is a figure of the loop that is here.**" in text
    assert all(part in text for part in (str(trial["date"]), trial["card"], trial["versions"]))
    assert all(len(row) == len(one["columns"]) for one in trial["tables"] for row in one["rows"])
    assert report.PAGE.read_text().count("## A trial on a GPU: not this loop") == 1


def gpu_setup(tmp_path, seconds=math.inf, before=(), **changes) -> Setup:
    size = replace(QUICK, gpu=replace(QUICK.gpu, **changes))
    return Setup(size, 1, PlainProcess(1), seconds, {"rows": list(before)})


def test_the_most_important_rows_of_a_gpu_come_first():
    rows = gpu.wanted_rows(FULL.gpu)
    assert [str(row) for row in rows[:5]] == [
        *(f"cifar_resnet32 {method}" for method in ("baseline", "kd", "grafting", "dgd")),
        "cifar_resnet56 baseline",
    ]
    assert len(rows) == len(set(rows)) == 2 * 6 * 4
    assert [row.compiled for row in rows] == [False] * 24 + [True] * 24
    taught = {row.model: row.teacher for row in rows}
    assert {model for model, teacher in taught.items() if teacher == "cifar_resnet56"} == {"cifar_resnet20", "cifar_resnet32"}
    assert set(taught.values()) == {"cifar_resnet56", "cifar_resnet110"}


def test_a_row_of_a_gpu_is_measured_in_its_process(monkeypatch, capsys):
    """In this one: on a CPU a step is what the launcher makes of it, eager."""
    row = gpu.Row("cifar_resnet8", "cifar_resnet8", "kd", compiled=False)
    monkeypatch.setenv(gpu.STARTED, str(time.time() - 100))
    gpu.main(json.dumps({"row": vars(row), "gpu": vars(QUICK.gpu), "threads": 1}))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(line["images_per_second"])[-1] for line in lines] == ["captured", "together", "limit_captured", "plain"]
    found = lines[-1]
    assert set(found["images_per_second"]) == set(report.ARMS) - {"compiled"}
    assert all(values["min"] > 0 for values in found["images_per_second"].values())
    assert found["start_seconds"] > 50
    assert found["how"]["captured"] == "eager" if not torch.cuda.is_available() else found["how"]["captured"]
    assert found["recipe"]["batch_size"] == found["batch_size"] == QUICK.gpu.batch_size
    # bf16: 2 bytes of each value that the backward pass needs, written and read
    assert found["moved_bytes"] > 2 * 2 * 32 * 32 * 16 * 8


def test_a_row_of_a_gpu_that_fails_is_recorded_and_ends_nothing(tmp_path, capsys):
    before = {"card": gpu.card(), "code_sha256": gpu.code(), "errors": {}, "model": "no_such_model", "method": "kd"}
    done = before | {"images_per_second": {"captured": {"median": 1.0}}, "loops_finished": "then", "compiled_finished": "then"}
    alone = before | {"method": "baseline", "compiled_finished": "then"}
    setup = gpu_setup(tmp_path, before=[alone, done], models={"no_such_model": "cifar_resnet8"}, methods=("baseline", "kd"))
    found = gpu.measure(setup)
    assert found["left_out"] == []
    assert found["rows"][1] == done
    assert "no_such_model" in found["rows"][0]["errors"]["loops"]
    assert found["rows"][0]["loops_finished"]
    assert "no_such_model baseline: {} images/s; " in capsys.readouterr().out


def test_rows_of_a_gpu_go_on_in_another_run_and_what_does_not_fit_is_said(tmp_path, capsys):
    stamp = {"card": gpu.card(), "code_sha256": gpu.code()}
    row = {"model": "cifar_resnet8", "method": "baseline", "errors": {}, "images_per_second": {"captured": {"median": 1.0}}}
    done = row | stamp | {"loops_finished": "2026-01-01", "compiled_finished": "2026-01-01"}
    other_card, other_code = done | {"card": "another"}, done | {"code_sha256": "another"}
    found = gpu.measure(gpu_setup(tmp_path, 0, [done, other_card | {"method": "dgd"}]))
    assert found == {"rows": [done], "left_out": ["cifar_resnet8 dgd", "cifar_resnet8 dgd, compiled"]}
    assert "because the time was over: cifar_resnet8 dgd; cifar_resnet8 dgd, compiled" in capsys.readouterr().out
    found = gpu.measure(gpu_setup(tmp_path, 0, [other_code], methods=("baseline",)))
    assert found == {"rows": [], "left_out": ["cifar_resnet8 baseline", "cifar_resnet8 baseline, compiled"]}


def test_what_a_process_said_before_its_end_is_kept():
    assert gpu._last('{"a": 1}\nnoise\n{"a": 2}\n{"a": 3') == {"a": 2}
    assert gpu._last(b'{"a": 1}\n') == {"a": 1}
    assert gpu._last(None) == gpu._last("noise\n") == {}


@pytest.mark.slow
def test_a_row_whose_step_cannot_be_captured_is_measured_as_it_is(tmp_path, monkeypatch):
    """A launcher that fails once as a capture does, in the row's own process."""
    (tmp_path / "sitecustomize.py").write_text(
        "import json, os\n"
        "from dgd.train import graphs\n"
        "def launcher(step, group, *rest):\n"
        "    path = group.cell.path\n"
        "    why = json.loads(os.environ.get(graphs.EAGER, '{}')).get(path)\n"
        "    if why is None:\n"
        "        raise graphs.CannotCapture(path, 'it reads the host')\n"
        "    return graphs.Launcher(step, graphs.eager(why))\n"
        "graphs.launcher = launcher\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    setup = gpu_setup(tmp_path, methods=("baseline",))
    found, error = gpu.in_process(setup, gpu.wanted_rows(setup.size.gpu)[0], math.inf)
    assert found.get("how") == {"captured": "eager, because it reads the host"}, error
    assert set(found["images_per_second"]) == set(report.ARMS) - {"compiled"}
    assert "its step cannot be captured as a CUDA graph: it reads the host" in error


def test_marks_keep_the_text_around_them():
    mark = "<!-- results: written by `python -m speed.report` -->"
    text = report.between(f"before\n{mark}\nold\n<!-- end of results -->\nafter\n", "results", "new")
    assert text == f"before\n{mark}\n\nnew\n\n<!-- end of results -->\nafter\n"
    assert report.between(text, "results", "new") == text
    assert report.between("no marks\n", "results", "new") == "no marks\n"


def test_the_written_figures_are_the_measured_ones():
    assert report.PAGE.read_text() == report.render(), "run `python -m speed.report`"
