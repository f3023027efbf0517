"""docs/methods.md: its table is that of the classes; every method, requirement and option (with its default) is described."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from dgd import terms
from dgd.methods import GRAFTED, METHODS
from dgd.objectives import STATUSES, TERMS, Requires
from pipeline import reference

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "methods.md").read_text()
WRITTEN = TEXT.partition(reference.TERMS_START)[0]
PARAGRAPHS = [" ".join(part.split()) for part in WRITTEN.split("\n\n")]


def test_the_table_is_that_of_the_classes():
    assert reference.render_terms() in TEXT, "run `python -m pipeline.reference`"


def test_a_changed_default_or_deviation_shows_in_the_table(monkeypatch):
    before = reference.render_terms()
    monkeypatch.setattr(TERMS["sp"], "deviations", ("one more",))
    assert "One more." in reference.render_terms()
    monkeypatch.setitem(terms.known()["rkd"], "distance", (float, 0.25))
    assert "`distance: 0.25`" in reference.render_terms()
    assert before in TEXT


def names() -> set[str]:
    """The methods of the table, and of the two benchmarks that train them all."""
    found = set(METHODS) | {GRAFTED}
    for path in ("zoo", "zoo-small"):
        for row in yaml.safe_load((ROOT / "config" / f"{path}.yaml").read_text())["methods"]:
            found.add((row if isinstance(row, str) else next(iter(row))).removesuffix(GRAFTED))
    return found


REQUIREMENTS = {field.name for field in fields(Requires)} | set(Requires.TEACHER + Requires.PEERS) - {""}


@pytest.mark.parametrize("name", sorted(names() | REQUIREMENTS))
def test_every_method_and_every_requirement_is_described(name):
    assert f"`{name}`" in WRITTEN


def test_every_status_is_explained():
    for status in STATUSES:
        assert f"*{status}*" in WRITTEN


# Of `graft`, what it does; when it does it, and what goes with it, is in config/README.md.
@pytest.mark.parametrize("name", [*(name for name in TERMS if reference.options(name)), "repr", "graft"])
def test_every_option_is_explained_with_its_default(name):
    options = reference.options(name)
    (said,) = re.findall(rf"Options of `{name}`: (.*?)(?=Options of|$)", "\n".join(PARAGRAPHS), re.M)
    assert set(re.findall(r"`(\w+)` \(", said)) == set(options)
    for key, default in options.items():
        assert yaml.safe_dump({key: default}).strip().replace(": ", "` (", 1) + ")" in said, f"{key}: {default}"


def test_equations_are_closed():
    """An odd mark would turn the rest of the page into an equation, or an equation into text."""
    fences = re.split(r"^```", WRITTEN, flags=re.M)
    assert len(fences) % 2 == 1
    for block in fences[1::2]:
        assert block.startswith("math\n")
        assert block.count("{") == block.count("}")
    for text in "".join(fences[::2]).split("\n\n"):
        assert text.count("$") % 2 == 0, text
        assert text.count("`") % 2 == 0, text
        assert text.count("**") % 2 == 0, text
        for inline in re.findall(r"\$[^$]*\$", text):  # outside a fence Markdown takes a backslash before a mark away
            assert not re.search(r"\\[^\w\s]", inline), inline


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / link).exists(), link
