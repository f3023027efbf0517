"""Draw the page's charts as Vega-Lite by Altair: each function returns a specification that holds its data.

A chart says nothing of its colours for text, grids and backgrounds: the page does, for light and dark. Its width is that of its
place. Charts with a line a method have a parameter `hidden`, a list of methods, and one `start`, the first x that is shown: the
page sets them.
"""

import colorsys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from dgd.read.figures import style
from dgd.read.report.found import csv_text

MOST = 200
"""Points of a line; of a longer one every so many are drawn."""

MARKED = 30
"""Points of a line up to which each has a mark."""

SENSES = {"better": ("#1a8f5a", "triangle-up"), "worse": ("#d1495b", "triangle-down"), "open": ("#8a929b", "circle")}
"""Colour and shape of a difference whose interval lies above 0, below 0, or on both sides or is not there."""

PAPER = "#b07d00"
"""Colour of what a paper says."""


@dataclass(frozen=True)
class Look:
    """How a method's line looks: its colour, which reads on white and on black, and its dash."""

    colour: str
    dash: tuple[float, ...]


DASHES = {"-": (), "--": (6, 3), ":": (1.5, 2), "-.": (6, 2, 1.5, 2)}


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """Return how each method's line looks, as in the figures, in their order."""
    found = {}
    for method, place in style.ordered({method: (True,) for method in methods}).items():
        look = style.look(method, place)
        line = look["linestyle"]
        found[method] = Look(_readable(look["color"]), DASHES[line] if isinstance(line, str) else tuple(2 * x for x in line[1]))
    return found


def _readable(colour: str) -> str:
    """Return a colour that is neither too dark for a black page nor too light for a white one."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    hue, lightness, saturation = colorsys.rgb_to_hls(*parts)
    return "#" + "".join(f"{round(255 * x):02x}" for x in colorsys.hls_to_rgb(hue, min(max(lightness, 0.42), 0.55), saturation))


def _data(frame: pd.DataFrame, **kinds: str) -> alt.InlineData:
    return alt.InlineData(values=csv_text(frame), format=alt.CsvDataFormat(type="csv", parse=kinds))


# ---------------------------------------------------------------------------------------------------------------- lines


def over_seeds(seeds: Mapping[str, Sequence[pd.Series]]) -> pd.DataFrame:
    """Return method, x, mean, low, high and n of lines, one a seed, at the x that all seeds of a method have.

    Args:
        seeds: {method: a series a seed, its index being x}.
    """
    parts = []
    for method, lines in seeds.items():
        if not lines:
            continue
        table = pd.concat(list(lines), axis=1, join="inner").sort_index()
        table = table.iloc[np.unique(np.linspace(0, len(table) - 1, min(len(table), MOST)).round().astype(int))]
        values = {"mean": table.mean(axis=1), "low": table.min(axis=1), "high": table.max(axis=1)}
        parts.append(pd.DataFrame(values).assign(n=table.shape[1]).rename_axis("x").reset_index().assign(method=method))
    columns = ["method", "x", "mean", "low", "high", "n"]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


SEEDS = {"mean": "mean of seeds", "low": "lowest seed", "high": "highest seed", "n": "seeds"}
"""Columns of `over_seeds` that a tooltip shows, and what it calls them."""


def lines(
    table: pd.DataFrame,
    all_looks: Mapping[str, Look],
    x: str,
    y: str,
    description: str,
    *,
    log: bool = False,
    zoom: bool = False,
    marks: Sequence[float] = (),
    height: int = 300,
) -> dict[str, Any]:
    """Return a chart of a line a method, the mean over seeds in a band from the lowest to the highest.

    Args:
        table: From `over_seeds`.
        all_looks: How each method looks.
        x, y: Titles of the axes.
        description: What is drawn, for those who cannot see it.
        log: The y axis is logarithmic.
        zoom: Dragging moves, and pinching or Ctrl with the wheel zooms.
        marks: Heights at which a thin line is drawn.
        height: In pixels.
    """
    drawn = [method for method in all_looks if method in set(table["method"])]
    own = [all_looks[method] for method in drawn]
    colour = alt.Color("method:N", legend=None, scale=alt.Scale(domain=drawn, range=[look.colour for look in own]))
    dash = alt.StrokeDash(
        "method:N", legend=None, scale=alt.Scale(domain=drawn, range=[list(look.dash) or [1, 0] for look in own])
    )
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False, nice=True)
    where_x = alt.X("x:Q", title=x, scale=alt.Scale(nice=False, padding=6), axis=alt.Axis(tickMinStep=1, tickCount=10))
    title = _broken(y)
    tooltip = [alt.Tooltip("method:N"), alt.Tooltip("x:Q", title=x)]
    tooltip += [alt.Tooltip(f"{name}:Q", title=title, format=".4~g") for name, title in SEEDS.items()]
    base = alt.Chart().encode(where_x, colour, detail="method:N")
    band = base.mark_area(opacity=0.14, clip=True, aria=False).encode(alt.Y("low:Q", title=title, scale=scale), y2="high:Q")
    line = base.mark_line(clip=True, strokeWidth=1.8, aria=False).encode(alt.Y("mean:Q", title=title, scale=scale), dash)
    longest = table.groupby("method").size().max() if len(table) else 0
    point = base.mark_circle(clip=True, size=26 if longest <= MARKED else 40, opacity=1 if longest <= MARKED else 0)
    point = point.encode(alt.Y("mean:Q", title=title, scale=scale), tooltip=tooltip)
    if zoom:
        point = point.add_params(alt.selection_interval(name="zoom", bind="scales", zoom="wheel![event.ctrlKey]"))
    rules = [alt.Chart().mark_rule(strokeDash=[2, 3], opacity=0.5, aria=False).encode(y=alt.datum(value)) for value in marks]
    kinds = dict.fromkeys(("x", "mean", "low", "high", "n"), "number")
    chart = alt.layer(*rules, band, line, point, data=_data(table, **kinds), width="container", height=height)
    chart = chart.transform_filter("indexof(hidden, datum.method) < 0 && datum.x >= start")
    chart = chart.add_params(alt.param(name="hidden", value=[]), alt.param(name="start", value=float(table["x"].min())))
    return _spec(chart, description)


def _broken(title: str) -> list[str]:
    """Return the lines of an axis' title that a low chart has room for."""
    return textwrap.wrap(title, 30)


def one_line(y: str) -> dict[str, Any]:
    """Return the chart of one cell's metric over epochs; the page fills in its data, a list of `x` and `y`."""
    base = alt.Chart(alt.InlineData(values=[])).encode(
        alt.X("x:Q", title="epoch", axis=alt.Axis(tickMinStep=1)), alt.Y("y:Q", title=_broken(y), scale=alt.Scale(zero=False))
    )
    chart = alt.layer(
        base.mark_line(color="#2f81c7", aria=False), base.mark_circle(color="#2f81c7", size=26).encode(tooltip=["x:Q", "y:Q"])
    )
    return _spec(chart.properties(width="container", height=180), "The metric on the test split by epoch.")


# --------------------------------------------------------------------------------------------------------------- forest


def forest(
    rows: pd.DataFrame, published: pd.DataFrame, x: str, domain: tuple[float, float], description: str, widest: int
) -> dict[str, Any]:
    """Return a forest plot: a difference and its interval a row, beside what is published of it.

    Args:
        rows: Columns `name`, `value`, `low`, `high` (NaN for no interval), `text`, `href`.
        published: Columns `name`, `value`, `kind`: "as published" or another, `text`.
        x: Title of the axis.
        domain: Its ends.
        description: What is drawn, for those who cannot see it.
        widest: Letters of the longest name that stands beside an axis of the page: charts below each other share their axis.
    """
    rows = rows.assign(sense=[sense(row.low, row.high) for row in rows.itertuples()])
    order = list(rows["name"])
    room = min(170, 12 + 6.4 * widest)
    axis = alt.Axis(title=None, labelLimit=room, minExtent=room, maxExtent=room, ticks=False, domain=False, grid=True)
    where_y = alt.Y("name:N", sort=order, axis=axis)
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    numbers = {"value": "number", "low": "number", "high": "number"}
    colour = alt.Color("sense:N", legend=None, scale=alt.Scale(domain=list(SENSES), range=[c for c, _ in SENSES.values()]))
    shape = alt.Shape("sense:N", legend=None, scale=alt.Scale(domain=list(SENSES), range=[s for _, s in SENSES.values()]))
    tooltip = [alt.Tooltip("name:N", title="row"), alt.Tooltip("text:N", title="ours")]
    base = alt.Chart(_data(rows[["name", "value", "low", "high", "sense", "text", "href"]], **numbers)).encode(where_y, colour)
    zero = alt.Chart().mark_rule(strokeDash=[4, 3], aria=False).encode(x=alt.datum(0, scale=scale))
    interval = base.mark_rule(strokeWidth=2.5, clip=True, aria=False).transform_filter("isValid(datum.low)")
    interval = interval.encode(alt.X("low:Q", title=x, scale=scale, axis=alt.Axis(tickCount=8)), x2="high:Q")
    point = base.mark_point(size=75, filled=True, opacity=1, clip=True).encode(
        alt.X("value:Q", title=x, scale=scale), shape, tooltip=tooltip, href="href:N"
    )
    layers = [zero, interval, point]
    if len(published):
        theirs = alt.Chart(_data(published, value="number")).encode(
            where_y,
            alt.X("value:Q", title=x, scale=scale),
            tooltip=[alt.Tooltip("name:N", title="row"), alt.Tooltip("text:N", title="published")],
        )
        whole = theirs.transform_filter("datum.kind == 'as published'")
        other = theirs.transform_filter("datum.kind != 'as published'")
        layers.append(whole.mark_point(shape="diamond", size=90, filled=True, color=PAPER, opacity=1, clip=True))
        layers.append(other.mark_point(shape="diamond", size=70, color=PAPER, strokeWidth=1.6, opacity=1, clip=True))
    chart = alt.layer(*layers).properties(width="container", height=21 * len(rows))
    return _spec(chart, description)


def sense(low: float, high: float) -> str:
    """Return what an interval of a difference says: "better", "worse" or "open"."""
    return "better" if low > 0 else "worse" if high < 0 else "open"


def span(values: Iterable[float]) -> tuple[float, float]:
    """Return the ends of an axis that holds these values and 0, with some room."""
    finite = [value for value in (*values, 0.0) if np.isfinite(value)]
    least, most = min(finite), max(finite)
    room = 0.06 * (most - least or 1.0)
    return least - room, most + room


# ----------------------------------------------------------------------------------------------------------------- dots


def scatter(rows: pd.DataFrame, all_looks: Mapping[str, Look], x: str, y: str, description: str) -> dict[str, Any]:
    """Return a chart of a named point a method.

    Args:
        rows: Columns `method`, `x`, `y`, `text`, `href`.
        all_looks: How each method looks.
        x, y: Titles of the axes.
        description: What is drawn, for those who cannot see it.
    """
    drawn = [method for method in all_looks if method in set(rows["method"])]
    scale = alt.Scale(domain=drawn, range=[all_looks[method].colour for method in drawn])
    base = alt.Chart(_data(rows, x="number", y="number")).encode(
        alt.X("x:Q", title=x, scale=alt.Scale(zero=False, padding=24), axis=alt.Axis(tickCount=8)),
        alt.Y("y:Q", title=y, scale=alt.Scale(zero=False, padding=12)),
    )
    zero = alt.Chart().mark_rule(strokeDash=[4, 3], aria=False).encode(y=alt.datum(0))
    point = base.mark_circle(size=80, opacity=0.95).encode(
        color=alt.Color("method:N", legend=None, scale=scale),
        tooltip=["method:N", alt.Tooltip("text:N", title="ours")],
        href="href:N",
    )
    name = base.mark_text(align="left", dx=7, dy=-4, fontSize=10, aria=False).encode(text="method:N")
    chart = alt.layer(zero, point, name).transform_filter("indexof(hidden, datum.method) < 0")
    chart = chart.add_params(alt.param(name="hidden", value=[]), alt.param(name="start", value=0))
    return _spec(chart.properties(width="container", height=300), description)


def _spec(chart: alt.LayerChart, description: str) -> dict[str, Any]:
    """Return a chart's specification without what the page decides."""
    fitted = alt.AutoSizeParams(type="fit-x", contains="padding")
    found = chart.properties(description=description, autosize=fitted).to_dict(validate=True)
    found.pop("config", None)
    return found
