"""How often comparisons, verdicts, controls' words and claims err by the primary analysis, held to what docstrings say."""

import math
import re

import numpy as np
import pytest

from dgd.read import claims, controls
from dgd.read.comparisons import Setting
from dgd.read.statistics import VERDICTS, detectable, holm, pooled_gain, verdict
from tests.simulated import benchmark, blocks, interval, p_values

COUNT = 3000
"""Benchmarks that are drawn: four standard errors of a rate of a half are 3.7 points."""


def stated(function, pattern: str) -> list[float]:
    """Return the numbers of a docstring, whose lines are joined."""
    found = re.search(pattern, " ".join(function.__doc__.split()))
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", found[1])]


def near(rates, expected) -> bool:
    """Return whether measured rates in % are those that are stated, within four standard errors and a rounding."""
    shares = np.clip(np.array(expected, float) / 100, 0.005, 0.995)
    return (abs(np.array(rates) - expected) <= 400 * np.sqrt(shares * (1 - shares) / COUNT) + 0.06).all()


def test_simulated_comparisons_are_ours():
    """The arithmetic on arrays is that of `Setting`, for a gain over the baseline and for one over another method."""
    drawn = benchmark(3, 4, [1.0], 3.0)
    for rows in drawn:
        named = {place: dict(enumerate(row.tolist())) for place, row in enumerate(rows)}
        setting = Setting(("b", "d", "s"), named)
        for other in (0, 3):
            rest = np.delete(rows, other, axis=0)
            gain, error, freedom = blocks(rest, rows[other])
            low, high = interval(gain, error, freedom)
            for place, own in enumerate(np.delete(np.arange(9), other)):
                found = setting.of(named[own], named[other])
                p = p_values(gain, error, freedom)[place]
                assert found.primary == pytest.approx((gain[place], low[place], high[place], p))
                assert found.minimum_detectable_effect == pytest.approx(detectable(error[place], freedom))


def gained(seeds: int, gain: float, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the intervals of a method with that gain over the baseline."""
    y = benchmark(COUNT, seeds, [gain], ratio, seed=11)
    gains, errors, freedom = blocks(y[:, 1:], y[:, 0])
    return interval(gains[:, 0], errors[:, 0], freedom)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("gain", [0, 2])
@pytest.mark.parametrize(("ratio", "spread"), [(1, "equal"), (3, "1 : 3")])
def test_verdicts_err_as_often_as_stated(seeds, gain, ratio, spread):
    row = re.search(rf"\| {spread} \| {seeds} +\| {'0  ' if gain == 0 else '2 s'} +\|([\d. |]+)\|", verdict.__doc__)
    expected = [float(value) for value in row[1].split("|")]
    claimed = 2 * math.sqrt((1 + ratio**2) / 2)
    given = [verdict(ends, claimed) for ends in zip(*(end.tolist() for end in gained(seeds, gain, ratio)))]
    assert near([100 * given.count(name) / COUNT for name in VERDICTS], expected)
    assert sum(expected) == pytest.approx(100, abs=0.2)
    assert (expected[0] + expected[1] if gain == 0 else expected[2]) <= 3.0


def test_a_family_of_eight_errs_as_often_as_stated():
    """Eight methods without a gain against one baseline: how often any is called better, by Holm's p and by verdict."""
    by_holm, noisy = stated(holm, r"by `blocked`, (.*?) % have"), stated(holm, r"10 seeds, and (.*?) % where")
    by_verdict = stated(verdict, r"called better in (.*?) % of tables")
    for ratio, family in ((1, by_holm), (3, noisy)):
        for place, seeds in enumerate((3, 5, 10)):
            y = benchmark(COUNT, seeds, [], ratio, seed=12)
            gains, errors, freedom = blocks(y[:, 1:], y[:, 0])
            p = p_values(gains, errors, freedom)
            assert near([100 * (8 * p.min(1) <= 0.05).mean()], [family[place]])
            assert family[place] <= 5
            assert (np.array([holm(row) for row in p[:200]]).min(1) <= 0.05).tolist() == (8 * p[:200].min(1) <= 0.05).tolist()
            if ratio == 1:
                low, _ = interval(gains, errors, freedom)
                assert near([100 * (low > 0).any(1).mean()], [by_verdict[place]])


@pytest.mark.parametrize(("ratio", "pattern"), [(1, r"in (78.*?) % of cases"), (3, r"in (75.*?) % where the")])
def test_a_detectable_effect_is_seen_as_often_as_stated(ratio, pattern):
    for seeds, expected in zip((3, 4, 5, 10), stated(detectable, pattern)[:4]):
        effect = detectable(math.sqrt((1 + ratio**2) / seeds), 1.5 * (seeds - 1)) / math.sqrt((1 + ratio**2) / 2)
        assert 100 * (gained(seeds, effect, ratio)[0] > 0).mean() == pytest.approx(expected, abs=3)


SPREADS = {"equal": (1, 1), "of the baseline": (3, 1), "of the settings": (1, 10), "both": (3, 10)}


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", SPREADS)
def test_a_pooled_gain_covers_what_its_docstring_says(spread, seeds):
    row = re.search(rf"\| {spread} +\| {seeds} +\|([\d. |]+)\|", pooled_gain.__doc__)
    ratio, apart = SPREADS[spread]
    for count, expected in zip((2, 4, 8), map(float, row[1].split("|"))):
        parts = []
        for place in range(count):
            y = benchmark(COUNT, seeds, [], ratio, apart if place % 2 else 1, seed=20 + place)
            gains, errors, freedom = blocks(y[:, 1:], y[:, 0])
            parts.append((gains[:, 0], errors[:, 0], np.full(COUNT, freedom)))
        draws = zip(*(zip(*(column.tolist() for column in part)) for part in parts))
        found = [pooled_gain(draw) for draw, _ in zip(draws, range(600))]
        assert 100 * np.mean([one.low <= 0 <= one.high for one in found]) == pytest.approx(expected, abs=3)
        assert expected >= 94


WORDS = re.findall(
    r"^\| (equal|1 : 3) \| (\d) +\| (\d) s +\| (\w+) +\| (\S+) +\| (\S+) \((\S+)\) +\| (\S+) +\| (\S+) +\|$",
    controls.__doc__,
    re.MULTILINE,
)


@pytest.mark.parametrize("row", WORDS, ids=" ".join)
def test_controls_words_are_said_as_often_as_stated(row):
    spread, seeds, gain, explains, left, explained, of_seen, reverse, open_ = row
    share = {"nothing": 0.0, "half": 0.5, "all": 1.0}[explains]
    y = benchmark(COUNT, int(seeds), [float(gain), float(gain) * share], 1 if spread == "equal" else 3, seed=13)
    gains, errors, freedom = blocks(y[:, 1:], y[:, 0])
    low, high = interval(gains, errors, freedom)
    others, other_errors, _ = blocks(np.delete(y, 2, axis=1), y[:, 2])
    ends = interval(others[:, 1], other_errors[:, 1], freedom)

    def differences(ends, gain):
        return [controls.Difference(*one, 0.5) for one in zip(gain.tolist(), *(end.tolist() for end in ends))]

    of = differences(ends, others[:, 1]), *(differences((low[:, k], high[:, k]), gains[:, k]) for k in (0, 1))
    words = [controls.word(*three) for three in zip(*of)]
    found = [100 * words.count(word) / COUNT for word in controls.WORDS[:4]]
    assert near(found, [float(value) for value in (left, explained, reverse, open_)])
    seen = (low[:, 0] > 0).mean()
    assert found[1] / seen == pytest.approx(float(of_seen), abs=6)
    if explains == "nothing":  # wrongly 'explained', whatever the baseline's spread
        assert float(of_seen) <= 2.5


def test_the_tables_are_whole():
    assert len(WORDS) == 24


OVERALL = {"0": (2, lambda count: [0.0] * count), "2 s": (2, lambda count: [2.0] * count)}
OVERALL["2 s, and 0 in one"] = (2, lambda count: [2.0] * (count - 1) + [0.0])


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", OVERALL)
def test_claims_of_several_settings_err_as_often_as_stated(name, count):
    line = re.search(rf"\| {count} +\| {re.escape(name)} +\|([^\n]+)\|", claims.overall.__doc__)[1].split("|")
    claimed, true = OVERALL[name]
    draws, found = 120, []
    drawn = [benchmark(draws, 5, [gain], seed=30 + place) for place, gain in enumerate(true(count))]
    for number in range(draws):
        settings = []
        for rows in (of[number] for of in drawn):
            named = {place: dict(enumerate(row.tolist())) for place, row in enumerate(rows)}
            settings.append((Setting(("b", "d", "s"), named).of(named[1], named[0]), float(claimed)))
        found.append(claims.overall(settings, count))
    for word, stated_rate in zip(VERDICTS, map(int, line)):
        error = 100 * math.sqrt(max(stated_rate, 2) / 100 * (1 - min(stated_rate, 98) / 100) / draws)
        assert abs(100 * found.count(word) / draws - stated_rate) <= 3.5 * error + 0.5, word
