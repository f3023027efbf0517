"""README and documentation: links lead somewhere, commands are run or say why not, numbers are those of the files."""

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from statistics import median

import pytest
import typer
import yaml

from dgd import __version__, cli
from dgd.cli.common import app
from dgd.read.statistics import minimum_detectable_effect
from tests.helpers import ROOT, cells_of

OUTSIDE = ("config/README.md", "results/README.md", "speed/README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = ["README.md", *OUTSIDE, *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
COMMANDS = {"", "console", "sh", "bash", "shell"}
OTHERS = {"yaml", "python", "math", "mermaid", "text", "{toctree}", "{eval-rst}"}
PAIR = {"student": "cifar_resnet8", "teacher": "cifar_resnet14"}
MARKER = re.compile(r"<!-- (run by|not run:) (.+?) -->")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@cache
def read(page: str) -> str:
    return (ROOT / page).read_text()


@cache
def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", FENCED.sub("", read(page)), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", read(page))):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}: there is no such file"
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(ROOT))), f"{page}: {link}: there is no such heading"


def test_the_index_has_every_page():
    listed = re.findall(
        r"^(?:\.\./)?[\w/-]+$", "".join(re.findall(r"```\{toctree\}(.*?)```", read("docs/index.md"), re.DOTALL)), re.M
    )
    assert len(listed) == len(set(listed))
    found = {str((ROOT / "docs" / f"{name}.md").resolve().relative_to(ROOT)) for name in listed}
    assert found == set(PAGES) - {"README.md", "docs/index.md"}


def blocks(text: str) -> list[tuple[str | None, str]]:
    """Return (marker, commands) of each block of commands: fenced or indented.

    A marker holds from where it stands to the end of its section, subsections included, or to the next one in it.
    """
    found, held, level, lines = [], {}, 0, text.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        if title := re.match(r"(#+) ", line):
            level = len(title[1])
            held = {at: marker for at, marker in held.items() if at < level}
        elif MARKER.match(line):
            held[level] = line
        elif line.startswith("```"):
            kind = line[3:].partition(" ")[0]
            assert kind in COMMANDS | OTHERS, line
            end = lines.index("```", number + 1)
            if kind in COMMANDS:
                found.append((held[max(held)] if held else None, "\n".join(lines[number + 1 : end])))
            number = end
        elif line.startswith("    ") and (not lines[number - 1].strip() or MARKER.match(lines[number - 1])):
            end = next((k for k in range(number, len(lines)) if not lines[k].startswith("    ")), len(lines))
            found.append((held[max(held)] if held else None, "\n".join(text[4:] for text in lines[number:end])))
            number = end
        number += 1
    return found


def commands(block: str) -> list[str]:
    """Return the command lines of a block, those after `$ ` where it has any."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")] or [line for line in lines if line.strip()]


def test_blocks_are_found_with_their_markers():
    first = "# a\n<!-- run by x -->\n## b\n\n    one\n\n<!-- not run: y -->\n```sh\ntwo\n```\n"
    text = first + "## c\n```console\n$ three\nout\n```\n# d\n\n    four\n"
    marked = [(marker and MARKER.match(marker)[2], commands(block)) for marker, block in blocks(text)]
    assert marked == [("x", ["one"]), ("y", ["two"]), ("x", ["three"]), (None, ["four"])]


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_run_or_say_why_not(page):
    for marker, block in blocks(read(page)):
        assert marker, f"{page}: no <!-- run by ... --> or <!-- not run: ... --> before:\n{block}"
        how, what = MARKER.match(marker).groups()
        for test in re.findall(r"tests/\w+\.py", what):
            assert (ROOT / test).is_file(), f"{page}: {marker}: there is no {test}"
        if how == "run by":
            assert page in (ROOT / what).read_text(), f"{page}: {what} does not read this page"


@pytest.mark.parametrize("page", PAGES)
def test_what_commands_name_is_there(page):
    """Also of commands that no test runs: commands and options of `dgd-bench`, modules, targets of make."""
    known = typer.main.get_command(app).commands
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
    lines = [line for _, block in blocks(read(page)) for line in commands(block)]
    for line in [*lines, *re.findall(r"`((?:dgd-bench|make|python -m) [^`]+)`", FENCED.sub("", read(page)))]:
        for part in re.split(r" && | \| ", line):
            words = shlex.split(part, comments=True)
            if words[:1] == ["dgd-bench"]:
                words = words[3:] if words[1:2] == ["--plugin"] else words[1:]
                if words[0].startswith(("<", "-", "...")):
                    continue
                assert words[0] in known, f"{page}: {line}"
                options = {name for one in known[words[0]].params for name in one.opts} | {"--help", "--plugin"}
                assert {word for word in words if word.startswith("--")} <= options, f"{page}: {line}"
            elif words[:1] == ["make"]:
                assert all(word in targets or "=" in word for word in words[1:]), f"{page}: {line}"
            elif words[:2] == ["python", "-m"] and words[2].startswith(("pipeline", "speed", "tests", "dgd")):
                assert find_spec(words[2]), f"{page}: {line}"


def test_every_module_has_its_room():
    names = {path.stem for folder in ("dgd", "dgd/train") for path in (ROOT / folder).glob("*.py")} - {"__init__"}
    named = set(re.findall(r"\b(\w+)(?:\.py)?`", read("docs/architecture.md")))
    assert names <= named, names - named


def test_the_readme_has_two_screens():
    assert len(read("README.md").splitlines()) <= 90


def test_the_readmes_table_has_the_columns_of_a_table():
    """Its numbers are those of one run; the columns are today's."""
    header = next(line for line in read("README.md").splitlines() if line.startswith("| data set "))
    table = next(iter(read("results/decay-small/tables/results.md").splitlines()))
    assert re.split(r"\s*\|\s*", header) == re.split(r"\s*\|\s*", table)


def test_costs_are_counted_by_the_commands_of_the_page(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marked = [block for marker, block in blocks(read("docs/cost.md")) if marker == "<!-- run by tests/test_pages.py -->"]
    (line,) = [line for block in marked for line in commands(block)]
    assert cli.main(shlex.split(line)[1:]) == 0
    assert "cifar_resnet8/dgd/seed4" in capsys.readouterr().out


def test_rows_of_the_questions_can_be_trained():
    found = re.findall(r"`(\{\w+: \{base: .*\}\})`", read("docs/faq.md"))
    assert found
    for row in found:
        assert cells_of(
            {"benchmark": "t", "seeds": [0], "datasets": ["digits"], "pairs": [PAIR], "methods": [yaml.safe_load(row)]}
        )


def rows(page: str, header: str) -> list[list[str]]:
    """Return the rows of the table under a header, as texts."""
    part = read(page).partition(f"\n{header}\n")[2].split("\n\n")[0]
    assert part, f"{page}: {header}"
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in part.splitlines()[1:]]


def test_costs_are_those_of_the_committed_cells():
    for benchmark, network, method, cells, epochs, seconds, memory in rows(
        "docs/cost.md", "| benchmark | network | method | cells | epochs | seconds | MiB |"
    ):
        paths = (ROOT / "results" / benchmark).glob(f"*/{network}/{method}/seed*/metrics.json")
        found = [json.loads(path.read_text()) for path in paths]
        timings = [one["timings"] for one in found]
        assert len(found) == int(cells)
        assert {one["cell"]["epochs"] for one in found} == {int(epochs)}
        assert f"{median(one['seconds'] for one in timings):,.0f}" == seconds
        assert f"{max(one['peak_memory_mib'] for one in timings):,.0f}" == memory


def test_rates_are_those_of_the_speed_page():
    measured = re.findall(r"^\| (\w+) +\| baseline +\|(?:[^|]+\|){4} ([\d,.]+) +\|", read("speed/README.md"), re.MULTILINE)
    assert measured
    for network, rate in rows("docs/cost.md", "| network | images/s |"):
        assert (network, rate) in measured


def test_seeds_are_those_of_the_statistics():
    header = "| seeds | 2 | 3 | 5 | 10 | 20 |"
    (row,) = rows("docs/cost.md", header)
    seeds = [int(word) for word in header.split("|")[2:-1]]
    assert row[1:] == [f"{minimum_detectable_effect(1.0, n):.2f}" for n in seeds]


def test_the_citation_is_one_of_version_1_2():
    """Its required keys, no others than the format has, and the package's own version and licence."""
    found = yaml.safe_load(read("CITATION.cff"))
    assert found["cff-version"] == "1.2.0"
    assert set(found) == {
        "cff-version",
        "message",
        "type",
        "title",
        "abstract",
        "authors",
        "version",
        "license",
        "keywords",
        "references",
    }
    assert (found["type"], str(found["version"])) == ("software", __version__)
    assert f'license = "{found["license"]}"' in read("pyproject.toml")
    for author in found["authors"] + [author for one in found["references"] for author in one["authors"]]:
        assert set(author) in ({"name"}, {"given-names", "family-names"})
    for one in found["references"]:
        assert {"type", "title", "authors"} <= set(one)
        number = one["identifiers"][0]["value"].removeprefix("arXiv:")
        (paper,) = [p for p in (ROOT / "papers").glob("*.yaml") if f'arxiv: "{number}"' in p.read_text()]
        about = yaml.load(paper.read_text(), yaml.CSafeLoader)
        assert (one["title"], one["year"]) == (about["title"], about["year"])
        assert [f"{author['given-names']} {author['family-names']}" for author in one["authors"]] == about["authors"]


@pytest.mark.slow
def test_the_documentation_is_built_without_a_warning(tmp_path):
    """Every page, link, anchor, docstring and equation; no page asks for anything from a network."""
    pytest.importorskip("myst_parser")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
        "-c",
        "docs",
        ".",
        tmp_path / "html",
    ]
    done = subprocess.run([*command, "-d", tmp_path / "trees"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    methods = (tmp_path / "html/docs/methods.html").read_text()
    assert methods.count("<math") > 100
    assert "dgd-bench train" in (tmp_path / "html/docs/commands.html").read_text()
    assert "Grafter" in (tmp_path / "html/docs/api.html").read_text()
    for page in (tmp_path / "html").rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"(https?:[^\"]+)|<link[^>]* href=\"(https?:[^\"]+)", page.read_text()
        )
        assert not fetched, (page, fetched)
