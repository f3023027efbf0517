"""How many seeds a gain takes, by a pilot of made-up cells."""

import json
import math

import pytest
from made_up import R56, R110, cell_of, fake_cell
from scipy import stats

from dgd import cli
from dgd.read.cells import collect
from dgd.read.plan import plan
from dgd.read.results import results
from dgd.read.statistics import moderated, typical_variance


@pytest.fixture
def pilot(tmp_path):
    folder = tmp_path / "fake"
    fake_cell(folder, cell_of(student=R110), [74.0])
    values = {"baseline": (70.0, 70.4, 71.0), "kd": (72.0, 72.6, 72.7), "grafting": (70.5, 70.0, 71.3)}
    for method, top1 in values.items():
        for seed, value in enumerate(top1):
            fake_cell(folder, cell_of(method, seed, teacher=R110 if method == "kd" else None), [value])
    fake_cell(folder, cell_of("dgd", 0, teacher=R110), [73.0, 73.0])
    return folder


def test_seeds_are_the_fewest_whose_interval_is_as_narrow(pilot):
    table = plan(results(collect(pilot), []), 0.5)
    assert table.frame["method"].tolist() == ["kd", "grafting"]  # dgd has one seed, the teacher no gain
    kd = table.frame.iloc[0]
    typical = typical_variance([[2.0, 2.2, 1.7], [0.5, -0.4, 0.3]])
    variance, freedom = moderated(0.19 / 3, 3, typical)
    assert kd["sd"] == pytest.approx(math.sqrt(variance))
    assert kd["sd_upper"] == pytest.approx(math.sqrt(variance * freedom / stats.chi2.ppf(0.1, freedom)))
    for name, sd in (("seeds", "sd"), ("seeds_upper", "sd_upper")):
        n = int(kd[name])
        widths = [stats.t.ppf(0.975, 1.5 * (seeds - 1)) * kd[sd] / math.sqrt(seeds) for seeds in (n, n - 1)]
        assert widths[0] <= 0.5 < widths[1]
    assert kd["seeds_upper"] > kd["seeds"]
    assert plan(results(collect(pilot), []), 1.0).frame["seeds"][0] < kd["seeds"]
    assert table.text.iloc[0]["pilot"] == "3 seeds"
    assert R56 in table.text.iloc[0]["student ← teacher"]
    with pytest.raises(ValueError, match="half_width must be above 0, got 0"):
        plan(results(collect(pilot), []), 0)


def test_the_command_prints_it(pilot, capsys):
    assert cli.main(["plan", str(pilot), "--half-width", "0.8"]) == 0
    assert "± 0.8 or narrower" in capsys.readouterr().out
    assert cli.main(["plan", str(pilot), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["method"], row["wanted"], row["pilot_seeds"]) for row in rows] == [("kd", 0.5, 3), ("grafting", 0.5, 3)]
    assert cli.main(["plan", str(pilot), "--half-width", "0"]) == 1
    assert "half_width must be above 0" in capsys.readouterr().err
