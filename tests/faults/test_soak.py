"""Hundreds of cells by Snakemake while jobs, and Snakemake itself, are killed; `tests.faults.soak` has the run of 500."""

import pytest

from tests.faults.commands import repository
from tests.faults.soak import TOGETHER, Soak


@pytest.mark.faults
@pytest.mark.timeout(0)
def test_nothing_is_lost_and_nothing_grows(tmp_path):
    soak = Soak(repository(tmp_path), cells=4 * TOGETHER, kills=8, seed=1)
    soak.run((5, 20))
    soak.check(alone=3)
    assert soak.killed.total() == 8
    assert max(one.snakemake[0] for one in soak.samples) < 400, soak.table()
    assert max(one.job[0] for one in soak.samples) < 2000, soak.table()
    assert max(one.snakemake[1] for one in soak.samples) < 100, soak.table()
    assert max(one.job[1] for one in soak.samples) < 100, soak.table()
