"""One row over another, and the one family of a benchmark's comparisons; every number is made up."""

import math

import pandas as pd
import pytest

from dgd.read.cells import collect
from dgd.read.comparisons import BLOCKED, NONE, SAME, WELCH, Draft, Family, Setting, Settings, beside, by_seed
from dgd.read.statistics import blocked, detectable, detectable_between, difference, holm, typical_variance
from dgd.read.tables import drafts, tables
from tests.helpers import ROOT

BASE = {0: 70.0, 1: 71.0, 2: 72.5}
KD = {0: 72.0, 1: 72.5, 2: 74.0}
GRAFTING = {0: 70.5, 1: 70.5, 2: 73.5}
ROWS = {"baseline": BASE, "kd": KD, "grafting": GRAFTING}


def setting(rows=ROWS, sign=1) -> Setting:
    return Setting(("b", "cifar10", "net"), rows, sign)


def test_a_comparison_is_blocked_with_the_typical_variance_of_the_setting():
    found = setting().of(KD, BASE)
    typical = typical_variance([[2.0, 1.5, 1.5], [0.5, -0.5, 1.0]])
    assert found.typical == pytest.approx(typical)
    assert found.primary == pytest.approx(blocked([2.0, 1.5, 1.5], typical))
    assert found.welch == pytest.approx(difference(list(KD.values()), list(BASE.values())))
    assert found.analysis == BLOCKED
    variance, freedom = found.moments
    assert found.minimum_detectable_effect == pytest.approx(detectable(math.sqrt(variance / 3), freedom))
    assert found.at(0.99).high > found.primary.high


def test_the_same_training_says_nothing_of_how_rows_differ():
    more = ROWS | {"independent": dict(BASE), "kd-again": dict(KD), "kd@best": KD}
    assert setting(more).of(KD, BASE).typical == pytest.approx(setting().of(KD, BASE).typical)
    same = setting(more).of(more["independent"], BASE)
    assert (same.analysis, same.primary.difference) == (SAME, 0)
    assert math.isnan(same.primary.p)
    assert math.isnan(same.minimum_detectable_effect)
    reading = {seed: value + 0.3 * seed for seed, value in GRAFTING.items()}  # of grafting, such as its ensemble
    assert setting().of(KD, reading, "grafting").typical == pytest.approx(
        setting({name: row for name, row in ROWS.items() if name != "grafting"}).of(KD, reading).typical
    )


def test_rows_of_other_seeds_are_compared_by_those_that_both_have():
    found = setting().of(KD | {3: 99.0}, BASE | {7: 1.0})
    assert found.primary == setting().of(KD, BASE).primary
    assert found.welch.difference == pytest.approx((72 + 72.5 + 74 + 99) / 4 - (70 + 71 + 72.5 + 1) / 4)
    apart = setting().of({3: 72.0, 4: 73.0, 0: 71.0}, BASE)
    assert (apart.analysis, apart.primary) == (WELCH, apart.welch)
    assert apart.minimum_detectable_effect == pytest.approx(detectable_between([71.0, 72.0, 73.0], list(BASE.values())))
    alike = Setting(("b", "d", "n"), {}).of({0: 71.0, 1: 72.0}, {0: 70.0, 1: 71.0})  # differences without a spread
    assert (alike.analysis, alike.primary) == (WELCH, alike.welch)
    assert setting().of({}, BASE) == NONE
    assert math.isnan(NONE.primary.difference)


def test_where_less_is_better_a_gain_is_what_is_less():
    up, down = setting().of(KD, BASE), setting(sign=-1).of(KD, BASE)
    assert down.primary.difference == -up.primary.difference
    assert down.turned().primary == pytest.approx(up.primary)
    assert (down.sign, down.turned().sign, down.key) == (-1, 1, up.key)


def test_one_comparison_has_one_adjusted_p_in_every_table():
    one, other, last = setting().of(KD, BASE), setting().of(GRAFTING, BASE), setting().of(KD, GRAFTING)
    back = setting().of(BASE, KD)
    first = Draft(pd.DataFrame({"p": [0.0] * 3}), {"p": [one, other, NONE]}, lambda frame, size: (frame, size))
    second = Draft(pd.DataFrame({"p": [0.0] * 3}), {"p": [last, back, one]}, lambda frame, size: (frame, size))
    family = Family([first, second])
    assert len(family) == 3
    raw = [max(one.primary.p, back.primary.p), other.primary.p, last.primary.p]
    expected = holm(raw)
    frame, size = first.table(family)
    assert frame["p"].tolist() == pytest.approx([*expected[:2], math.nan], nan_ok=True)
    frame, size = second.table(family)
    assert (size, frame["p"].tolist()) == (3, pytest.approx([expected[2], expected[0], expected[0]]))
    frame, size = first.table()  # alone it is a family of its own
    assert (size, frame["p"][0]) == (2, pytest.approx(holm([one.primary.p, other.primary.p])[0]))


def test_a_word_has_welchs_beside_it_where_that_is_another_one():
    assert beside("left", "left") == "left"
    assert beside("left", "inconclusive") == "left (Welch: inconclusive)"
    assert beside("", "inconclusive") == ""


def test_a_sample_goes_by_seed():
    rows = pd.DataFrame({"seed": [0, 1, 2, 1], "last": [1.0, 2.0, None, 4.0]})
    assert by_seed(rows) == {0: 1.0, 1: 3.0}


@pytest.fixture(scope="module")
def committed():
    """The drafts and tables of a committed benchmark, controls included."""
    folder = ROOT / "results" / "controls-small"
    cells = collect(folder)
    held = {"grafting": ["independent@mean", "baseline-2x"], "dgd": ["kd", "grafting"]}
    given = cells, folder, [ROOT / "papers/dgd.yaml"], "first", held
    return cells, drafts(*given), tables(*given)


def test_of_committed_cells_one_comparison_has_one_p(committed):
    _, made, there = committed
    found: dict = {}
    for name, draft in made.items():
        for column, compared in draft.compared.items():
            for one, p in zip(compared, there[name].frame[column] if name in there else ()):
                if one.analysis not in ("", SAME):
                    found.setdefault(one.key, set()).add(round(p, 12))
    assert len(found) > 20
    assert all(len(ps) == 1 for ps in found.values())
    assert f"over the {len(Family(made.values()))} distinct comparisons" in " ".join(there["results"].footnotes)
    several = [one.key for draft in made.values() for column in draft.compared.values() for one in column if one.key]
    assert len(several) > len(found)  # tables do share some


def test_the_first_network_of_independent_is_the_baselines_own(committed):
    cells, _, there = committed
    results = there["results"]
    place = results.frame.index[results.frame["method"] == "independent"][0]
    assert results.frame.loc[place, ["gain", "gain_analysis", "verdict"]].tolist() == [0, SAME, ""]
    assert results.text.loc[place, "gain"] == "baseline's own network"
    methods = there["methods"].text.set_index("method")
    assert methods.loc["independent", "gain"] == "baseline's own network"
    assert methods.loc["independent", "group: mean / best / ensemble"].count("/") == 2
    found = Settings(cells).of("cifar10", "cifar_resnet8")
    assert found.rows["", "independent"] == found.rows["", "baseline"]
