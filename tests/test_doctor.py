"""What `dgd-bench doctor`, `version` and `cite` say."""

import json
import re

import pytest

from dgd import cli, config, doctor
from dgd.cell import EXCHANGES
from dgd.exchange import source
from dgd.read.citations import bibtex
from tests.helpers import ROOT

CONFIGS = sorted(ROOT.glob("config/*.yaml"))


def test_what_a_machine_has(tmp_path, monkeypatch, capsys):
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==1.0.0 \\\n    --hash=x\ntimm==0.1\n")
    monkeypatch.setattr(doctor, "LOCK", lock)
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert cli.main(["doctor", "--data", str(tmp_path), "--results", str(tmp_path / "none"), "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["cifar10"] == {"name": "cifar10", "found": str(tmp_path / "cifar-10-batches-py"), "remark": ""}
    assert found["cifar100"]["remark"] == "needs cifar-100-python.tar.gz in it, which is downloaded where there is a network"
    assert found["packages"]["remark"].startswith("in requirements.lock timm is 0.1, numpy is 1.0.0: results may differ")
    assert re.fullmatch(rf"[\d.]+ GiB free at {tmp_path}", found["disk of results"]["found"])
    assert {"dgd-bench", "CPU", "GPU", "memory", "snakemake", "git"} <= found.keys() | {f"GPU {k}" for k in range(9)}
    assert cli.main(["doctor"]) == 0
    assert "disk of results" in capsys.readouterr().out


def test_this_environment_is_the_locks():
    (packages,) = [one for one in doctor.findings() if one.name == "packages"]
    assert packages.remark == ""


def test_the_version_has_what_results_depend_on(capsys):
    assert cli.main(["version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"dgd-bench \d+\.\d+\.\d+.*, Python 3\.", lines[0])
    assert re.match(r"packages torch \S+, torchvision ", lines[1])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_a_benchmark_uses_is_cited_once(path):
    text = bibtex(config.load(path, folders=False), ROOT / "papers")
    keys = re.findall(r"^@misc\{([\w.-]+),$", text, re.MULTILINE)
    assert keys == list(dict.fromkeys(keys))
    assert text.count("{") == text.count("}")
    numbers = re.findall(r"eprint = \{(.*)\}", text)
    assert numbers == list(dict.fromkeys(numbers))


def test_papers_of_methods_and_of_numbers_are_cited(capsys):
    assert cli.main(["cite", str(ROOT / "config/zoo-small.yaml"), "--papers", str(ROOT / "papers")]) == 0
    text = capsys.readouterr().out
    assert "title = {{Decoupled Knowledge Distillation}}" in text
    for number in ("1503.02531", "1612.03928", "2001.05868", "2004.12311"):
        assert f"eprint = {{{number}}}" in text


def test_exchanges_name_their_sources():
    assert {name for name in EXCHANGES if not source(name)} == {"average"}
