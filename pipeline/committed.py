"""Copy the tables of committed benchmarks into results/README.md: `python -m pipeline.committed`.

In the section of a benchmark, `## <name>`, a Markdown table is the one of `results/<name>/tables` whose columns it shares most.
"""

import re
from pathlib import Path

from dgd.files import write_text

ROOT = Path(__file__).parents[1]
README = ROOT / "results" / "README.md"


def render(text: str, results: Path = README.parent) -> str:
    """Return the page with the tables as they are now.

    Raises:
        ValueError: The table of a section is none of its benchmark's; the message names the section.
    """
    sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    return "".join(_section(section, results) for section in sections)


def _section(section: str, results: Path) -> str:
    folder = results / section.partition("\n")[0].removeprefix("## ").strip() / "tables"
    tables = [_rows(path.read_text()) for path in sorted(folder.glob("*.md"))] if section.startswith("## ") else []

    def current(found: re.Match) -> str:
        columns = _columns(found[0])
        shared = [len(columns & _columns(rows)) / len(columns | _columns(rows)) for rows in tables]
        if max(shared) < 0.5:
            raise ValueError(f"{README}: a table of {folder} was asked for, and none has the columns {sorted(columns)}")
        return tables[shared.index(max(shared))]

    return re.sub(r"^\|.*\n(?:\|.*\n)+", current, section, flags=re.MULTILINE) if any(tables) else section


def _rows(text: str) -> str:
    """Return the table of a Markdown file, without its footnotes; "" for none."""
    return "".join(f"{line}\n" for line in text.splitlines() if line.startswith("|"))


def _columns(table: str) -> set[str]:
    return {name.strip() for name in table.partition("\n")[0].strip("|").split("|")}


if __name__ == "__main__":
    write_text(README, render(README.read_text()))
