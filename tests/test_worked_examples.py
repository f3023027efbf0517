"""docs/worked-examples.md: each section's files are written into an empty folder, and its commands are run there."""

import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT
from tests.test_plugins import run

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
    for file, text in re.findall(r"^```\w+ (\S+)\n(.*?)^```", SECTIONS[name], re.MULTILINE | re.DOTALL):
        (tmp_path / file).write_text(text)
    if "letters/" in SECTIONS[name]:
        draw_letters(tmp_path / "letters")
    commands = re.findall(r"^\$ dgd-bench (.*)$", SECTIONS[name], re.MULTILINE)
    said = [run(tmp_path, *command.split()) for command in commands]
    assert LAST[name] in said[-1]
    for command, text in zip(commands, said):
        assert not command.startswith("check") or ": right" in text
