"""One small network of each of timm's families, by five methods: each cell has a result or an outcome with its reason."""

import re

import pytest

from speed import backbones
from tests.helpers import ROOT

QUICK = ("test_vit",)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("backbones")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in backbones.NETWORKS]
)
def test_each_cell_has_a_result_or_says_why_not(root, name):
    """What is no outcome of its own, and so a mistake of ours, would be `failed`."""
    found = dict(backbones.outcomes(name, root))
    assert set(found) == set(backbones.METHODS)
    assert not [why for why in found.values() if why.startswith("failed")]
    assert all(re.match("(cannot exchange|not applicable): ", why) for why in found.values() if why)


def test_the_page_is_what_the_command_writes():
    text = (ROOT / "docs/backbones.md").read_text()
    families = dict(re.findall(r"^\| (\w+) +\| (\w+) +\|", text.partition("|:")[2], re.M))
    listed = list(families.values())
    assert set(listed) <= set(backbones.NETWORKS)
    assert list(families) == sorted(families)
    assert len(listed) == len(set(listed)) > 5
    assert "failed" not in text
