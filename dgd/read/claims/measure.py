"""Take the values that claims compare from the cells of a benchmark and their files, each read once."""

import math
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from dgd.benchmark import BASELINE
from dgd.cell import Data, Recipe
from dgd.metrics import metric_named
from dgd.read.cells import CONDITIONS
from dgd.read.claims.schema import ENSEMBLE, KINDS, Claim, Kind, Measure, Side
from dgd.read.comparisons import Comparison, Setting, Settings
from dgd.read.departures import departures
from dgd.read.files import AGAIN, has, read_entropies, read_filters, read_history
from dgd.read.matching import composition_of
from dgd.read.papers import BEST, LAST
from dgd.read.results import AS_REPORTED
from dgd.read.thresholds import THRESHOLDS, column

Where = tuple[str, str, str]
"""Data set, student and teacher, "" without one."""

OF_NORMS = {
    "invalid_ratio": lambda norms, threshold: np.mean(norms <= threshold),
    "invalid_count": lambda norms, threshold: np.sum(norms <= threshold),
    "mean_l1": lambda norms, _: np.mean(norms),
    "median_l1": lambda norms, _: np.median(norms),
    "max_l1": lambda norms, _: np.max(norms),
}
"""Kinds that are taken from the L1 norms (filters,) of some layers."""

SHARED = [name for name, (kind, _) in CONDITIONS.items() if kind in (Recipe, Data)]
"""Columns of cells.csv in which two rows of methods must agree to be compared, but for what either's method overrides."""


class Benchmark:
    """The finished cells of one benchmark, network 0, and what claims need from their files.

    Args:
        cells: From `dgd.read.cells.collect`, or its CSV.
        folder: `results/<benchmark>`; None: what is in the cells' own files has no value.
        wanted: Everything that will be measured, so that a file is read once for all of it.
    """

    def __init__(self, cells: pd.DataFrame, folder: str | Path | None, wanted: Iterable[Measure]):
        self.name = str(cells["benchmark"].iloc[0]) if len(cells) else ""
        self.folder = Path(folder) if folder is not None else None
        self.of_layers = [measure for measure in wanted if file_of(measure) == "filters.npz"]
        first = cells[(cells["status"] == "finished") & (cells["network"] == 0)]
        first = first.assign(teacher=first["teacher"].fillna(""))
        self.rows: dict[tuple[str, Where], list[dict]] = {}
        for cell in first.to_dict("records"):
            dataset = cell["dataset"].removeprefix("imagefolder-").lower()
            where = dataset, cell["student"], cell["teacher"]
            self.rows.setdefault((cell["method"], where), []).append(cell)
        self._assigned: dict[int, dict[str, list[tuple[str, Where]]]] = {}
        self._settings, self._measured = Settings(cells), {}
        self._history = cache(self._read_history)
        self._filters = cache(self._read_filters)

    def pairs(self, claim: Claim, side: Side, other: Side, kind: Kind) -> Iterable[tuple[Where, list[dict], list[dict]]]:
        """Yield (where, cells of the side, cells of the other) wherever both are, alike in all but the two methods.

        The two have the same data set and student, the same teacher if both have one, and the same recipe but for what
        either method overrides. Where the kind counts filters by the baseline, that has the same recipe too.
        """
        rows, overridden = self._assign(claim), {*side.overrides, *other.overrides}
        for (name, mine), (over, theirs) in product(rows.get(side.reading.method, ()), rows.get(other.reading.method, ())):
            if mine[:2] != theirs[:2] or (mine[2] != theirs[2] and mine[2] and theirs[2]):
                continue
            ours, others = self.rows[name, mine], self.rows[over, theirs]
            compared = [ours[0], others[0]]
            if kind.by_baseline:
                compared += self.rows.get((_label(ours[0], "baseline"), (*mine[:2], "")), [])[:1]
            alike = all(_same(ours[0].get(key), cell.get(key)) for cell in compared for key in SHARED if key not in overridden)
            if alike and (not kind.metric or ours[0]["metric"] == others[0]["metric"] == kind.metric):
                yield (*mine[:2], mine[2] or theirs[2]), ours, others

    def _assign(self, claim: Claim) -> Mapping[str, list[tuple[str, Where]]]:
        """Return the keys of `rows` that are cells of each method of the claim's paper, by the method's label."""
        if id(claim.methods) not in self._assigned:
            found: dict[str, list[tuple[str, Where]]] = {}
            for key, cells in self.rows.items():
                if label := _method_of(cells[0], claim.methods):
                    found.setdefault(label, []).append(key)
            self._assigned[id(claim.methods)] = found
        return self._assigned[id(claim.methods)]

    def teachers(self, where: Where, cells: list[dict]) -> list[dict]:
        """Return the cells of a pair's teacher that are in this benchmark, of the row that teaches these cells."""
        names = dict.fromkeys(_label(cell, "taught_by") for cell in cells if cell["teacher"])
        return [one for name in names for one in self.rows.get((name, (where[0], where[2], "")), [])]

    def values(
        self, cells: list[dict], measure: Measure, side: Side, reported: str | None = None
    ) -> tuple[dict[int, float] | None, str]:
        """Return one value a seed that has one, and a remark on those that have none; None if no layer is meant.

        Args:
            cells: Of one side.
            measure: What is measured.
            side: Which side.
            reported: Of which epoch the published number is, where ours is to be of the same; see `dgd.read.papers.REPORTED`.
        """
        best = reported == BEST and has_best(measure, side)
        ensemble = side.reading.how == ENSEMBLE
        found = {
            int(cell["seed"]): _number(cell.get(AS_REPORTED[BEST] if best else "ensemble"))
            if best or ensemble
            else self._value(cell, measure)
            for cell in cells
        }
        if any(value is None for value in found.values()):
            return None, ""
        values = {seed: value for seed, value in found.items() if math.isfinite(value)}
        if len(values) == len(found):
            return values, ""
        if ensemble:
            why = "no ensemble recorded"
        elif measure.epoch is not None:
            why = f"no {metric_named(KINDS[measure.kind].metric).label} of that epoch"
        else:
            why = "the baseline has no such filter" if KINDS[measure.kind].by_baseline else "not recorded"
        return values, f"{len(found) - len(values)} of {len(found)} cells of {side.reading.method} without a value: {why}"

    def compared(
        self,
        cells: tuple[list[dict], list[dict]],
        values: tuple[dict, dict],
        measure: Measure,
        sides: tuple[Side, Side],
        best: bool,
    ) -> Comparison:
        """Return the values of one side over those of the other.

        Args:
            cells: Of either side.
            values: From `values`, of either side.
            measure: What is measured.
            sides: Which sides.
            best: The other side is read at its best epoch on the test set.
        """
        first = cells[1][0]
        reading = (first["teacher"], first["method"]) if sides[1].reading.how == ENSEMBLE else None
        column = KINDS[measure.kind].column
        if column == AS_REPORTED[LAST] and file_of(measure) == "cells.csv":
            setting = self._settings.of(first["dataset"], first["student"], AS_REPORTED[BEST] if best else column)
        else:
            setting = self._setting(first["dataset"], first["student"], measure)
        return setting.of(*values, reading)

    def _setting(self, dataset: str, student: str, measure: Measure) -> Setting:
        """Return the setting of a measure that is no result of a network: all rows that have it."""
        place = dataset, student, measure
        if place not in self._measured:
            rows = {}
            for (method, where), cells in self.rows.items():
                if (cells[0]["dataset"], where[1]) == (dataset, student):
                    found = {int(cell["seed"]): self._value(cell, measure) for cell in cells}
                    rows[where[2], method] = {
                        seed: value for seed, value in found.items() if value is not None and math.isfinite(value)
                    }
            self._measured[place] = Setting((self.name, dataset, student, str(measure)), rows)
        return self._measured[place]

    def _value(self, cell: dict, measure: Measure) -> float | None:
        kind = KINDS[measure.kind]
        match file_of(measure):
            case "history.csv":
                return self._history(cell["folder"], kind.metric).get(measure.epoch_of(int(cell["epochs"])), math.nan)
            case "filters.npz":
                return self._filters(cell["folder"]).get(measure, math.nan)
        name = kind.column if measure.threshold is None else column(kind.column, measure.threshold)
        return _number(cell.get(name))

    def _read_history(self, folder: str, metric: str) -> dict[int, float]:
        """Return {epoch: the metric of network 0 on the test split} of the evaluated epochs."""
        path = self.folder / folder / "history.csv" if self.folder else None
        if path is None or not has(path):
            return {}
        history = read_history(path, metric_named(metric)).dropna()
        return dict(zip(history["epoch"].tolist(), history[f"test_{metric}_0"].tolist()))

    def _read_filters(self, folder: str) -> dict[Measure, float | None]:
        """Return every number that claims want from a filters.npz; None where no layer has the name."""
        path = self.folder / folder / "filters.npz" if self.folder else None
        if path is None or not has(path):
            return {}
        layers, entropy = read_filters(path).get(0, {}), read_entropies(path)
        if len(entropy) != len(layers):
            raise ValueError(f"{path}: no entropy of each layer of network 0; {AGAIN}")
        found: dict[Measure, float | None] = {}
        for measure in self.of_layers:
            names = [name for name in layers if measure.layers is None or measure.layers in name]
            if not names:
                found[measure] = None
            elif measure.kind == "entropy_sum":
                of = dict(zip(layers, entropy, strict=True))
                found[measure] = float(sum(of[name] for name in names))
            else:
                norms = np.concatenate([layers[name] for name in names]).astype(float)
                found[measure] = float(OF_NORMS[measure.kind](norms, measure.threshold))
        return found


def has_best(measure: Measure, side: Side) -> bool:
    """Return whether a measure is of one epoch of a cell, the last or the best one: a metric, and not of an ensemble."""
    return KINDS[measure.kind].column == AS_REPORTED[LAST] and side.reading.how != ENSEMBLE


def file_of(measure: Measure) -> str:
    """Return the file that a measure is read from; "" where nothing of ours measures it."""
    kind = KINDS[measure.kind]
    if not kind.measured:
        return ""
    if measure.epoch is not None:
        return "history.csv"
    collected = kind.column and measure.layers is None and measure.threshold in (None, *THRESHOLDS)
    return "cells.csv" if collected else "filters.npz"


def _method_of(cell: Mapping, methods: Mapping[str, Side]) -> str | None:
    """Return the label of the method that a cell is of: of those that it agrees with, the one that overrides most."""
    made = composition_of(cell), cell["networks"], cell["teachers"]
    agree = [
        label
        for label, side in methods.items()
        if (side.composition, side.networks, side.teachers) == made and not departures(cell, side.overrides)
    ]
    return max(agree, key=lambda label: len(methods[label].overrides), default=None)


def _label(cell: Mapping, name: str) -> str:
    """Return the row that is the baseline of a cell or that its teachers are of: `baseline` unless cells.csv names another."""
    found = cell.get(name)
    return BASELINE if found is None or pd.isna(found) else found


def _same(one, other) -> bool:
    return one == other or (pd.isna(one) and pd.isna(other))


def _number(value) -> float:
    return math.nan if value is None else float(value)
