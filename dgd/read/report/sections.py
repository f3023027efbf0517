"""Put together what the page shows of one benchmark: sections of sentences, charts and tables, and nothing that is empty."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup

from dgd.metrics import metric_named
from dgd.read.comparisons import beside
from dgd.read.figures import style
from dgd.read.figures.material import Material
from dgd.read.report import answer, charts, cost, found, rows
from dgd.read.report.found import Benchmark
from dgd.read.report.rows import Shown
from dgd.read.table import Table, pair
from dgd.read.thresholds import THRESHOLDS

FLOOR = 1e-4
"""Norms below this are drawn at it: a log axis has no zero."""

SHOWN = 8
"""Methods whose lines are shown at first; more would hide each other."""

SMALLEST_PART = 3
"""Evaluated epochs that the chart of a training's end has at least."""

CAPTIONS = {
    "results": "Ours beside the published numbers, with gains over the baseline and verdicts.",
    "methods": "Every method, alone and with grafting: gains, cost, and how faithful it is to its source.",
    "controls": "What is left of each gain when it is held against what could explain it.",
    "filters": "Invalid filters, whose L1 norm is not above a threshold, and the norms of valid and invalid ones.",
    "density": "Knowledge density: the metric per million parameters, and per filter that is left after pruning.",
    "subnets": "Networks that contain others, beside those trained alone.",
    "retrieval": "How often the nearest example of the other input has the same class.",
    "generated": "Training images that a GAN made, and how our own teacher judges them.",
}
"""What each table is."""


@dataclass(frozen=True)
class Chart:
    """A chart of the page: its name there, its Vega-Lite specification, and a sentence under it."""

    id: str
    title: str
    spec: Mapping[str, Any]
    caption: str = ""
    steps: bool = False
    """A slider sets the first epoch that is shown."""


@dataclass(frozen=True)
class Charts:
    """Charts side by side, and the methods that buttons above them show and hide in all of them.

    Attributes:
        id: Names them on the page.
        title: Of all of them; "" for none.
        charts: The charts.
        legend: Method -> how its line looks; empty for charts without lines.
        hidden: Methods that are not shown at first.
    """

    id: str
    title: str
    charts: tuple[Chart, ...]
    legend: Mapping[str, charts.Look] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        id, title: Its name there, and its heading.
        texts: Sentences, as HTML.
        charts: Charts, in groups.
        tables: Tables.
        folded: Tables and texts that are folded away: (what the fold says, a table or preformatted text).
        images: (alternative text, data URI).
    """

    id: str
    title: str
    texts: tuple[Markup | str, ...] = ()
    charts: tuple[Charts, ...] = ()
    tables: tuple[Shown, ...] = ()
    folded: tuple[tuple[str, Shown | str], ...] = ()
    images: tuple[tuple[str, str], ...] = ()


def of(benchmark: Benchmark, linked: bool) -> list[Section]:
    """Return the sections of a benchmark, those that have something to show.

    Args:
        benchmark: What was found.
        linked: The page holds the details of each cell.
    """
    made = [
        _answer(benchmark),
        _holes(benchmark),
        _table_section(benchmark, "results", "Results"),
        _controls(benchmark),
        _curves(benchmark),
        _methods(benchmark),
        _filters(benchmark),
        _density(benchmark),
        *(_table_section(benchmark, name, title) for name, title in SPECIAL.items()),
        _cost(benchmark),
        *_claims(benchmark),
        _cells(benchmark, linked),
        _origin(benchmark),
    ]
    return [section for section in made if section is not None]


def side_by_side(benchmarks: Sequence[Benchmark]) -> Section:
    """Return the section that sets several benchmarks beside each other."""
    gains = [(benchmark, one) for benchmark in benchmarks for one in answer.gains(benchmark)]
    settings: dict[tuple[str, str], list[tuple[Benchmark, answer.Gain]]] = {}
    for benchmark, one in gains:
        settings.setdefault((one.metric, one.method), []).append((benchmark, one))
    drawn = []
    for (name, method), own in settings.items():
        if len({benchmark.name for benchmark, _ in own}) < 2:
            continue
        ends = [
            value
            for (other, _), some in settings.items()
            if other == name
            for _, one in some
            for value in (one.value, one.low, one.high)
        ]
        named = _apart(own)
        values = {key: [getattr(one, key) for _, one in own] for key in FOREST}
        metric = metric_named(name)
        x = f"gain in {metric.label}" + (" (points)" if metric.unit == "%" else "")
        said = "; ".join(f"{label} {one.text}" for label, (_, one) in zip(named, own))
        table = pd.DataFrame({"name": named, **values})
        widest = max(map(len, named))
        spec = charts.forest(table, pd.DataFrame(), x, charts.span(ends), f"Gains of {method}: {said}.", widest)
        drawn.append(Chart(f"c/side-by-side/{name}/{method}", method, spec))
    shown = [table for table in (answer.overview(benchmarks), answer.side_by_side(benchmarks)) if table.rows]
    groups = (Charts("g/side-by-side", "Methods that several benchmarks have", tuple(drawn)),) if drawn else ()
    return Section("overview", "Side by side", (KEY,) if drawn else (), groups, tuple(shown))


def _apart(gains: Sequence[tuple[Benchmark, answer.Gain]]) -> list[str]:
    """Return names of gains of one method, as short as they still differ."""
    short = [f"{benchmark.name}: {one.student}" for benchmark, one in gains]
    if len(set(short)) == len(short):
        return short
    return [f"{benchmark.name}: {one.dataset}, {pair(one.student, one.teacher)}" for benchmark, one in gains]


SPECIAL = {"subnets": "Sub-nets", "retrieval": "Retrieval across inputs", "generated": "Generated images"}
"""Tables of some benchmarks only."""


def _id(benchmark: Benchmark, name: str) -> str:
    return f"b/{benchmark.name}/{name}"


def _table(benchmark: Benchmark, name: str) -> Shown | None:
    """Return a table of the benchmark; None where it has none, or no row in it."""
    table = benchmark.tables.get(name)
    return rows.shown(name, table, benchmark, CAPTIONS[name]) if table is not None and len(table.text) else None


def _table_section(benchmark: Benchmark, name: str, title: str) -> Section | None:
    table = _table(benchmark, name)
    if table is None:
        return None
    images = tuple(_samples(benchmark)) if name == "generated" else ()
    return Section(_id(benchmark, name), title, tables=(table,), images=images)


def _samples(benchmark: Benchmark) -> Iterator[tuple[str, str]]:
    """Yield the sheets of images that generators made, as the figures have them."""
    for path in sorted((benchmark.folder / "figures").glob("samples-*.svg")):
        what = path.stem.removeprefix("samples-")
        yield f"Images that a generator made, a column a label: {what}", found.data_uri(path)


def _answer(benchmark: Benchmark) -> Section:
    text = [Markup('<span class="question">{}</span>').format(answer.question(benchmark)), *answer.answers(benchmark)]
    left = answer.left_after_controls(benchmark)
    drawn = tuple(_forests(benchmark))
    return Section(_id(benchmark, "answer"), "Answer", tuple(text), drawn, (left,) if left else ())


def _forests(benchmark: Benchmark) -> Iterator[Charts]:
    """Yield the gains over the baseline as forest plots: a plot a data set and student, those of a metric on one axis."""
    gains, published = answer.gains(benchmark), answer.published(benchmark)
    for name in dict.fromkeys(one.metric for one in gains):
        own = [one for one in gains if one.metric == name]
        theirs = published[published["method"].isin([one.method for one in own])]
        settings: dict[tuple[str, str], list[answer.Gain]] = {}
        for one in own:
            settings.setdefault((one.dataset, one.student), []).append(one)
        ends = [value for one in own for value in (one.value, one.low, one.high)]
        domain, metric, drawn = charts.span([*ends, *theirs["value"]]), metric_named(name), []
        for (dataset, student), some in settings.items():
            several = len({one.teacher for one in some if one.teacher}) > 1
            named = [f"{one.method} ← {one.teacher}" if several and one.teacher else one.method for one in some]
            table = pd.DataFrame({"name": named, **{key: [getattr(one, key) for one in some] for key in FOREST}})
            beside = theirs[(theirs["dataset"] == dataset) & (theirs["student"] == student)]
            beside = pd.concat(
                [beside[beside["method"] == one.method].assign(name=label) for one, label in zip(some, named)] or [beside]
            )
            said = "; ".join(f"{label} {one.text}" for one, label in zip(some, named))
            x = f"gain in {metric.label}" + (" (points)" if metric.unit == "%" else "")
            spec = charts.forest(
                table,
                beside[["name", "value", "kind", "text"]],
                x,
                domain,
                f"Gains of {student} on {dataset}: {said}.",
                max(len(label) for label in named),
            )
            drawn.append(Chart(f"c/{benchmark.name}/forest/{name}/{len(drawn)}", f"{dataset}, {student}", spec))
        note = "Points: means; lines: 95 % intervals. "
        if len(theirs):
            note += "◆ published for this setting; ◇ published for this method, under other conditions. "
        drawn[-1] = Chart(drawn[-1].id, drawn[-1].title, drawn[-1].spec, note + KEY)
        yield Charts(f"g/{benchmark.name}/forest/{name}", "Gain over the baseline", tuple(drawn))


FOREST = ("value", "low", "high", "text", "href")
KEY = "▲ the interval lies above 0, ▼ below, ● on both sides, or there is none."


def _holes(benchmark: Benchmark) -> Section | None:
    table = rows.holes_shown(benchmark)
    return Section(_id(benchmark, "holes"), "Holes and failures", tables=(table,)) if table.rows else None


def _controls(benchmark: Benchmark) -> Section | None:
    table = _table(benchmark, "controls")
    if table is None:
        return None
    drawn = []
    frame = benchmark.tables["controls"].frame.fillna({"teacher": ""}).reset_index(names="row")
    frame = frame[frame["gain"].notna()]
    for name, part in frame.groupby("metric", sort=False):
        metric = metric_named(name)
        domain = charts.span(part[["gain", "low", "high"]].to_numpy().ravel())
        widest = int(part["control"].str.len().max())
        for (dataset, student, teacher, method), group in part.groupby(["dataset", "student", "teacher", "method"], sort=False):
            words = [beside(*both) for both in zip(group["what"], group.get("welch_what", group["what"]))]
            spec = charts.forest(
                pd.DataFrame(
                    {
                        "name": group["control"],
                        **{"value": group["gain"], "low": group["low"], "high": group["high"], "text": words},
                        "href": [f"#row/{benchmark.name}/controls/{row}" for row in group["row"]],
                    }
                ),
                pd.DataFrame(),
                "gain over the control" + (" (points)" if metric.unit == "%" else ""),
                domain,
                f"{method} on {dataset}, {pair(student, teacher)}, over each control.",
                widest,
            )
            title = f"{method}: {dataset}, {pair(student, teacher)}"
            drawn.append(Chart(f"c/{benchmark.name}/controls/{len(drawn)}", title, spec))
    groups = (Charts(f"g/{benchmark.name}/controls", "", tuple(drawn)),) if drawn else ()
    return Section(_id(benchmark, "controls"), "Controls", (f"Gain of a method over each control. {KEY}",), groups, (table,))


# ---------------------------------------------------------------------------------------------------------------- lines


def _curves(benchmark: Benchmark) -> Section | None:
    groups, single = [], []
    for name, material in benchmark.materials:
        table = charts.over_seeds(
            {
                method: [history.set_index("epoch")[f"test_{material.metric.name}_0"].dropna() for history in histories]
                for method, histories in material.histories.items()
            }
        )
        if table.empty:
            continue
        looks, title = charts.looks(table["method"].unique()), style.label(material.metric)
        place = f"c/{benchmark.name}/curves/{name}"
        text = f"Learning curves of {material.title}: test {title} by epoch, of {', '.join(looks)}."
        if len(looks) == 1:
            spec = charts.lines(table, looks, "epoch", f"test {title}", text, height=180)
            single.append(Chart(f"{place}/all", f"{material.title}: {next(iter(looks))}", spec))
            continue
        drawn = [
            Chart(
                f"{place}/all",
                "The whole training",
                charts.lines(table, looks, "epoch", f"test {title}", text, zoom=True),
                "Drag to move, pinch or Ctrl + wheel to zoom, double-click to go back.",
                steps=True,
            )
        ]
        end = _end(table)
        if len(end) < len(table):
            spec = charts.lines(end, looks, "epochs before a method's last", f"test {title}", f"The end of it. {text}")
            drawn.append(
                Chart(f"{place}/end", "Its end", spec, "The last tenth of each method's epochs, for final differences.")
            )
        groups.append(_lines(f"g/{benchmark.name}/curves/{name}", material, drawn, looks))
    if single:
        groups.append(Charts(f"g/{benchmark.name}/curves", "Networks that one method trained", tuple(single)))
    note = (
        "Means over seeds, in bands from the lowest seed to the highest, of the first network of a group. Epochs count from 0."
    )
    return Section(_id(benchmark, "curves"), "Learning curves", (note,), tuple(groups)) if groups else None


def _end(table: pd.DataFrame) -> pd.DataFrame:
    """Return the last tenth of each method's epochs, or as many evaluated ones as a line needs; x ends at 0."""
    parts = []
    for _, part in table.groupby("method", sort=False):
        last = part["x"].max()
        first = min(last - (last + 1) / 10, part["x"].iloc[-min(SMALLEST_PART, len(part))])
        parts.append(part[part["x"] >= first].assign(x=lambda frame, last=last: frame["x"] - last))
    return pd.concat(parts)


def _lines(name: str, material: Material, drawn: Sequence[Chart], looks: Mapping[str, charts.Look]) -> Charts:
    hidden = tuple(looks)[SHOWN:] if len(looks) > SHOWN + 2 else ()
    return Charts(name, material.title, tuple(drawn), looks, hidden)


def _filters(benchmark: Benchmark) -> Section | None:
    table, groups = _table(benchmark, "filters"), []
    for name, material in benchmark.materials:
        norms = {method: list(seeds.values()) for method, seeds in material.norms.items() if seeds}
        if not norms:
            continue
        looks = charts.looks(norms)
        place = f"c/{benchmark.name}/filters/{name}"
        drawn = list(_filter_charts(place, material, norms, looks))
        if drawn:
            groups.append(_lines(f"g/{benchmark.name}/filters/{name}", material, drawn, looks))
    if table is None and not groups:
        return None
    said = _invalid_text(benchmark)
    folded = (("Table of valid and invalid filters", table),) if table else ()
    return Section(_id(benchmark, "filters"), "Filters", tuple(said), tuple(groups), folded=folded)


def _invalid_text(benchmark: Benchmark) -> Iterator[str]:
    """Yield how many filters are invalid, where the table says so."""
    table = benchmark.tables.get("filters")
    if table is None or table.frame["invalid_ratio"].dropna().empty:
        return
    for threshold, part in table.frame.groupby("threshold", sort=False):
        most = part.loc[part["invalid_ratio"].idxmax()] if part["invalid_ratio"].notna().any() else None
        if most is None:
            continue
        if most["invalid_ratio"] == 0:
            yield f"No filter of any network has an L1 norm of {threshold:g} or less."
        else:
            where = f"{most['method']} on {most['dataset']}, {most['student']}"
            share = f"{100 * most['invalid_ratio']:.1f} %"
            yield f"Filters with an L1 norm of {threshold:g} or less are at most {share} of a network's: {where}."


def _filter_charts(
    place: str, material: Material, norms: Mapping[str, Sequence[np.ndarray]], looks: Mapping[str, charts.Look]
) -> Iterator[Chart]:
    """Yield the charts of filters that have something to show: several methods to tell apart, or invalid filters."""
    invalid = {
        threshold: {
            method: [
                pd.Series(100 * (trace.l1 <= threshold).mean(axis=1), index=trace.epochs)
                for trace in material.traces.get(method, {}).values()
            ]
            for method in norms
        }
        for threshold in THRESHOLDS
    }
    some = any((np.concatenate(arrays) <= max(THRESHOLDS)).any() for arrays in norms.values())
    if len(norms) > 1 or some:
        table = charts.over_seeds({method: [_quantiles(array) for array in arrays] for method, arrays in norms.items()})
        least = float(table["low"].min())
        marks = [threshold for threshold in THRESHOLDS if threshold > least / 3]
        spec = charts.lines(
            table,
            looks,
            "filters, sorted by norm (%)",
            "L1 norm of a filter",
            f"Sorted L1 norms of filters, {material.title}.",
            log=True,
            marks=marks,
        )
        note = f"Thin lines: L1 norms of {' and '.join(f'{mark:g}' for mark in marks)}. " if marks else ""
        note += f"Norms below {FLOOR:g} are drawn at it." if least <= FLOOR else ""
        yield Chart(f"{place}/norms", "Norms of the filters at the end", spec, note)
    for threshold, seeds in invalid.items():
        table = charts.over_seeds(seeds)
        if len(table) and table["high"].max() > 0:
            what = f"filters with an L1 norm of {threshold:g} or less (%)"
            spec = charts.lines(table, looks, "epoch", what, f"Share of {what} by epoch, {material.title}.")
            yield Chart(f"{place}/invalid-{threshold:g}", "Invalid filters over the training", spec)
    entropy = charts.over_seeds(
        {
            method: [pd.Series(trace.entropy.sum(axis=1), index=trace.epochs) for trace in seeds.values()]
            for method, seeds in material.traces.items()
        }
    )
    if entropy["method"].nunique() > 1:
        what = "entropy of the weights, summed (nats)"
        spec = charts.lines(entropy, looks, "epoch", what, f"Entropy of the weights by epoch, {material.title}.")
        yield Chart(f"{place}/entropy", "Entropy of the weights", spec)
    kept = charts.over_seeds(
        {
            method: [
                pd.Series(100 * np.nanmean(trace.share, axis=1), index=trace.exchanges)
                for trace in seeds.values()
                if trace.share.size and np.isfinite(trace.share).any(axis=1).all()
            ]
            for method, seeds in material.traces.items()
        }
    )
    if len(kept):
        what = "own weights kept, mean over layers (%)"
        spec = charts.lines(kept, looks, "epoch", what, f"What a network kept of itself at each exchange, {material.title}.")
        yield Chart(f"{place}/kept", "What networks kept of themselves at each exchange", spec)


def _quantiles(norms: np.ndarray) -> pd.Series:
    """Return a network's norms, sorted, over the share of filters in percent."""
    ranks = np.unique(np.linspace(0, len(norms) - 1, min(len(norms), 60)).round().astype(int))
    return pd.Series(np.maximum(np.sort(norms)[ranks].astype(float), FLOOR), index=100 * (ranks + 1) / len(norms))


def _density(benchmark: Benchmark) -> Section | None:
    table = _table(benchmark, "density")
    if table is None:
        return None
    groups, single = [], []
    for name, material in benchmark.materials:
        metric = material.metric
        seeds = {
            method: [curve.set_index("share")[metric.name] for curve in curves] for method, curves in material.pruned.items()
        }
        pruned = charts.over_seeds(seeds).assign(x=lambda frame: 100 * frame["x"])
        if pruned.empty:
            continue
        looks, title = charts.looks(pruned["method"].unique()), style.label(metric)
        text = f"{title} as the smallest filters are removed, {material.title}."
        several = len(looks) > 1
        height = 300 if several else 180
        spec = charts.lines(pruned, looks, "filters removed, the smallest first (%)", f"test {title}", text, height=height)
        drawn = [Chart(f"c/{benchmark.name}/pruning/{name}", material.title, spec)]
        if not several:
            single += drawn
            continue
        groups.append(_lines(f"g/{benchmark.name}/pruning/{name}", material, drawn, looks))
    if single:
        groups.append(Charts(f"g/{benchmark.name}/pruning", "Networks that one method trained", tuple(single)))
    folded = (("Table of knowledge density", table),)
    return Section(_id(benchmark, "density"), "Knowledge density", charts=tuple(groups), folded=folded)


# --------------------------------------------------------------------------------------------------------------- tables


def _methods(benchmark: Benchmark) -> Section | None:
    table = _table(benchmark, "methods")
    return Section(_id(benchmark, "methods"), "Methods, alone and with grafting", tables=(table,)) if table else None


def _cost(benchmark: Benchmark) -> Section | None:
    table = cost.cost_table(benchmark)
    if not len(table.frame):
        return None
    shown = rows.shown("cost", table, benchmark, "What one training of each method took, and all of them together.")
    groups = tuple(_gain_by_cost(benchmark, table))
    return Section(_id(benchmark, "cost"), "Cost", charts=groups, tables=(shown,))


def _gain_by_cost(benchmark: Benchmark, table: Table) -> Iterator[Charts]:
    """Yield gains over seconds of training, a chart a data set and student that has two methods with a gain."""
    seconds = table.frame.set_index(["dataset", "student", "method"])["seconds"]
    seconds = seconds[~seconds.index.duplicated()]
    settings: dict[tuple[str, str], list[answer.Gain]] = {}
    for one in answer.gains(benchmark):
        if (one.dataset, one.student, one.method) in seconds:
            settings.setdefault((one.dataset, one.student), []).append(one)
    drawn = []
    for (dataset, student), own in settings.items():
        if len(own) < 2 or (dataset, student, "baseline") not in seconds:
            continue
        spent = [seconds[dataset, student, one.method] for one in own]
        frame = pd.DataFrame({"method": [one.method for one in own], "x": spent, "y": [one.value for one in own]})
        frame = frame.assign(text=[f"{one.text}, {x:,.0f} s" for one, x in zip(own, spent)], href=[one.href for one in own])
        metric = metric_named(own[0].metric)
        base = seconds[dataset, student, "baseline"]
        spec = charts.scatter(
            frame,
            charts.looks(frame["method"]),
            "seconds of one training",
            f"gain in {metric.label}",
            f"Gain over seconds of training on {dataset}, {student}.",
        )
        note = f"The baseline took {base:,.0f} seconds. The training of teachers is not counted."
        drawn.append(Chart(f"c/{benchmark.name}/cost/{len(drawn)}", f"{dataset}, {student}", spec, note))
    if drawn:
        yield Charts(f"g/{benchmark.name}/cost", "Gain over the time of one training", tuple(drawn))


def _claims(benchmark: Benchmark) -> Iterable[Section]:
    if "claims" not in benchmark.tables or not len(benchmark.tables["claims"].frame):
        return
    run, unrun, left_out = rows.claims_shown(benchmark)
    texts = ["What the papers claim, held against the cells of this benchmark, with 95 % intervals."]
    if not run.rows:
        texts = ["No claim of the papers has cells in this benchmark."]
    if left_out:
        texts.append(f"{left_out:,} rows that no claim's verdict rests on are only in tables/claims.csv.")
    several = "claims have" if len(unrun.rows) != 1 else "claim has"
    folded = ((f"{len(unrun.rows)} {several} no cell in this benchmark", unrun),) if unrun.rows else ()
    yield Section(_id(benchmark, "claims"), "Claims", tuple(texts), tables=(run,) if run.rows else (), folded=folded)


def _cells(benchmark: Benchmark, linked: bool) -> Section:
    if linked:
        text = "Each leads to its config, command, curve, provenance and log."
        return Section(_id(benchmark, "cells"), "Cells", (text,), tables=(rows.cells_shown(benchmark),))
    text = (
        f"This page leaves out the details of its {len(benchmark.cells):,} cells, too many for a browser. cells.csv has "
        "their numbers, and each cell's folder its config, command, curve, provenance and log."
    )
    return Section(_id(benchmark, "cells"), "Cells", (text,))


def _origin(benchmark: Benchmark) -> Section:
    facts = found.facts(benchmark.cells)
    table = Shown(
        f"{benchmark.name}/facts",
        "What should be one and the same in all cells.",
        tuple(facts.columns),
        tuple(rows.Row(f"row/{benchmark.name}/facts/{i}", tuple(map(str, row))) for i, row in enumerate(facts.to_numpy())),
    )
    config = yaml.safe_dump(dict(benchmark.config), sort_keys=False, allow_unicode=True)
    folded = ((f"The checked config of {benchmark.name}, with every default", config),)
    return Section(_id(benchmark, "origin"), "Provenance and config", tables=(table,) if len(facts) else (), folded=folded)
