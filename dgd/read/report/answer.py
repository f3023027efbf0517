"""Say in sentences what a benchmark asks and what it found: gains, what controls leave of them, holes, cost."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
from markupsafe import Markup

from dgd.metrics import metric_named
from dgd.read import claims
from dgd.read.comparisons import SAME
from dgd.read.departures import PUBLISHED
from dgd.read.report import charts, cost
from dgd.read.report.found import Benchmark
from dgd.read.report.rows import Row, Shown, sort_key
from dgd.read.results import with_gain
from dgd.read.table import NOT_RUN, PAIR, gain, pair

NAMED = 6
"""Methods that a sentence names; of more it says how many."""


class Gain(NamedTuple):
    """A gain over the baseline.

    Attributes:
        row: Its place in the results table.
        method, dataset, student, teacher: What it is of.
        metric: Name of its metric.
        value, low, high: The gain and its interval, NaN for none.
        text: It, as a reader sees it.
        href: Its row on the page.
    """

    row: int
    method: str
    dataset: str
    student: str
    teacher: str
    metric: str
    value: float
    low: float
    high: float
    text: str
    href: str


def gains(benchmark: Benchmark) -> list[Gain]:
    """Return the gains of the results table, the largest of each data set and student first."""
    found = []
    frame = benchmark.tables["results"].frame
    for place, row in enumerate(frame.itertuples()):
        if pd.notna(row.gain) and getattr(row, "gain_analysis", "") != SAME:
            text = gain(row.gain, row.gain_low, row.gain_high, metric_named(row.metric).form)
            teacher = row.teacher if isinstance(row.teacher, str) else ""
            numbers = (row.metric, row.gain, row.gain_low, row.gain_high)
            href = f"#row/{benchmark.name}/results/{place}"
            found.append(Gain(place, row.method, row.dataset, row.student, teacher, *numbers, text, href))
    return sorted(found, key=lambda one: (one.metric, one.dataset, one.student, -one.value))


def published(benchmark: Benchmark) -> pd.DataFrame:
    """Return the published gains of methods over the baseline, which stand beside ours.

    Those of the results table, and those that a claim about a method of this benchmark was published with, in whichever
    settings.

    Returns:
        Columns `dataset`, `student`, `method`, `value`, `kind` ("as published" or "under other conditions"), `text`.
    """
    rows = []
    for row in benchmark.tables["results"].frame.itertuples():
        if pd.notna(row.paper_mean) and isinstance(row.paper_baseline, str):
            metric = metric_named(row.metric)
            value = metric.sign * (row.paper_mean - sort_key(row.paper_baseline))
            text = f"{value:+{metric.form}} ({row.paper_source})"
            kind = "under other conditions" if pd.isna(row.paper_gain) else "as published"
            text += "" if row.scale == PUBLISHED else f"; ours: {row.scale}"
            rows.append((row.dataset, row.student, row.method, value, kind, text))
    judged = claims.typed(benchmark.tables["claims"].frame) if "claims" in benchmark.tables else pd.DataFrame()
    for _, claim in judged.groupby("claim", sort=False) if len(judged) else ():
        ours = claim[(claim["verdict"] != NOT_RUN) & (claim["over_row"] == "baseline") & (claim["better"] == "higher")]
        theirs = claim[claim["published"].notna() & claim["metric"].str.endswith("at the last epoch, %")]
        for one in ours[["dataset", "student", "row"]].drop_duplicates().itertuples(index=False):
            for row in theirs[theirs["verdict"] == NOT_RUN].itertuples():
                text = f"{row.published:+{row.form}}: {row.dataset}, {row.student} ({row.paper}, {row.source})"
                rows.append((one.dataset, one.student, one.row, row.published, "under other conditions", text))
    columns = ["dataset", "student", "method", "value", "kind", "text"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates(["dataset", "student", "method", "value"])


def question(benchmark: Benchmark) -> str:
    """Return what a benchmark asks."""
    frame = benchmark.tables["results"].frame
    methods, students = (list(with_gain(frame)[name].unique()) for name in ("method", "student"))
    if not methods:
        return f"How good are the baselines on {_and(frame['dataset'].unique())}?"
    who = f"Does {methods[0]} make" if len(methods) == 1 else f"Which of {len(methods)} methods makes"
    return f"{who} {_and(students)} better on {_and(frame['dataset'].unique())}, by how much, and at what cost?"


def answers(benchmark: Benchmark) -> Iterator[Markup]:
    """Yield what was found, a sentence or two each, as HTML."""
    yield from _gains(benchmark)
    yield from _published(benchmark)
    yield from _controls(benchmark)
    yield _cells(benchmark)
    yield _cost(benchmark)


def _gains(benchmark: Benchmark) -> Iterator[Markup]:
    found = gains(benchmark)
    if not found:
        yield Markup("No gain can be told: no method here has a baseline of the same student on the same data.")
    for name in dict.fromkeys(one.metric for one in found):
        metric = metric_named(name)
        own = [one for one in found if one.metric == name]
        by: dict[str, list[Gain]] = {word: [] for word in charts.SENSES}
        for one in own:
            by[charts.sense(one.low, one.high)].append(one)
        many = len({(one.dataset, one.student) for one in own}) > 1
        unit = "points of " if metric.unit == "%" else ""
        parts = [
            _listed(f"{len(by['better'])} of {len(own)} gain", sorted(by["better"], key=lambda one: -one.value), many),
            _listed(f"{len(by['worse'])} lose", sorted(by["worse"], key=lambda one: one.value), many),
            Markup("{} cannot be told from the baseline").format(len(by["open"])),
        ]
        corrected = benchmark.tables["results"].frame.query("metric == @name")["gain_p_holm"]
        yield Markup("<b>Over the baseline, in {}{}:</b> {}. Corrected for their number (Holm), {} differ at 5 %.").format(
            unit, metric.label, Markup("; ").join(parts), int((corrected < 0.05).sum())
        )


def _published(benchmark: Benchmark) -> Iterator[Markup]:
    """Yield how the rows that are run as published compare, or that there is none."""
    frame = benchmark.tables["results"].frame
    frame = with_gain(frame)
    same = frame[frame["paper_gain"].notna()]
    if len(same):
        counts = ", ".join(f"{count} {verdict}" for verdict, count in same["verdict"].value_counts().items())
        yield Markup("<b>Beside the papers:</b> {} rows are run as published: {}.").format(len(same), counts)
    elif len(frame):
        yield Markup(
            "<b>Beside the papers:</b> nothing here is run under the conditions of a published gain, so only the direction of "
            "one can show."
        )


def _listed(start: str, found: list[Gain], many: bool) -> Markup:
    """Return how many there are, and the first of them with links."""
    if not found:
        return Markup("{}").format(start)
    links = [
        Markup('<a href="{}">{} {}</a>').format(one.href, f"{one.method} ({one.student})" if many else one.method, one.text)
        for one in found[:NAMED]
    ]
    rest = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return Markup("{}: {}{}").format(start, Markup(", ").join(links), rest)


def _controls(benchmark: Benchmark) -> Iterator[Markup]:
    table = benchmark.tables.get("controls")
    if table is None or table.frame.empty:
        yield Markup(
            "<b>Controls:</b> none are named by this benchmark, so what else could explain a gain (another learning rate, more "
            "training, an ensemble) is not ruled out."
        )
        return
    words = table.frame["what"].value_counts()
    said = ", ".join(text.format(words[word]) for word, text in WORDS.items() if word in words)
    whole = [
        name
        for name, group in table.frame.groupby("method", sort=False)
        if (group["baseline_low"] > 0).any() and (group["what"] == "left").all()
    ]
    yield Markup("<b>After controls:</b> of {} comparisons with what else could explain a gain, {}.{}").format(
        len(table.frame),
        said,
        f" {_and(whole)} {'keeps' if len(whole) == 1 else 'keep'} a gain over every control." if whole else "",
    )


WORDS = {
    "left": "gain left in {}",
    "explained": "explained in {}",
    "reversed": "reversed in {}",
    "inconclusive": "inconclusive in {}",
    NOT_RUN: "{} not run",
}
"""What the answer says of each word of the controls table."""


def _cells(benchmark: Benchmark) -> Markup:
    counts = pd.Series([found.status for found in benchmark.cells.values()]).value_counts()
    stale = sum(found.standing.startswith("stale") for found in benchmark.cells.values())
    others = [f"{count} {status}" for status, count in counts.items() if status != "finished"]
    others += [f"{stale} stale" if stale else ""]
    holes = ", ".join(filter(None, others))
    text = f"{counts.get('finished', 0)} of {len(benchmark.cells)} finished"
    link = Markup('; <a href="#{}">{}</a>').format(f"b/{benchmark.name}/holes", holes) if holes else "; no hole, none stale"
    return Markup("<b>Cells:</b> {}{}.").format(text, link)


def _cost(benchmark: Benchmark) -> Markup:
    cores, gpus = cost.hours(benchmark)
    devices = dict.fromkeys(
        found.gpu or found.provenance["machine"]["cpu"] for found in benchmark.cells.values() if found.provenance
    )
    on = f" on {_and(devices)}" if devices else ""
    used = f"{gpus:.1f} GPU-hours, " if gpus else "no GPU, "
    return Markup("<b>Cost:</b> {}{:.1f} core-hours of training{}.").format(used, cores, on)


def left_after_controls(benchmark: Benchmark) -> Shown | None:
    """Return what the controls leave of each method's gain, a row a method; None without controls."""
    table = benchmark.tables.get("controls")
    if table is None or table.frame.empty:
        return None
    names = {
        "left": "left over",
        "explained": "explained by",
        "reversed": "reversed by",
        "inconclusive": "inconclusive against",
    }
    rows = []
    keys = table.frame[["dataset", "student", "teacher", "method"]].fillna("")
    for key, group in table.frame.groupby([keys[name] for name in keys], sort=False):
        dataset, student, teacher, method = key
        first, form = group.iloc[0], metric_named(group.iloc[0]["metric"]).form
        texts = (method, dataset, pair(student, teacher))
        texts += (gain(first["baseline_gain"], first["baseline_low"], first["baseline_high"], form),)
        texts += tuple(_and(group.loc[group["what"] == word, "control"]) or "–" for word in names)
        rows.append(Row(f"row/{benchmark.name}/left/{len(rows)}", texts))
    columns = ("method", "data set", PAIR, "gain over baseline", *names.values())
    # Where all is of one data set, the headings of the page say which.
    if keys["dataset"].nunique() == 1:
        rows = [replace(row, texts=(row.texts[0], *row.texts[2:])) for row in rows]
        columns = (columns[0], *columns[2:])
    return Shown(f"{benchmark.name}/left", "What controls leave of each gain.", columns, tuple(rows))


def _and(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(map(str, names)))
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


# --------------------------------------------------------------------------------------------------------- side by side


def overview(benchmarks: Sequence[Benchmark]) -> Shown:
    """Return one row a benchmark: what it ran, and what came out."""
    columns = ("benchmark", "data sets", "students", "methods", "cells", "better", "worse", "open", "core-hours", "GPU-hours")
    rows = []
    for benchmark in benchmarks:
        frame, found = benchmark.tables["results"].frame, gains(benchmark)
        senses = [charts.sense(one.low, one.high) for one in found]
        done = sum(one.finished for one in benchmark.cells.values())
        cores, gpus = cost.hours(benchmark)
        texts = (benchmark.name, _and(frame["dataset"]), _and(with_gain(frame)["student"]))
        texts += (str(frame["method"].nunique()), f"{done} of {len(benchmark.cells)}")
        texts += (*(str(senses.count(word)) for word in charts.SENSES), f"{cores:.1f}", f"{gpus:.1f}" if gpus else "–")
        rows.append(Row(f"row/overview/{benchmark.name}", texts, links={"benchmark": f"#b/{benchmark.name}"}))
    return Shown("overview", "The benchmarks of this page.", columns, tuple(rows))


def side_by_side(benchmarks: Sequence[Benchmark]) -> Shown:
    """Return the gains over the baseline of every method, a column for each benchmark, data set and student that has some."""
    found: dict[str, dict[str, list[Gain]]] = {}
    columns: dict[str, None] = {}
    for benchmark in benchmarks:
        for one in gains(benchmark):
            column = f"{benchmark.name}: {one.dataset}, {one.student}"
            columns[column] = None
            found.setdefault(one.method, {}).setdefault(column, []).append(one)
    rows = []
    for method, own in sorted(found.items(), key=lambda item: -len(item[1])):
        texts = [" / ".join(one.text for one in own.get(column, ())) for column in columns]
        links = {column: several[0].href for column, several in own.items()}
        rows.append(Row(f"row/side-by-side/{method}", (method, *texts), links=links))
    return Shown("side-by-side", "Gains over the baseline, benchmark by benchmark.", ("method", *columns), tuple(rows))
