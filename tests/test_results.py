"""What is committed under results/ comes out again from the cells' own files and today's code."""

import json
from pathlib import Path

import pytest

from dgd import config, frozen, keys
from dgd.read.cells import collect
from pipeline import committed, tabulate

ROOT = Path(__file__).parents[1]
BENCHMARKS = sorted(path.parent for path in (ROOT / "results").glob("*/cells.csv") if (path.parent / "tables").is_dir())
COMMITTED = [folder for folder in BENCHMARKS if (ROOT / "results" / "README.md").read_text().count(f"## {folder.name}\n")]


def test_there_are_some():
    assert "cifar10-small" in {folder.name for folder in COMMITTED}


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_tables_come_out_again(folder, tmp_path):
    benchmark = config.load(ROOT / "config" / f"{folder.name}.yaml")
    cells = config.cells(benchmark)
    frame = collect(folder, cells, frozen.standing(cells, folder.parent))
    frame.to_csv(tmp_path / "cells.csv", index=False)
    assert (tmp_path / "cells.csv").read_bytes() == (folder / "cells.csv").read_bytes()
    papers = [f"{ROOT}/papers/{name}.yaml" for name in benchmark.papers]
    options = ["--report", benchmark.report, "--controls", json.dumps(keys.plain(benchmark.controls))]
    options += ["--papers", *papers] if papers else []
    tabulate.main(["--cells", str(folder / "cells.csv"), "--out", str(tmp_path / "tables"), *options])
    made = sorted((tmp_path / "tables").iterdir())
    there = sorted(path.name for path in (folder / "tables").iterdir() if not path.name.startswith("."))
    assert [path.name for path in made] == there
    for path in made:
        assert path.read_bytes() == (folder / "tables" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_the_readme_shows_a_table(folder):
    """The results, or the methods or sub-nets where the benchmark is about those."""
    paths = [folder / "tables" / f"{name}.md" for name in ("results", "methods", "subnets")]
    found = [path.read_text().split("\n\n")[0] for path in paths if path.is_file()]
    assert any(table in (ROOT / "results" / "README.md").read_text() for table in found)


def test_the_page_has_the_tables_as_they_are():
    text = committed.README.read_text()
    assert committed.render(text) == text
    changed = text.replace("| kd ", "| xx ", 1)
    assert committed.render(changed) == text
    with pytest.raises(ValueError, match="none has the columns"):
        committed.render("## ddnn\n\n| a | b |\n|:--|:--|\n| 1 | 2 |\n")
