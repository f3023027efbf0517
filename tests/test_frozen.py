"""Benchmarks that are read and never trained again."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dgd import config, data, frozen, running, source_files
from dgd.files import file_hash

ROOT = Path(__file__).parents[1]
FROZEN = ("cifar10-small", "controls-small", "decay-small", "fast-path", "zoo-small")


@pytest.mark.parametrize("name", FROZEN)
def test_committed_benchmarks_are_frozen_and_hold_what_their_configs_ask_for(name):
    folder = ROOT / "results" / name
    cells = running.benchmark_cells(ROOT / f"config/{name}.yaml")
    assert frozen.is_frozen(folder)
    assert sum(row["cells"] for row in frozen.made_by(folder)) == len(cells)
    assert frozen.differences(folder, cells, {cell.slug: "nowhere" for cell in cells}) == ""


def test_a_config_that_differs_from_a_frozen_benchmark_is_refused_in_one_line(tmp_path):
    folder = ROOT / "results/decay-small"
    benchmark = config.load(ROOT / "config/decay-small.yaml")
    cells = config.cells(replace(benchmark, recipe=replace(benchmark.recipe, lr=0.2)))
    held = {"cifar10": tmp_path}
    with pytest.raises(
        ValueError, match=r"decay-small is frozen, .*recipe\.lr was 0\.1 and is 0\.2 \(.* and 45 more\)"
    ) as error:
        frozen.refuse(folder, cells, held)
    assert "\n" not in str(error.value)
    (tmp_path / "manifest.json").write_text("{}")
    assert "the data set differs" in frozen.differences(folder, config.cells(benchmark), held)
    more = config.cells(replace(benchmark, seeds=(0, 1, 2, 3, 4, 5)))
    assert "a cell is asked for that is not there" in frozen.differences(folder, more, {"cifar10": "nowhere"})


def test_data_that_are_prepared_again_are_those_of_a_frozen_cell_of_before_there_were_seals(tmp_path):
    manifest, path = data.prepare("digits", tmp_path, train_images=10), tmp_path / "manifest.json"
    sealed = path.read_text()
    del manifest[source_files.SEAL], manifest[source_files.SEALED]
    path.write_text(json.dumps(manifest, indent=1) + "\n")
    record = {"dataset_sha256": file_hash(path)}
    assert frozen.same_data(record, path)
    path.write_text(sealed)
    assert frozen.same_data(record, path)
    for other in (sealed.replace('"test": 599', '"test": 598'), "{", "[]"):
        path.write_text(other)
        assert not frozen.same_data(record, path)


def test_identity_and_freezing_need_no_torch():
    code = "import sys; from dgd import identity, frozen; sys.exit('torch' in sys.modules)"
    environment = {"DGD_NETWORKS": "no", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
