"""Pages that a reader follows: docs/worked-examples.md, each section in an empty folder, and docs/tutorial.md, all in one."""

import re
import runpy

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT
from tests.test_plugins import run

FILES = r"^```\w+ (\S+)\n(.*?)^```"

TEXT = (ROOT / "docs/worked-examples.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in TEXT.split("\n## ")[1:]}
LAST = {
    "A new distillation loss on a timm backbone": "logit-cosine+graft",
    "Your own folder of images": "| dgd ",
    "Your own paper's table": "35.00",
    "A new exchange": "to-mean-half",
}


def draw_letters(folder) -> None:
    """Write the folder of images that a reader is said to have."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 10)):
        for name in "ab":
            (folder / part / name).mkdir(parents=True)
            for k in range(count):
                image = draw.integers(0, 100, (16, 16), dtype=np.uint8) + (100 if name == "b" else 0)
                Image.fromarray(image.astype(np.uint8)).save(folder / part / name / f"{k}.png")


@pytest.mark.parametrize("name", SECTIONS)
def test_an_example_runs_as_it_stands(name, tmp_path):
    for file, text in re.findall(FILES, SECTIONS[name], re.MULTILINE | re.DOTALL):
        (tmp_path / file).write_text(text)
    if "letters/" in SECTIONS[name]:
        draw_letters(tmp_path / "letters")
    commands = re.findall(r"^\$ dgd-bench (.*)$", SECTIONS[name], re.MULTILINE)
    said = [run(tmp_path, *command.split()) for command in commands]
    assert LAST[name] in said[-1]
    for command, text in zip(commands, said):
        assert not command.startswith("check") or ": right" in text


@pytest.mark.slow
def test_the_tutorial_leads_to_the_figure(tmp_path, monkeypatch):
    """Its files are written and its commands run in the order of the page; a block named as a key replaces that line."""
    text = (ROOT / "docs/tutorial.md").read_text().partition("\n## A first benchmark\n")[2]
    monkeypatch.chdir(tmp_path)
    said = {}
    for kind, file, block in re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if kind != "console":
            own = tmp_path / (file if "." in file else "first.yaml")
            own.write_text(block if "." in file else re.sub(rf"^{file}: .*\n", block, own.read_text(), flags=re.MULTILINE))
            continue
        for command in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
            if command == "python gains.py":
                runpy.run_path("gains.py")
            else:
                said[command] = run(tmp_path, *command.removeprefix("dgd-bench ").split())
    assert "| kd-hot " in said["dgd-bench table results/first"]
    assert "0 faults" in said["dgd-bench verify results/first"]
    assert "2004.12311" in said["dgd-bench cite first.yaml"]
    for name in ("gains.pdf", "tables/results.tex", "figures/curves-digits-cifar_resnet8.pdf", "first.tar"):
        assert (tmp_path / name).stat().st_size > 1000, name
