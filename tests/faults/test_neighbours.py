"""What others do meanwhile: readers, second commands, streaming workers, clocks, terminals without a home or UTF-8, pipes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from taught import TEACHER

from dgd import cli, files, identity, seals
from dgd.train.record import RESUME
from tests.faults.commands import (
    benchmark,
    dgd_bench,
    environment,
    repository,
    results,
    snakemake,
    take_lock,
    unfinished,
)
from tests.helpers import ROOT, start_process

# --------------------------------------------------------------------------------------- readers of what is written


def write_again_and_again(folder: Path, contents: list[dict], stop: Path) -> None:
    """Write one cell or another into a folder until there is a file."""
    k = 0
    while not stop.exists():
        with files.locked(folder):
            identity.write_cell(folder, TEACHER, contents[k % 2], {"cell": TEACHER.path}, {"status": "finished", "top1": k % 2})
        k += 1


@pytest.mark.parametrize("reads", [1_000, pytest.param(10_000, marks=pytest.mark.faults)])
def test_whoever_reads_a_cell_that_is_written_sees_whole_files(tmp_path, reads):
    """Each file is the old or the new one, or is not there; what holds to the seal is never of two cells."""
    names = [name for name in identity.OUTPUTS if name not in ("metrics.json", "provenance.json", "config.yaml")]
    contents = [{name: bytes([k]) * 100_000 for name in names} for k in (1, 2)]
    folder, stop, wanted = tmp_path / "cell", tmp_path / "stop", {}
    for k in (0, 1):
        identity.write_cell(tmp_path / str(k), TEACHER, contents[k], {"cell": TEACHER.path}, {"status": "finished", "top1": k})
        for name in identity.OUTPUTS:
            wanted.setdefault(name, set()).add((tmp_path / str(k) / name).read_bytes())
    writer = start_process(write_again_and_again, folder, contents, stop, output=tmp_path / "printed")
    torn, absent, seen = [], 0, set()
    while not (folder / "metrics.json").exists():
        time.sleep(0.01)
    try:
        for k in range(reads):
            name = identity.OUTPUTS[k % len(identity.OUTPUTS)]
            try:
                content = (folder / name).read_bytes()
            except FileNotFoundError:
                absent += 1
                continue
            seen.add((name, content))
            torn += [name] * (content not in wanted[name])
    finally:
        stop.touch()
        writer.join()
    assert writer.exitcode == 0
    assert torn == []
    assert absent < reads / 2
    assert len(seen) > len(identity.OUTPUTS), "it was written while it was read"
    assert seals.check_seal(folder, identity.OUTPUTS)
    print(f"\n{reads} reads, 0 torn, {absent} of a metrics.json that was not there")


# --------------------------------------------------------------------------------------------------- second commands


@pytest.mark.faults
def test_a_second_snakemake_is_refused_and_the_first_goes_on(tmp_path):
    repo = repository(tmp_path / "repo")
    config = benchmark(repo, together=1, data={"dir": "data", "train_images": 40, "validation_images": 20})
    first = snakemake(repo, config)
    first.start()
    while not list((repo / ".snakemake").glob("locks/*")):
        time.sleep(0.1)
        assert first.process.poll() is None, first.printed.read_text()
    second = snakemake(repo, config)
    second.printed = repo / "second"
    assert second.start().wait(120) == 1
    said = second.printed.read_text()
    assert "Directory cannot be locked" in said, said
    assert "Traceback" not in said
    assert first.process.wait(600) == 0, first.printed.read_text()
    assert len(results(repo / "results")) == 2
    assert unfinished(repo / "results") == []


# ------------------------------------------------------------------------------------------------- streaming workers


def streaming(folder: Path) -> Path:
    """Write a benchmark whose images two workers read from files in each epoch, a thousand of them."""
    pixels = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 4)):
        for name in ("crow", "owl"):
            (folder / "birds" / part / name).mkdir(parents=True)
            for i in range(count):
                image = pixels.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / "birds" / part / name / f"{i}.png")
    data = {"dir": str(folder / "data"), "image_size": 16, "loader": "stream", "workers": 2}
    keys = {"pairs": [{"student": "cifar_resnet8"}], "methods": ["baseline"], "datasets": [f"imagefolder:{folder / 'birds'}"]}
    return benchmark(folder, {"epochs": 1000}, data=data, **keys)


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_training_with_streamed_images_ends_with_its_workers(tmp_path, number):
    """Its lock, which a worker inherits, is free within a minute, and mostly at once."""
    command = dgd_bench("train", streaming(tmp_path), "--results", tmp_path / "results", printed=tmp_path / "printed")
    chosen = random.Random(number)
    for _ in range(3):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(RESUME)}
        command.start()
        while {path: path.stat().st_mtime_ns for path in tmp_path.rglob(RESUME)} == before:
            assert command.process.poll() is None, command.printed.read_text()
            time.sleep(0.05)
        assert command.kill(number, chosen.uniform(0, 2))
        ended = time.monotonic()
        assert command.left(60) == []
        (folder,) = (path.parent for path in tmp_path.rglob(RESUME))
        take_lock(folder)
        print(f"\n{number.name}: all processes gone and the lock free after {time.monotonic() - ended:.1f} s")
        if number != signal.SIGKILL:
            words = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}
            assert command.lines() == [f"dgd-bench: {words[number]}; the same command goes on"]


# ------------------------------------------------------------------------------------------------------------ clocks


@pytest.mark.parametrize("year", [1990, 2040])
def test_a_clock_that_was_set_back_or_ahead_makes_nothing_stale(tmp_path, capsys, year):
    path = benchmark(tmp_path, {"epochs": 1}, methods=["baseline"], pairs=[{"student": "cifar_resnet8"}])
    words = [str(path), "--results", str(tmp_path / "results")]
    assert cli.main(["train", *words]) == 0
    for file in tmp_path.rglob("*"):
        os.utime(file, (when := (year - 1970) * 365.25 * 86400, when))
    assert cli.main(["status", *words]) == 0
    capsys.readouterr()
    assert cli.main(["train", *words]) == 0
    assert "already there" in capsys.readouterr().err


@pytest.mark.faults
def test_a_workflow_of_another_time_trains_nothing(tmp_path):
    repo = repository(tmp_path / "repo")
    config = benchmark(repo, {"epochs": 1}, together=1, data={"dir": "data", "train_images": 40, "validation_images": 20})
    snakemake(repo, config).run()
    chosen = random.Random(0)
    for file in [*repo.glob("results/**/*"), *repo.glob("data/**/*")]:
        when = time.time() + chosen.uniform(-1, 1) * 10**8  # three years
        os.utime(file, (when, when), follow_symlinks=False)
    printed = snakemake(repo, config, "-n").run()
    assert "training" not in printed
    assert "preparing" not in printed


# ------------------------------------------------------------------------------------------------ terminals and pipes


@pytest.mark.faults
def test_without_a_home_and_utf_8_names_of_any_language_are_trained_and_listed(tmp_path):
    folder = tmp_path / "r\u00e9sultats \u4e2d"
    path = benchmark(tmp_path / "\u00e4", {"epochs": 1}, methods=["baseline"], pairs=[{"student": "cifar_resnet8"}])
    env = {key: value for key, value in environment().items() if key not in ("HOME", "LANG", "LC_CTYPE")}
    env |= {"LC_ALL": "C"}
    for words in (["train", path, "--results", folder], ["status", path, "--results", folder], ["table", folder / "t"]):
        done = subprocess.run(
            [sys.executable, "-m", "dgd.cli", *map(str, words)], env=env, capture_output=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
    assert len(results(folder)) == 1
    words = ["train", path, "--results", tmp_path / "new"]
    done = subprocess.run(  # where Python is told not to help itself
        [sys.executable, "-m", "dgd.cli", *map(str, words)], env=env | {"PYTHONUTF8": "0"}, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith(b"a name that this locale cannot write; set PYTHONUTF8=1\n"), done.stderr
    assert done.stderr.count(b"\n") == 1


LISTINGS = {
    "claims": ["claims", "results/decay-small", "--csv"],
    "list": ["list"],
    "list of cells": ["list", "cells", "config/cifar100.yaml"],
    "status": ["status", "config/cifar100.yaml"],
    "status of results": ["status", "results/decay-small"],
    "table": ["table", "results/decay-small"],
    "controls": ["controls", "results/controls-small", "--config", "config/controls-small.yaml"],
    "help": ["--help"],
}


@pytest.mark.parametrize(
    "name", [*[pytest.param(name, marks=pytest.mark.faults) for name in LISTINGS if name != "help"], "help"]
)
def test_a_listing_into_a_pipe_that_nobody_reads_says_nothing(name):
    """As `| head` leaves it after its lines."""
    read, write = os.pipe()
    os.close(read)
    variables = {"DGD_NETWORKS": "no"} if name not in ("list", "list of cells") else {}
    done = subprocess.run(
        [sys.executable, "-m", "dgd.cli", *LISTINGS[name]],
        stdout=write,
        stderr=subprocess.PIPE,
        env=environment(**variables),
        cwd=ROOT,
        check=False,
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode in (0, 1)
