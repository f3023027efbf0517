"""Hold a table as numbers, readable text and footnotes; write it as CSV, Markdown and LaTeX, and read it back."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from dgd import files

PAIR = "student ← teacher"
"""Header of the column that `pair` fills."""

LATEX = {
    **{"±": r"$\pm$", "←": r"$\leftarrow$", "→": r"$\rightarrow$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$"},
    **{"–": "--", "−": "$-$", "…": r"\ldots{}"},
}
"""How LaTeX writes the signs of our tables."""

NOT_RUN = "not run"
"""What stands for a result that is not there."""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        frame: Its numbers, as they go to CSV.
        text: Its readable form: fewer columns, all of text.
        footnotes: A sentence or more each, which stand under the text.
    """

    frame: pd.DataFrame
    text: pd.DataFrame
    footnotes: tuple[str, ...] = ()


def write(table: Table, stem: str | Path) -> list[Path]:
    """Write a table as CSV (numbers), Markdown and LaTeX (text with footnotes), each atomically.

    Args:
        table: The table.
        stem: Path without a suffix; the folder is made.

    Returns:
        The three paths: .csv, .md, .tex. The LaTeX is a booktabs tabular to `\\input`.
    """
    made = {Path(f"{stem}.{suffix}"): content for suffix, content in contents(table).items()}
    for path, content in made.items():
        files.write_text(path, content)
    return list(made)


def contents(table: Table) -> dict[str, str]:
    """Return suffix -> what `write` writes."""
    return {"csv": table.frame.to_csv(index=False, float_format="%.8g"), "md": markdown(table), "tex": latex(table)}


def markdown(table: Table) -> str:
    """Return a table as Markdown, with its footnotes under it."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in _cells(table)]
    text = tabulate(rows, list(table.text.columns), tablefmt="pipe", disable_numparse=True) + "\n"
    return text + ("\n" + "\n".join(f"- {note}" for note in table.footnotes) + "\n" if table.footnotes else "")


def read(stem: str | Path) -> Table:
    """Read back a table that `write` wrote, from its CSV and Markdown.

    Args:
        stem: Path without a suffix.

    Raises:
        ValueError: One of the two files is not there, or is no such table.
    """
    csv, path = Path(f"{stem}.csv"), Path(f"{stem}.md")
    for file in (csv, path):
        if not file.is_file():
            raise ValueError(f"{file}: no such file; run the workflow of this benchmark, which writes it")
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip().replace("\\|", "|") for cell in _BORDER.split(line)[1:-1]] for line in lines if line.startswith("|")]
    if len(rows) < 2 or {len(row) for row in rows} != {len(rows[0])}:
        raise ValueError(f"{path}: no table, or rows of another length than the first; delete it, and Snakemake makes it anew")
    notes = tuple(line.removeprefix("- ") for line in lines if line.startswith("- "))
    return Table(pd.read_csv(csv, low_memory=False), pd.DataFrame(rows[2:], columns=rows[0]), notes)


_BORDER = re.compile(r"(?<!\\)\|")


def latex(table: Table) -> str:
    """Return a table as a booktabs tabular, with its footnotes as comments above it; without columns there are only these.

    Names in scripts that pdfLaTeX has no letters for want XeLaTeX or LuaLaTeX and a font.
    """
    columns = list(table.text.columns)
    text = tabulate(_cells(table), columns, tablefmt="latex_booktabs", disable_numparse=True) if columns else ""
    text = text.replace(r"\begin{tabular}{}", rf"\begin{{tabular}}{{{'l' * len(columns)}}}")  # so it is where there are no rows
    text = re.sub(r"^ ([\[*])", r" {\1}", text, flags=re.MULTILINE)  # after the end of a row these would be its options
    for sign, command in LATEX.items():
        text = text.replace(sign, command)
    return "".join(f"% {note}\n" for note in table.footnotes) + text + "\n"


def _cells(table: Table) -> list[list[str]]:
    return table.text.astype(str).to_numpy().tolist()


def pair(student: str, teacher: str | None, role: str = "student") -> str:
    """Return `student ← teacher`, or the student alone; a network that is there as a teacher only is called one."""
    alone = f"{student} (teacher)" if role == "teacher" else student
    return f"{student} ← {teacher}" if teacher else alone


def number(value: float | None, form: str = ".2f", empty: str = "") -> str:
    """Return a number in its form, `empty` for none and NaN."""
    return empty if pd.isna(value) else format(value, form)


def interval(low: float, high: float, form: str = ".2f") -> str:
    """Return ` [low, high]` to follow a number, "" without an interval."""
    return "" if pd.isna(low) else f" [{low:{form}}, {high:{form}}]"


def gain(value: float, low: float, high: float, form: str = ".2f") -> str:
    """Return a gain with its sign and its interval, "" without one."""
    return number(value, f"+{form}") + interval(low, high, f"+{form}")


def p_value(value: float) -> str:
    """Return a p-value with three decimals, "" without one."""
    return "<0.001" if value < 0.001 else number(value, ".3f")
