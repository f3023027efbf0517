"""Build the documentation: `make docs`. Sources are the repository's own pages, so the source folder is the repository."""

import re
import subprocess
import sys

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import dgd

project = "dgd-bench"
author = "the dgd-bench authors"
copyright = f"{author}; Apache-2.0"
release = version = dgd.__version__

root_doc = "docs/index"
include_patterns = ["docs/*.md", "[crs]*/README.md", "results/*/tables/*.md", "CHANGELOG.md", "CONTRIBUTING.md"]
# Folders that are not walked: they hold no page, and cells and environments have many thousands of files.
exclude_patterns = [
    ".*",
    "build",
    "data",
    "dgd",
    "pipeline",
    "tests",
    "papers",
    "profiles",
    "envs",
    "results/*/*[0-9]*",
    "mutants",
]
# Committed tables are reached from results/README.md; tests/test_pages.py holds every other page to the index.
suppress_warnings = ["toc.not_included", "myst.header"]
default_role = "code"
smartquotes = False  # `--option` in a text keeps both dashes

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_use_ivar = True  # what "Attributes:" describes is there once

html_theme = "furo"
html_title = "dgd-bench"
# Equations are MathML: neither a build nor a reader needs a network or LaTeX.
html_math_renderer = "mathml"


# What docutils does not know: sizes of brackets (MathML's grow by themselves), short fractions, dots.
PLAIN = [(r"\\[bB]ig+(?![a-zA-Z])", ""), (r"\\t?frac(\d)(\d)", r"\\frac{\1}{\2}"), (r"\\dots\b", r"\\ldots")]


def mathml(equation: str, block: bool = False) -> str:
    """Return an equation of LaTeX as MathML."""
    for pattern, plain in PLAIN:
        equation = re.sub(pattern, plain, equation)
    return tex2mathml(equation, as_block=block).replace(
        "<mo>‖</mo>", '<mo stretchy="false">‖</mo>'
    )  # one of a pair has an index


def visit_math(writer, node: nodes.math) -> None:
    """Write an equation within a line."""
    writer.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(writer, node: nodes.math_block) -> None:
    """Write an equation on lines of its own."""
    writer.body.append(f'<div class="math" style="overflow-x: auto">{mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def keep_tables(app, what, name, obj, options, lines: list[str]) -> None:
    """Keep a Markdown table in a docstring as it stands, which reStructuredText would read as something else."""
    kept, inside = [], False
    for line in lines:
        starts, inside = line.startswith("|") and not inside, line.startswith("|")
        kept += ["::", ""] * starts + [f"    {line}" if inside else line]
    lines[:] = kept


def add_commands(app, name: str, source: list[str]) -> None:
    """Append all commands and options of `dgd-bench` to their page, as typer writes them."""
    if name == "docs/commands":
        command = [sys.executable, "-m", "typer", "--app", "app", "dgd.cli.entry", "utils", "docs", "--name", "dgd-bench"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        source[0] += re.sub(r"\A# .*\n", "", text).replace("&#x27;", "'")


def setup(app) -> dict:
    """Tell Sphinx of the above."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("source-read", add_commands)
    app.connect("autodoc-process-docstring", keep_tables, priority=400)  # before napoleon, which is at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
