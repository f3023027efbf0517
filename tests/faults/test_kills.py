"""Commands that are killed at any moment, and started again until they are done: the bytes of a run that nobody killed."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.commands import (
    SAID,
    Command,
    benchmark,
    catches,
    check_cells,
    dgd_bench,
    repository,
    results,
    snakemake,
    unfinished,
)

MOMENTS = int(os.environ.get("DGD_MOMENTS", 50))
"""How often each command is killed by each signal."""
IN_A_ROW = 3
"""Kills of one training, before it may end."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def seconds_of(command: Command) -> float:
    """Run a command to its end; return how long it took."""
    begun = time.monotonic()
    command.run()
    return time.monotonic() - begun


def check_ended(command: Command, number: signal.Signals) -> None:
    """Hold what a command that was ended by a signal has left: one line, its status, and no process."""
    left = command.left(60)
    assert left == [], left
    printed = command.printed.read_text()
    if number != signal.SIGKILL and command.ready:
        lines = [line for line in command.lines() if "top-1 accuracy" not in line]
        assert lines == [f"dgd-bench: {SAID[number]}; the same command goes on"], printed
        assert command.process.returncode == 128 + number
        assert "Traceback" not in printed


def broken_off(command: Command, whole: dict, root: Path, number, moments: int, seconds: float, whom=None) -> Counter:
    """Kill a command at random moments, some times in a row, and let it end then, until it was killed so often."""
    chosen, kills, done, row = random.Random(f"{number} {root.name} {moments}"), 0, 0, 0
    while kills < moments:
        command.start()
        if row < IN_A_ROW and command.kill(number, chosen.uniform(0, seconds), whom and (lambda: whom(command, chosen))):
            kills, row = kills + 1, row + 1
            check_ended(command, number)
            check_cells(root, whole)
            continue
        assert command.process.wait(600) == 0, command.printed.read_text()
        assert command.left() == []
        assert results(root) == whole
        assert unfinished(root) == []
        done, row = done + 1, 0
        Path(root).rename(root.with_name(f"{root.name}-{number}-{done}"))
    return Counter(kills=kills, done=done)


KINDS = {
    "a teacher and an exchange": ({}, ()),
    "side by side": (
        {"methods": ["baseline", "grafting", "self-explanation"], "pairs": [{"student": "cifar_resnet8"}]},
        ("--together", "3"),
    ),
    "two processes": (
        {"methods": ["grafting"], "pairs": [{"student": "cifar_resnet8"}], "recipe": {"ranks_per_network": 1}},
        (),
    ),
}


def one_of_its_own(command: Command, chosen: random.Random) -> int:
    """The launcher, torchrun or one of the processes that it started."""
    found = [pid for pid, line in command.processes().items() if "multiprocessing" not in line]
    return chosen.choice(sorted(found))


@pytest.mark.faults
@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_is_killed_at_any_moment_gives_the_bytes_of_one_that_is_not(tmp_path, kind, number):
    keys, options = KINDS[kind]
    path = benchmark(tmp_path, **keys)
    seconds_of(dgd_bench("train", path, *options, "--results", tmp_path / "first", printed=tmp_path / "printed"))
    whole_run = dgd_bench("train", path, *options, "--results", tmp_path / "whole", printed=tmp_path / "printed")
    seconds, whole = seconds_of(whole_run), results(tmp_path / "whole")
    assert whole == results(tmp_path / "first")
    root = tmp_path / "killed"
    command = dgd_bench("train", path, *options, "--results", root, printed=tmp_path / "printed")
    begun = time.monotonic()
    whom = one_of_its_own if (kind, number) == ("two processes", signal.SIGKILL) else None
    found = broken_off(command, whole, root, number, MOMENTS, seconds, whom)
    print(f"\n{kind}, {number.name}: {dict(found)}, {seconds:.1f} s unbroken, {time.monotonic() - begun:.0f} s in all")


@pytest.mark.parametrize("number", SAID, ids=lambda number: number.name)
def test_a_signal_while_packages_are_imported_is_one_line(tmp_path, number):
    command = dgd_bench("list", printed=tmp_path / "printed")
    command.start()
    while not catches(command.process.pid, signal.SIGTERM):
        time.sleep(0.005)
    assert command.kill(number, 0.05)
    check_ended(command, number)


# ------------------------------------------------------------------------------------------------------- the workflow


def tables(folder: Path) -> dict[str, bytes]:
    """Return the files of tables and figures; the table of methods has times, which no two runs share."""
    found = [path for part in ("tables", "figures") for path in (folder / part).iterdir()]
    return {path.name: path.read_bytes() for path in found if not path.name.startswith((".", "methods."))}


def unlock(repo: Path, config: Path) -> None:
    """Do what docs/running.md says after a kill of Snakemake itself."""
    if any((repo / ".snakemake" / "locks").glob("*")):
        snakemake(repo, config, "--unlock").run()


@pytest.mark.faults
@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_workflow_that_is_killed_at_any_moment_gives_the_bytes_of_one_that_is_not(tmp_path, number):
    root, results_of = tmp_path / "repo", {}
    for name in ("whole", "killed"):
        repo = repository(root / name)
        config = benchmark(
            repo,
            together=1,
            methods=["baseline", "dgd"],
            recipe={"epochs": 2},
            data={"dir": "data", "train_images": 40, "validation_images": 20},
        )
        results_of[name] = snakemake(repo, config)
    begun = time.monotonic()
    results_of["whole"].run()
    seconds = time.monotonic() - begun
    whole = root / "whole" / "results"
    wanted, kept = results(whole), tables(whole / "t")
    repo, command = root / "killed", results_of["killed"]
    chosen, kills, done, row = random.Random(f"{number} {MOMENTS}"), 0, 0, 0
    begun = time.monotonic()
    while kills < MOMENTS:
        unlock(repo, config)
        command.start()
        if row < IN_A_ROW and command.kill(number, chosen.uniform(0, seconds)):
            kills, row = kills + 1, row + 1
            left = command.left(60)
            assert left == [], left
            check_cells(repo / "results", wanted)
            printed = command.printed.read_text()
            logs = "".join(path.read_text() for path in (repo / "results").rglob("train.log"))
            assert "Traceback" not in printed + logs, printed + logs
            continue
        assert command.process.wait(900) == 0, command.printed.read_text()
        assert command.left() == []
        assert results(repo / "results") == wanted
        assert unfinished(repo / "results") == unfinished(repo / "data") == []
        assert tables(repo / "results" / "t") == kept
        done, row = done + 1, 0
        for name in ("results", "data", ".snakemake"):
            (repo / name).rename(repo / f"{name}-{done}")
    took = time.monotonic() - begun
    print(f"\nsnakemake, {number.name}: {kills} kills, {done} done, {seconds:.0f} s unbroken, {took:.0f} s in all")
