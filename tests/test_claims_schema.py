"""Claims of papers, read and checked; those of papers/ as they stand."""

import copy
import random
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from claimed import PAPER, PAPERS, R56, ROOT, made

from dgd.cell import Recipe
from dgd.config import cells, load
from dgd.read import claims
from dgd.read.cells import COLUMNS
from dgd.read.claims.schema import KINDS
from dgd.read.matching import composition
from dgd.read.papers import paper_methods

# ---------------------------------------------------------------------------------------------------------- reading


def broken(tmp_path, change):
    document = copy.deepcopy(PAPER)
    change(document["claims"][0], document["claims"][0]["compares"], document["claims"][0]["compares"]["where"][0])
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda claim, *_: claim.pop("reproduced_if"), "reproduced_if: missing"),
        (lambda claim, *_: claim.update(colour=1), "colour: unknown key; known: id, claim,"),
        (lambda claim, *_: claim.update(claim=3), "claim: must be str, got 3"),
        (lambda claim, *_: claim.update(source="U"), "source: 'U' is no table of `headline`; there are T"),
        (lambda _, compares, __: compares.update(metric="top2"), r"where\[1\]: metric: unknown metric 'top2'; known: top1,"),
        (lambda _, compares, __: compares.update(better="up"), "better: must be one of higher, lower, got 'up'"),
        (lambda _, compares, __: compares.pop("over"), "over: missing, here and beside `where`"),
        (lambda _, compares, __: compares.update(where=[]), "compares.where: empty"),
        (
            lambda _, compares, __: compares.update(only={"method": "x"}),
            "compares.only: method: unknown key; known: dataset, student",
        ),
        (lambda _, compares, __: compares.update(metric="invalid_ratio"), "threshold: missing; invalid_ratio needs it"),
        (lambda _, compares, __: compares.update(threshold=1), "threshold: top1 has none"),
        (lambda _, compares, __: compares.update(metric="mean_l1_valid", threshold=0.5), "is known at 1, 0.1, got 0.5"),
        (lambda _, compares, __: compares.update(metric="top1_at_epoch", epoch=200), "epoch: must be in 0 ... "),
        (lambda _, compares, __: compares.update(over="baseline@best"), "'baseline@best' is no reading"),
        (lambda _, compares, __: compares.update(over="grafing"), "over: 'grafing' is not in methods; did you mean grafting?"),
        (lambda _, compares, __: compares.update(metric="mean_l1"), "has metric 'top1', and the claim 'mean_l1'"),
        (lambda *all: all[2].update(published=["graft", "nowhere"]), "published: no row of `results` has the id 'nowhere'"),
        (lambda *all: all[2].update(published=["graft"]), "published: must be two ids"),
        (lambda *all: all[2].pop("published"), "published: missing"),
        (lambda *all: all[2].update(published=["base", "graft"]), "base has method 'baseline', and the claim 'grafting'"),
        (lambda *all: all[2].update(published=["graft-ratio", "base"]), "graft-ratio has metric 'invalid_ratio'"),
        (lambda *all: all[2].update(student="x"), f"graft has model '{R56}', and the claim 'x'"),
        (lambda *all: all[2].update(dataset="cifar100"), "graft has dataset 'cifar10', and the claim 'cifar100'"),
        (lambda *all: all[1].update(better="lower"), "graft less base is \\+1, and the claim says lower"),
    ],
)
def test_mistakes_name_file_claim_and_key(tmp_path, change, message):
    path = broken(tmp_path, change)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: claim 'gain': .*{message}"):
        claims.read([path])


def test_more_mistakes(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(PAPER | {"claims": PAPER["claims"] * 2}))
    with pytest.raises(ValueError, match="claim 'gain': id: already used in .*p.yaml"):
        claims.read([path])
    path.write_text(yaml.safe_dump(PAPER | {"claims": ["x"]}))
    with pytest.raises(ValueError, match="p.yaml: claims\[0\] is 'x'"):
        claims.read([path])
    path.write_text(yaml.safe_dump(PAPER | {"conditions": {"cifar10": {"epochs": "many"}}}))
    with pytest.raises(ValueError, match="p.yaml: .*conditions.cifar10.epochs is 'many'; it must be a whole number"):
        claims.read([path])
    path.write_text(yaml.safe_dump(PAPER | {"results": [{"id": "a"}]}))
    with pytest.raises(ValueError, match="p.yaml: .*missing fields"):
        claims.read([path])
    path.write_text(yaml.safe_dump({key: value for key, value in PAPER.items() if key != "claims"}))
    assert claims.read([path]) == []


# ------------------------------------------------------------------------------------------------- the papers' files

TOPICS = {
    "dgd": {
        "Table 7": ("mean_l1_valid", "mean_l1_invalid", "top1"),
        "Table 8": ("top1",),
        "Table 9": ("mean_l1_valid", "mean_l1_invalid", "top1"),
        "Table 10": ("top1",),
        "Figure accuracy curve": ("top1_at_epoch", "top1"),
        "Figure filter L1": ("mean_l1", "median_l1", "max_l1", "invalid_count"),
    },
    "filter-grafting": {
        "scion source": ("top1",),
        "L1 against entropy": ("top1",),
        "README dlr": ("top1",),
        "comparison with other methods": ("top1",),
        "number of networks": ("top1",),
        "ImageNet": ("top1", "top5"),
        "re-identification": ("map", "rank1"),
        "README invalid filters": ("invalid_count",),
        "Figure l1_threshold": ("invalid_ratio",),
        "Figure entropy_compare": ("entropy_sum",),
        "README A and c": ("top1",),
        "README leaky ReLU": ("top1",),
        "README VGG": ("top1",),
    },
}


@pytest.fixture(scope="module")
def real():
    return claims.read(PAPERS)


def test_every_table_of_the_papers_has_its_claims(real):
    found: dict = {}
    for claim in real:
        metrics = {setting.measure.kind for setting in claim.settings}
        found.setdefault(claim.paper, {}).setdefault(claim.source, set()).update(metrics)
    assert found == {name: {table: set(metrics) for table, metrics in of.items()} for name, of in TOPICS.items()}
    assert all(claim.claim.endswith(".") and claim.claim.isascii() for claim in real)


def test_table_8_is_claimed_for_all_its_pairs(real):
    of = {claim.id: claim for claim in real}
    for a, b in (("grafting", "baseline"), ("kd", "baseline"), ("dgd", "kd"), ("dgd", "grafting"), ("dgd", "baseline")):
        claim = of[f"dgd-t8-{a}-over-{b}"]
        assert [setting.student for setting in claim.settings] == ["cifar_resnet32", R56, "cifar_mobilenetv2"]
        assert {(setting.side.reading.method, setting.other.reading.method) for setting in claim.settings} == {(a, b)}
    gains = [round(setting.gain, 2) for setting in of["dgd-t8-dgd-over-kd"].settings]
    assert gains == [0.38, 0.86, 0.57]  # 72.69 - 72.31, 74.28 - 73.42, 75.55 - 74.98


def test_no_cell_of_the_claims_is_without_its_benchmark(real):
    """What a benchmark can measure at all is in some config: a cell of the side's objective, exchange, counts and recipe."""
    there: dict = {}
    for path in (ROOT / "config").glob("*.yaml"):
        for cell in cells(load(path, folders=False)):
            composed = composition(cell.objective, cell.exchange)
            key = cell.slug.removeprefix("imagefolder-"), cell.student, composed, cell.networks, len(cell.teachers)
            there.setdefault(key, []).append(cell.recipe)
    others = {"dml", "repr"}  # other papers' methods
    for claim in real:
        for setting in claim.settings:
            names = {setting.side.reading.method, setting.other.reading.method}
            if not KINDS[setting.measure.kind].measured or names & others:
                continue
            for side in (setting.side, setting.other):
                dataset = setting.dataset or "cifar10"
                found = there.get((dataset, setting.student, side.composition, side.networks, side.teachers), [])
                agree = [all(getattr(recipe, key) in allowed for key, allowed in side.overrides.items()) for recipe in found]
                assert any(agree), f"{claim.id}: {side.reading} of {setting.student}"


def cells_of_every_setting(real):
    """Two cells a side for each published setting, all columns filled, as a benchmark would leave them."""
    draw = random.Random(0)
    rows: dict = {}
    documents = {path.stem: yaml.safe_load(path.read_text()) for path in PAPERS}
    methods = {name: paper_methods(document, name) for name, document in documents.items()}
    for claim in real:
        for setting in claim.settings:
            for side, measured in zip((setting.side, setting.other), setting.conditions):
                wanted = {key: allowed[0] for key, allowed in measured.own.items() if hasattr(Recipe(), key)}
                label = side.reading.method
                of = made(label, methods[claim.paper][label], **wanted)
                for seed in (0, 1):
                    teacher = setting.teacher if side.teachers else None
                    where = {"dataset": setting.dataset or "cifar10", "model": setting.student, "student": setting.student}
                    row = where | {"benchmark": "all", "teacher": teacher, "method": label, "seed": seed, "network": 0} | of
                    row |= {"status": "finished"}
                    row |= {
                        name: draw.uniform(1, 2) for name in COLUMNS if name.startswith(("mean_l1", "invalid_r", "ensemble"))
                    }
                    row |= {
                        "last": draw.uniform(70, 80),
                        "best_on_test": draw.uniform(80, 90),
                        "entropy_sum": 40.0,
                        "conv_filters": 4,
                    }
                    row["folder"] = f"{row['dataset']}/{setting.student}/{label}-{teacher}/seed{seed}"
                    if setting.dataset:
                        rows[row["folder"]] = row
                    else:  # of no data set, and so under no conditions: not instead of one that has some
                        rows.setdefault(row["folder"], row)
    return pd.DataFrame(rows.values(), columns=[*COLUMNS, "normalise", "augment"])


def test_every_claim_evaluates(real, tmp_path):
    cells = cells_of_every_setting(real)
    for folder, epochs in zip(cells["folder"], cells["epochs"]):
        (tmp_path / folder).mkdir(parents=True)
        lines = [f"{epoch},{30 + epoch / 10}" for epoch in range(epochs)]
        (tmp_path / folder / "history.csv").write_text("\n".join(["epoch,test_top1_0", *lines]))
        arrays = {
            f"l1/0/{name}.weight": np.array([0.05, 3.0], np.float32) for name in ("conv1", "layers.0.conv3", "shortcut.0")
        }
        np.savez(tmp_path / folder / "filters.npz", **arrays, **{"entropy/0": np.ones(3)})
    table = claims.evaluate(real, [(cells, tmp_path)])
    counted = table[table["counts"] == "yes"]
    published_settings = {claim.id: len(claim.settings) for claim in real}
    unmeasured = {c.id for c in real if all(not KINDS[s.measure.kind].measured for s in c.settings)}
    assert unmeasured == {"fg-imagenet-top5", "fg-reid-map", "fg-reid-rank1", "fg-reid-four"}
    never = unmeasured | {"fg-invalid-count"}  # whose data set is not known
    copied = {c.id: sum("copied_from" in of.own for s in c.settings for of in s.conditions) for c in real}
    assert {id for id, n in copied.items() if n} == {"fg-over-dml", "fg-over-repr"}
    wanted = {id: n - copied[id] for id, n in published_settings.items() if id not in never and n > copied[id]}
    assert counted["claim"].value_counts().to_dict() == wanted
    assert counted[["difference", "published"]].notna().all().all()
    spread = counted[["sd", "over_sd"]].max(axis=1) > 0  # without any there is no test, nor of what is equal in every seed
    compared = spread & (counted["analysis"] != "same")
    assert ((counted["low"].notna() & counted["high"].notna()) == compared).all()
    assert compared.mean() > 0.5
    assert set(table[table["claim"].isin(never - {"fg-invalid-count"})]["overall"]) == {"not run"}
    unknown = table[(table["claim"] == "fg-invalid-count") & (table["verdict"] != "not run")]
    assert unknown["scale"].str.contains("the paper names no data set").all()
    assert len(unknown)
    assert not (table["verdict"] == "").any()
    conv = table[(table["claim"] == "fg-invalid-ratio") & (table["counts"] == "yes")]
    assert conv["mean"].tolist() == [0.5, 0.5, 0.0, 0.0]  # 1, 0.1, 0.01, 0.001


def test_no_real_claim_is_met_by_nothing(real):
    table = claims.evaluate(real, [])
    assert set(table["verdict"]) == set(table["overall"]) == {"not run"}
    assert len(table) == sum(len(claim.settings) for claim in real)
    assert (claims.table(table).text["verdict"] == "not run").all()
