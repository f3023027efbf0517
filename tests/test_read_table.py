"""Writing a table in three forms, and files that are either whole or not there."""

import stat

import pandas as pd
import pytest

from dgd import files
from dgd.read.table import Table, gain, interval, markdown, number, p_value, pair, write


def test_signs_of_a_format_are_not_those_of_a_text(tmp_path):
    text = pd.DataFrame({"a": ["x|y_z", ""], "b": ["1.5 ± 0.1", "–"]})
    table = Table(pd.DataFrame({"a": ["x|y_z", None], "b": [1.23456789012, None]}), text, ("A note.",))
    csv, md, tex = write(table, tmp_path / "folder" / "c")
    assert md.read_text() == markdown(table)
    assert "x\\|y_z" in md.read_text()
    assert md.read_text().endswith("\n\n- A note.\n")
    assert "x|y\\_z" in tex.read_text()
    assert r"1.5 $\pm$ 0.1" in tex.read_text()
    assert tex.read_text().startswith("% A note.\n")
    assert csv.read_text() == "a,b\nx|y_z,1.2345679\n,\n"
    assert "nan" not in (md.read_text() + tex.read_text()).lower()
    assert not markdown(Table(text, text)).endswith("\n\n")


def test_texts_of_numbers():
    nan = float("nan")
    assert (number(1.234), number(nan), number(None, empty="–"), number(1234.5, ",.0f")) == ("1.23", "", "–", "1,234")
    assert (interval(-1, 2, ".1f"), interval(nan, nan)) == (" [-1.0, 2.0]", "")
    assert (gain(1, 0.5, 1.5), gain(-1, nan, nan, ".1f"), gain(nan, nan, nan)) == ("+1.00 [+0.50, +1.50]", "-1.0", "")
    assert (p_value(0.0004), p_value(0.25), p_value(nan)) == ("<0.001", "0.250", "")
    assert (pair("s", "t"), pair("s", ""), pair("s", None, "teacher"), pair("s", None)) == ("s ← t", "s", "s (teacher)", "s")


def test_a_file_is_written_whole_with_its_folder(tmp_path):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"a": 1})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    files.write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    assert path.read_bytes() == "é".encode()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.write_bytes(path, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
