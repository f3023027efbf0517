"""What rests on the choice of analysis, listed from the committed cells."""

import pytest

from pipeline import analyses
from tests.helpers import ROOT

PAGE = ROOT / "docs" / "reading-tables.md"


def test_a_benchmark_lists_what_welch_would_say_otherwise(capsys):
    analyses.main([str(ROOT / "results/controls-small"), str(ROOT / "results/fast-path")])
    changed, concluded = capsys.readouterr().out.split("\n\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in changed.splitlines()[2:]]
    assert rows
    assert all(row[4] != row[6] for row in rows)
    page = " ".join(PAGE.read_text().split())
    for row in rows:
        assert f"| {' | '.join(row)} |" in page
    assert "not run as published" in concluded


def test_a_page_without_the_markers_is_named(tmp_path):
    (tmp_path / "page.md").write_text("nothing\n")
    with pytest.raises(ValueError, match=r"page\.md: it must have <!-- analyses --> and <!-- end of analyses --> once each"):
        analyses.main([str(tmp_path), "--into", str(tmp_path / "page.md")])


@pytest.mark.slow
def test_the_page_has_all_of_it(tmp_path):
    (tmp_path / "page.md").write_text(PAGE.read_text())
    analyses.main([*map(str, (ROOT / "results").iterdir()), "--into", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == PAGE.read_text()
