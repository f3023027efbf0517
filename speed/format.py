"""Write numbers and tables as the reports show them."""

import math
from collections.abc import Iterable, Mapping

from tabulate import tabulate


def number(value: float) -> str:
    """Return a number with three significant digits."""
    value = float(f"{value:.3g}")
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(digits, 0)}f}"


def spread(values: Mapping[str, float]) -> str:
    """Return a median with the least and the largest value in brackets."""
    return f"{number(values['median'])} ({number(values['min'])}–{number(values['max'])})"


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{number(100 * share)} %"


def table(rows: Iterable[Mapping[str, object]]) -> str:
    """Return rows, at least one, that have the same columns, as a Markdown table."""
    rows = list(rows)
    return tabulate([list(row.values()) for row in rows], list(rows[0]), tablefmt="pipe", disable_numparse=True)
