"""Benchmarks of hundreds of cells, as `speed.scale` builds them: everything is there once. Timings are never asserted."""

import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from dgd.config import cells, check
from dgd.read.cells import collect
from dgd.read.filter_sets import filters_table
from dgd.read.papers import read_papers
from dgd.read.results import results_table
from speed import ROOT, scale


@pytest.mark.parametrize(("count", "datasets", "pairs"), [(100, 1, 1), (2500, 1, 25), (10000, 4, 25)])
def test_a_config_has_exactly_so_many_cells(count, datasets, pairs):
    config = scale.benchmark(count)
    assert (len(config["datasets"]), len(config["pairs"])) == (datasets, pairs)
    assert len({cell.path for cell in cells(check(config))}) == count


@pytest.mark.parametrize("count", [0, 150, 2700, 10100])
def test_another_number_of_cells_is_refused(count):
    with pytest.raises(ValueError, match=f"--cells {count}: give a multiple of 100"):
        scale.benchmark(count)


def test_a_plan_lists_every_cell_once(tmp_path):
    config = scale.set_up(tmp_path, 300)
    env = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE_")}
    env |= {"PYTHONPATH": str(tmp_path), "DGD_NETWORKS": "no"}
    command = [sys.executable, "-m", *scale.steps(config["papers"])["plan"]]
    plan = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert plan.returncode == 0, plan.stderr
    found = re.findall(r"^Job \d+: training (?:the teacher )?(\S+)$", plan.stdout + plan.stderr, re.MULTILINE)
    assert Counter(found) == {cell.path: 1 for cell in cells(check(config))}


def test_every_cell_is_collected_and_tabulated_once(tmp_path):
    config = scale.set_up(tmp_path, 200)
    assert scale.fill(tmp_path / "results", config, scale.template(tmp_path / "template")) == 200
    frame = collect(tmp_path / "results" / "scale", cells(check(config)))
    networks = {"baseline": 1, "kd": 1, "grafting": 2, "dgd": 2}
    expected = Counter({method: 10 * networks[re.sub("-x.*", "", method)] for method in frame["method"].unique()})
    assert Counter(frame["method"]) == expected
    assert set(frame["status"]) == {"finished"}
    folders = frame.loc[frame["network"] == 0, "folder"]
    assert sorted(folders) == sorted(cell.path.removeprefix("scale/") for cell in cells(check(config)))
    papers = read_papers([ROOT / "papers" / "dgd.yaml"])
    table = results_table(frame, papers).frame
    assert len(table) == 40
    assert set(table["status"]) == {"5 of 5"}
    assert table["n"].eq(5).all()
    assert len(filters_table(frame, papers).frame) == 80
    assert json.loads((tmp_path / "scale.json").read_text()) == config
