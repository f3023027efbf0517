"""Hold one row of a table against another: every gain, interval, p-value and verdict of the tables rests on what is made here.

Samples go by seed: {seed: result}. The primary analysis is `dgd.read.statistics.blocked` on the seeds that both rows have;
Welch's of all seeds of both stands beside it, and in its place where the rows share fewer than two seeds, or differ by the
same in each and nothing says how much differences vary. A benchmark's distinct comparisons are one `Family`, over which
p-values are adjusted once; a table is a `Draft` until that is done.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dgd.read.cells import metric_of, reported
from dgd.read.statistics import (
    Difference,
    blocked,
    detectable,
    detectable_between,
    difference,
    holm,
    moderated,
    typical_variance,
)
from dgd.read.table import Table

Sample = Mapping[int, float]
"""One result a seed."""

BLOCKED, WELCH, SAME = "blocked", "welch", "same"
"""Which analysis a comparison rests on; `SAME`: the two are equal in every seed, so that there is nothing to compare."""

DECIMALS = 9
"""To how many decimals differences are taken: what two equal floats less two others differ by is no spread."""

NOTHING = Difference(math.nan, math.nan, math.nan, math.nan)
EQUAL = Difference(0.0, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Comparison:
    """One row over another.

    Attributes:
        own, other: Their results, one a seed of each, turned so that more is better.
        differences: Those of the seeds that both have.
        typical: `typical_variance` of the setting over the other row, NaN for none.
        key: The same for the same pair of samples, whichever way round.
        sign: 1, or -1 where less is better and both are turned.
    """

    own: tuple[float, ...] = ()
    other: tuple[float, ...] = ()
    differences: tuple[float, ...] = ()
    typical: float = math.nan
    key: Hashable = None
    sign: int = 1
    primary: Difference = field(init=False)
    welch: Difference = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "primary", self.at())
        object.__setattr__(self, "welch", self.welch_at())

    def turned(self) -> "Comparison":
        """Return the same in the other direction: less is better."""
        own, other, differences = (tuple(-one for one in values) for values in (self.own, self.other, self.differences))
        return Comparison(own, other, differences, self.typical, self.key, -self.sign)

    @property
    def analysis(self) -> str:
        """Return `BLOCKED`, `WELCH` or `SAME`; "" where a side has no result."""
        if not self.own or not self.other:
            return ""
        if len(self.differences) > 1 and not any(self.differences):
            return SAME
        return BLOCKED if self.moments[0] > 0 else WELCH

    @property
    def moments(self) -> tuple[float, float]:
        """Return the variance of the differences, moderated, and its degrees of freedom; NaN of fewer than two."""
        if len(self.differences) < 2:
            return math.nan, math.nan
        spread = float(np.var(self.differences, ddof=1)) if np.ptp(self.differences) else 0.0
        return moderated(spread, len(self.differences), self.typical)

    @property
    def minimum_detectable_effect(self) -> float:
        """Return the true gain that the primary analysis would have shown in 80 % of cases; NaN where it cannot test."""
        if self.analysis == WELCH:
            return detectable_between(self.own, self.other)
        if self.analysis != BLOCKED:
            return math.nan
        variance, freedom = self.moments
        return detectable(math.sqrt(variance / len(self.differences)), freedom)

    def at(self, confidence: float = 0.95) -> Difference:
        """Return the gain with its interval and p by the primary analysis; two rows that are the same have neither."""
        if self.analysis in ("", SAME):
            return EQUAL if self.analysis else NOTHING
        return blocked(self.differences, self.typical, confidence) if self.analysis == BLOCKED else self.welch_at(confidence)

    def welch_at(self, confidence: float = 0.95) -> Difference:
        """Return the same by Welch's, of all seeds of both."""
        if self.analysis in ("", SAME):
            return EQUAL if self.analysis else NOTHING
        return difference(self.own, self.other, confidence)

    def columns(self, name: str = "gain", bare: bool = False) -> dict[str, float | str]:
        """Return the columns of a table that say all of this.

        Args:
            name: Column of the gain; those of its interval and so on are `<name>_low`, ...
            bare: They are `low`, ... instead.
        """
        start = "" if bare else f"{name}_"
        values = (*self.primary, *self.welch[1:], self.analysis)
        ends = ("low", "high", "p", "welch_low", "welch_high", "welch_p", "analysis")
        return dict(zip((name, *(start + end for end in ends)), values, strict=True))


NONE = Comparison()
"""A comparison of nothing."""


class Setting:
    """All rows of one data set and network, which say how much differences by seed vary there.

    Args:
        key: What the setting is of: benchmark, data set, network.
        rows: Name of a row -> its results.
        sign: 1 where more is better, else -1.
    """

    def __init__(self, key: tuple, rows: Mapping[Hashable, Sample], sign: int = 1):
        self.key, self.rows, self.sign = key, rows, sign
        self._typical: dict[tuple, float] = {}

    def of(self, own: Sample, other: Sample, but: Hashable = None) -> Comparison:
        """Return one sample over another.

        Args:
            own: By seed.
            other: What it is held against.
            but: The row that `other` is a reading of, which says nothing of how others differ from it.
        """
        if not own or not other:
            return NONE
        key = (*self.key, frozenset([tuple(sorted(own.items())), tuple(sorted(other.items()))]))
        ours, theirs = (tuple(self.sign * sample[seed] for seed in sorted(sample)) for sample in (own, other))
        differences = self._differences(own, other)
        typical = self._over(other, but) if len(differences) > 1 else math.nan
        return Comparison(ours, theirs, tuple((self.sign * differences).tolist()), typical, key, self.sign)

    def _differences(self, own: Sample, other: Sample) -> np.ndarray:
        shared = sorted(own.keys() & other.keys())
        return np.round([own[seed] - other[seed] for seed in shared], DECIMALS)

    def _over(self, other: Sample, but: Hashable) -> float:
        """Return the typical variance of differences over a sample, each training counted once."""
        known = (frozenset(other.items()), but)
        if known not in self._typical:
            found = {}
            for name, row in self.rows.items():
                differences = self._differences(row, other)
                if name != but and len(differences) > 1 and differences.any():
                    found[differences.tobytes()] = differences
            self._typical[known] = typical_variance(list(found.values()))
        return self._typical[known]


class Settings:
    """The settings of a benchmark's cells; a network within another one is a row of the setting of its own name.

    Args:
        cells: From `dgd.read.cells.collect`, or its CSV.
        report: Which network of a group is read; see `dgd.read.cells.reported`.
    """

    def __init__(self, cells: pd.DataFrame, report: str = "first"):
        self.benchmark = str(cells["benchmark"].iloc[0]) if len(cells) else ""
        self.report, self._found = report, {}
        cells = cells.assign(teacher=cells["teacher"].fillna(""))
        self._parts = dict(list(cells.groupby(["dataset", "student"], sort=False)))
        self._nested = {}
        if "subnet" in cells:
            self._nested = dict(list(cells[cells["subnet"].fillna("") != ""].groupby(["dataset", "subnet"], sort=False)))

    def of(self, dataset: str, network: str, column: str = "last") -> Setting:
        """Return the setting of a data set and network.

        Args:
            dataset: Its name.
            network: The student's, or a sub-net's.
            column: `last` or `best_on_test`.
        """
        place = dataset, network, column
        if place not in self._found:
            part, nested = self._parts.get(place[:2]), self._nested.get(place[:2])
            rows = {}
            if part is not None:
                rows |= self._reported(part, column)
            if nested is not None:
                first = nested[nested["status"] == "finished"].drop_duplicates(["student", "teacher", "method", "seed"])
                groups = first.groupby(["student", "teacher", "method"], sort=False)
                rows |= {name: by_seed(group, column) for name, group in groups}
            there = part if part is not None else nested
            sign = metric_of(there).sign if there is not None else 1
            self._found[place] = Setting((self.benchmark, dataset, network), rows, sign)
        return self._found[place]

    def _reported(self, part: pd.DataFrame, column: str) -> dict[Hashable, Sample]:
        """Return the sample of each row; which network is the best is asked of each row by itself."""
        if self.report == "best":
            groups = part.groupby(["teacher", "method"], sort=False)
            return {name: by_seed(reported(group, self.report)[0], column) for name, group in groups}
        there = reported(part, self.report)[0][["teacher", "method", "seed", column]]
        return {name: by_seed(group, column) for name, group in there.groupby(["teacher", "method"], sort=False)}


def by_seed(rows: pd.DataFrame, column: str = "last") -> dict[int, float]:
    """Return the sample of rows of cells.csv, a cell each: those that have a result; of several of one seed, their mean."""
    values = rows[column].astype(float)
    there = values.notna().to_numpy()
    seeds, values = rows["seed"].to_numpy()[there], values.to_numpy()[there]
    if len(set(seeds.tolist())) < len(seeds):
        return {int(seed): float(np.mean(values[seeds == seed])) for seed in dict.fromkeys(seeds.tolist())}
    return dict(zip(map(int, seeds), map(float, values)))


class Family:
    """The distinct comparisons of a benchmark's tables, with one adjusted p for each, by Holm.

    The same pair of samples is one comparison, in whichever tables it stands. Where two tables hold it in opposite directions,
    the larger p counts. Benchmarks are families of their own.

    Args:
        drafts: All tables of the benchmark, or of several.
    """

    def __init__(self, drafts: Iterable["Draft"]):
        raw: dict[Hashable, dict[Hashable, float]] = {}
        for draft in drafts:
            for one in (one for column in draft.compared.values() for one in column):
                if not math.isnan(one.primary.p):
                    own = raw.setdefault(one.key[0], {})
                    own[one.key] = max(own.get(one.key, 0.0), one.primary.p)
        self._adjusted: dict[Hashable, float] = {}
        for own in raw.values():
            self._adjusted |= dict(zip(own, holm(list(own.values())).tolist()))

    def __len__(self) -> int:
        return len(self._adjusted)

    def adjusted(self, one: Comparison) -> float:
        """Return the adjusted p of a comparison, NaN where it was none."""
        return self._adjusted.get(one.key, math.nan)


@dataclass(frozen=True)
class Draft:
    """A table whose p-values are not adjusted yet.

    Attributes:
        frame: Its numbers.
        compared: Column of adjusted p-values -> the comparison of each row, `NONE` for none.
        finish: Makes the table of the numbers, and of how many distinct comparisons the family has.
    """

    frame: pd.DataFrame
    compared: Mapping[str, Sequence[Comparison]]
    finish: Callable[[pd.DataFrame, int], Table]

    def table(self, family: Family | None = None) -> Table:
        """Return the table; without a family, that of its own comparisons."""
        family = Family([self]) if family is None else family
        columns = {name: np.array([family.adjusted(one) for one in found], float) for name, found in self.compared.items()}
        return self.finish(self.frame.assign(**columns), len(family))


# -------------------------------------------------------------------------------------------------------------- text


def own_network(name: str) -> str:
    """Return what stands for the gain of a row over another whose own network it is."""
    return f"{name}'s own network"


def beside(word: str, by_welch: str) -> str:
    """Return a verdict, with the one that Welch's interval would give where that is another one."""
    return word if word == by_welch or not word or not by_welch else f"{word} (Welch: {by_welch})"


def footnote(size: int) -> str:
    """Return the footnote on how gains are compared, of a family of so many comparisons (0: it is not known)."""
    count = f"{size} " if size else ""
    return (
        "Gains are means of differences by seed, of the seeds that both rows have: a seed is a block, whose networks share "
        "their initial weights and the order and augmentation of images. Their variance is moderated by the one that is "
        "typical of the setting's rows (docs/reading-tables.md). Where Welch's interval, of all seeds of both as "
        "independent samples, would give another word, it stands in brackets; the CSV has it for every row. Rows that share "
        "fewer than two seeds, or differ by the same in each, are compared by Welch's alone. p is adjusted by Holm over the "
        f"{count}distinct comparisons of all tables of this benchmark. A row that is another one's own network has the same "
        "result in every seed, as the first of networks that learn apart: there is nothing to compare, and the methods "
        "table has their best and ensemble."
    )


CONDITIONAL = (
    "Intervals are of further seeds (initial weights, order, augmentation), with this teacher and these test images. Test "
    "images as a random factor beside the seeds would widen those of the committed benchmarks of 10,000 test images by 2 % in "
    "the median and 56 % at most, those of 1,000 or fewer by 25 % and 96 %."
)
"""The footnote on what an interval does not cover; its numbers are those that tests/test_images.py measures."""
