"""Judged claims as tables, and in the terminal."""

import io
import re
import subprocess
import sys

import pandas as pd
import pytest
from claimed import PAPERS, ROOT, frame, judge, paper

from dgd import cli
from dgd.read import claims
from dgd.read.cells import collect
from dgd.read.claims import text
from dgd.read.papers import read_papers
from dgd.read.results import results_table
from dgd.read.table import markdown, write


def test_written_and_read_again(tmp_path):
    table = judge(paper(tmp_path), frame(("baseline", [90.0, 90.1, 90.2]), ("grafting", [91.0, 91.1, 91.2])))
    csv, md, tex = write(claims.table(table), tmp_path / "tables" / "claims")
    page = md.read_text()
    assert "| gain: Grafting helps. " in page
    assert "| 91.10 ± 0.10 over 90.10 ± 0.10 | +1.00 [+0.77, +1.23] | +1.00 " in page
    assert "| reproduced " in page
    for word in ("as published", "Welch", "settings run", "direction only"):
        assert word in page
    body = "".join(line for line in tex.read_text().splitlines() if not line.startswith("%"))
    assert body.isascii()
    again = claims.typed(pd.read_csv(csv))
    assert markdown(claims.table(again)) == page
    write(claims.table(judge(paper(tmp_path))), tmp_path / "none")
    assert "| not run " in (tmp_path / "none.md").read_text()
    assert "nan" not in (tmp_path / "none.md").read_text()


def test_of_very_many_rows_a_reader_sees_those_that_count(tmp_path, monkeypatch):
    cells = frame(("baseline", [90.0, 90.1, 90.2]), ("grafting", [91.0, 91.1, 91.2]))
    table = judge(paper(tmp_path), cells, cells.assign(student="cifar_resnet8", benchmark="c"))
    assert len(claims.table(table).text) == len(claims.shown(table)) == 2
    monkeypatch.setattr(text, "LISTED", 1)
    assert claims.table(table).text["verdict"].tolist() == ["reproduced"]
    assert claims.table(table).footnotes[0].startswith("1 rows that no claim's verdict rests on")
    elsewhere = judge(paper(tmp_path), *[cells.assign(student=name) for name in ("cifar_resnet8", "cifar_resnet20")])
    (row,) = claims.table(elsewhere).text.to_dict("records")
    assert (row["verdict"], row["all settings"]) == ("not run", "not run as published; at other scales: 2 direction only")


def test_the_command_lists_what_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["claims", "results/cifar10-small", "--paper", "dgd"]) == 0
    out = capsys.readouterr().out
    assert "dgd-t8-dgd-over-kd (dgd, Table 8): not run as published; at other scales: 1 " in out
    assert "reduced: 30 of 200 epochs, lr 0.05, batch 64, step epochs 9, precision bf16, 5,000 training images" in out
    assert "reproduced if in each of the 3 settings" in out
    assert "dgd-conv3-mean (dgd, Figure filter L1): not run\n" in out
    assert "fg-" not in out
    assert re.search(r"\n28 claims, \d+ with cells\n$", out)
    assert "reproduced" not in {line.rsplit(": ")[-1] for line in out.splitlines() if "seeds" in line}
    assert cli.main(["claims", "results/cifar10-small", "--csv"]) == 0
    rows = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert tuple(rows.columns) == claims.COLUMNS
    assert set(rows["paper"]) == {"crd-benchmark", "dkd", "dgd", "dml", "filter-grafting", "hkd", "review"}
    for words, message in (
        (["--paper", "x"], "--paper x: no file x.yaml; there are ccl, "),
        (["nowhere"], "nowhere: no such folder; give a benchmark's results"),
        (["--papers", "results"], "results: no papers (*.yaml) there; give their folder by --papers"),
    ):
        assert cli.main(["claims", *words]) == 1
        assert capsys.readouterr().err.startswith(f"dgd-bench: {message}")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["claims"]) == 1
    assert capsys.readouterr().err.startswith("dgd-bench: results: no such folder; ")


def test_claims_need_no_torch():
    code = "import sys; sys.modules['timm'] = None; import dgd.read.claims; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_committed_cells_are_judged_as_the_results_table_judges_them():
    cells = collect(ROOT / "results" / "cifar10-small")
    table = results_table(cells, read_papers(PAPERS[:1])).frame
    rows = claims.evaluate(claims.read(PAPERS[:1]), [(cells, ROOT / "results" / "cifar10-small")])
    for method in ("kd", "grafting", "dgd"):
        (ours,) = rows[(rows["claim"] == f"dgd-t8-{method}-over-baseline") & (rows["verdict"] != "not run")].to_dict("records")
        theirs = table[table["method"] == method].iloc[0]
        assert ours["difference"] == pytest.approx(theirs["gain"])
        assert (ours["low"], ours["high"]) == pytest.approx((theirs["gain_low"], theirs["gain_high"]))
        assert ours["verdict"] == theirs["verdict"]
