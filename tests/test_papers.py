"""The published numbers in papers/: shape, plausibility, and golden rows typed a second time."""

import re
import statistics
from pathlib import Path

import pytest
import timm
import yaml

from dgd import models  # noqa: F401  # registers our networks
from dgd.read.claims import read as claims_of
from dgd.read.papers import ROW as FIELDS
from dgd.read.papers import read_papers

PAPERS = Path(__file__).parent.parent / "papers"
FILES = sorted(PAPERS.glob("*.yaml"))
COUNTS = {
    "dgd": {
        "Table 7": 38,  # 2 data sets x 2 thresholds x (2 counts + 3 methods x 2 means) + 6 accuracies
        "Table 8": 12,
        "Table 9": 20,
        "Table 10": 5,
        "Figure accuracy curve": 32,
        "Figure filter L1": 8,
    },
    "filter-grafting": {
        "scion source": 8,
        "L1 against entropy": 24,
        "README dlr": 8,
        "comparison with other methods": 28,
        "number of networks": 14,
        "ImageNet": 12,
        "re-identification": 24,
        "README invalid filters": 10,
        "Figure l1_threshold": 8,
        "Figure entropy_compare": 6,
        "README A and c": 24,
        "README leaky ReLU": 12,
        "README VGG": 6,
    },
    # 7 and 6 networks, with and without; the steps of one network, and three of them for two networks
    "cgan-kd": {"Steering Angle and UTKFace": 26, "ablation Steering Angle": 5, "ablation CIFAR-100": 8},
    "crd-benchmark": {"README CIFAR-100": 93},  # 15 networks alone + 13 pairs x 6 methods
    "dkd": {"README CIFAR-100": 22},  # 11 pairs, each with KD
    "hkd": {"Table 1": 22},  # 7 networks alone + 5 pairs x 3 methods
    "dml": {"KD-Zoo README": 3},  # alone, and the two networks
    "ffsd": {"README CIFAR-100": 2},
    "review": {"quoted by others": 11},
    "ccl": {"listing of results": 6},  # 3 data sets x (accuracy and recall)
}
RERUNS = {"filter-grafting": 33, "crd-benchmark": 1, "review": 2}
SINGLE = ("baseline", "kd", "kd-crd", "fitnet", "at", "sp", "rkd", "crd", "review-official-0.6", "review-official", "dkd-beta2")
SINGLE += ("review-official-5", "review-official-8", "dkd", "dkd-beta6", "hkd", "hkd+kd")
# Range of each metric: (lowest, highest).
METRICS = {
    "top1": (20, 100),
    "top1_at_epoch": (5, 100),
    "top1_max": (40, 100),
    "top5": (80, 100),
    "mae": (1, 8),  # degrees or years
    "error": (25, 40),
    "map": (40, 100),
    "rank1": (40, 100),
    "recall_at_1": (10, 100),
    "mean_l1": (0, 50),
    "median_l1": (0, 50),
    "max_l1": (0, 100),
    "mean_l1_valid": (1, 50),
    "mean_l1_invalid": (0, 5),
    "valid_count": (1, 17088),
    "invalid_count": (1, 17088),
    "filters": (100, 20000),
    "invalid_ratio": (0, 1),
    "near_zero_weights_ratio": (0, 1),
    "entropy_sum": (0, 53 * 2.303),  # 53 layers of at most ln 10
}
DATASETS = (
    *("cifar10", "cifar100", "imagenet", "market1501", "dukemtmc", "steering-angle", "utkface"),
    *("ucf51", "activitynet", "vggsound"),
)
ROW = dict(id="a", table="t", dataset="cifar10", model="m", method="kd", networks=1, teachers=1, metric="top1", value=90.0)
ROW |= {"source": "t"}
PAPER = {"paper": "p", "headline": ["t"], "methods": ["kd"], "conditions": {"cifar10": {"epochs": 200}}, "results": []}
R20, R32, R56, R110, MBV2 = "cifar_resnet20", "cifar_resnet32", "cifar_resnet56", "cifar_resnet110", "cifar_mobilenetv2"


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def document(request):
    return yaml.safe_load(request.param.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def published():
    return read_papers([PAPERS / "dgd.yaml", PAPERS / "filter-grafting.yaml"])


def lookup(published, **wanted):
    """Return the one row that fits, as a dict."""
    rows = published
    for field, value in wanted.items():
        rows = rows[rows[field].isna() if value is None else rows[field] == value]
    assert len(rows) == 1, f"{len(rows)} rows fit {wanted}"
    return rows.iloc[0]


def test_all_papers_are_there():
    assert [path.stem for path in FILES] == sorted(COUNTS)


def test_headers(document):
    assert re.fullmatch(r"\d{4}\.\d{5}", document["arxiv"])
    for key in (
        "paper",
        "title",
        "authors",
        "version",
        "citation",
        "headline",
        "results",
        "reruns",
        "methods",
        "networks",
        "conditions",
        "claims",
    ):
        assert key in document
    assert document["authors"]
    assert all(name.split()[-1] in document["citation"] for name in document["authors"])
    assert document["arxiv"] in document["citation"]
    assert "http" not in document["citation"]


def test_ids_are_unique_and_plain(document):
    ids = [row["id"] for row in document["results"] + document["reruns"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9._-]+", name) for name in ids)


def test_rows_are_typed_and_plausible(document):
    for row in document["results"] + document["reruns"]:
        low, high = METRICS[row["metric"]]
        assert low <= row["value"] <= high, row
        assert 0 < row.get("sd", 0.1) < 1, row
        assert row.get("n", 5) in (1, 3, 5), row
        assert row.get("threshold", 1) in (1, 0.1, 0.01, 0.001), row
        assert 0 <= row.get("epoch", 0) < 200, row
        assert (row.get("teacher") is not None) == (row["teachers"] > 0), row
        assert row["networks"] >= 1, row
        assert row["networks"] == 1 or row["method"] not in SINGLE, row
        assert row["dataset"] in (*DATASETS, None), row


def test_counts_by_table(document):
    found = {}
    for row in document["results"]:
        found[row["table"]] = found.get(row["table"], 0) + 1
    assert found == COUNTS[document["paper"]]
    assert set(found) == set(document["headline"])
    assert len(document["reruns"]) == RERUNS.get(document["paper"], 0)
    assert all("who" in row for row in document["reruns"])


@pytest.mark.parametrize(
    ("model", "teacher", "method", "value", "sd"),
    [
        (R32, None, "baseline", 69.87, 0.42),
        (R32, None, "grafting", 70.76, 0.33),
        (R32, R56, "kd", 72.31, 0.23),
        (R32, R56, "dgd", 72.69, 0.26),
        (R56, None, "baseline", 71.87, 0.42),
        (R56, None, "grafting", 72.00, 0.03),
        (R56, R110, "kd", 73.42, 0.29),
        (R56, R110, "dgd", 74.28, 0.19),
        (MBV2, None, "baseline", 72.40, 0.32),
        (MBV2, None, "grafting", 73.79, 0.18),
        (MBV2, R110, "kd", 74.98, 0.14),
        (MBV2, R110, "dgd", 75.55, 0.03),
    ],
)
def test_table_8(published, model, teacher, method, value, sd):
    row = lookup(published, table="Table 8", dataset="cifar100", model=model, teacher=teacher, method=method)
    assert (row["value"], row["sd"], row["n"]) == (value, sd, 5)


@pytest.mark.parametrize(
    ("table", "dataset", "threshold", "method", "valid", "invalid"),
    [
        ("Table 7", "cifar10", 0.1, "baseline", 6.982, 0.003),
        ("Table 7", "cifar10", 0.1, "kd", 13.648, 0.000),
        ("Table 7", "cifar10", 0.1, "grafting", 6.427, 1.633),
        ("Table 7", "cifar10", 1, "grafting", 6.460, 1.757),
        ("Table 7", "cifar100", 0.1, "kd", 26.914, 0.000),
        ("Table 7", "cifar100", 1, "baseline", 12.126, 0.075),
        ("Table 7", "cifar100", 1, "grafting", 10.830, 1.879),
        ("Table 9", "cifar10", 0.1, "dgd", 12.117, 1.385),
        ("Table 9", "cifar10", 1, "dgd", 12.191, 1.635),
        ("Table 9", "cifar100", 0.1, "dgd", 18.064, 0.654),
        ("Table 9", "cifar100", 1, "dgd", 18.119, 0.842),
    ],
)
def test_tables_7_and_9(published, table, dataset, threshold, method, valid, invalid):
    where = {"table": table, "dataset": dataset, "model": R56, "threshold": threshold, "method": method}
    assert lookup(published, metric="mean_l1_valid", **where)["value"] == valid
    assert lookup(published, metric="mean_l1_invalid", **where)["value"] == invalid


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        ({"id": "dgd-t7-c10-r56-valid-count-0.1"}, 1936),
        ({"id": "dgd-t7-c10-r56-invalid-count-1"}, 112),
        ({"id": "dgd-t7-c100-r56-invalid-count-0.1"}, 64),
        ({"table": "Table 7", "dataset": "cifar100", "method": "grafting", "metric": "top1"}, 72.60),
        ({"table": "Table 9", "dataset": "cifar100", "method": "dgd", "metric": "top1"}, 73.37),
        ({"table": "Table 10", "networks": 6}, 76.85),
        ({"table": "Table 10", "teachers": 3}, 76.44),
        ({"table": "Figure accuracy curve", "method": "dgd", "metric": "top1"}, 75.24),
        ({"table": "Figure accuracy curve", "method": "kd", "epoch": 0}, 9.5),
        ({"table": "Figure filter L1", "method": "baseline", "metric": "invalid_count"}, 104),
        ({"table": "L1 against entropy", "dataset": "cifar10", "model": R32, "method": "grafting"}, 93.33),
        ({"table": "L1 against entropy", "dataset": "cifar100", "model": R56, "method": "grafting-l1"}, 72.73),
        ({"table": "README dlr", "dataset": "cifar100", "model": R110}, 75.27),
        ({"table": "scion source", "dataset": "cifar100", "method": "noise"}, 72.34),
        ({"table": "comparison with other methods", "dataset": "cifar100", "model": R110, "method": "repr"}, 73.60),
        ({"table": "comparison with other methods", "dataset": "cifar10", "model": "cifar_wrn28_10", "method": "dml"}, 95.66),
        ({"table": "number of networks", "dataset": "cifar100", "method": "grafting-dlr-6"}, 78.32),
        ({"table": "ImageNet", "model": "resnet50", "method": "grafting-difflr", "metric": "top1"}, 76.76),
        ({"id": "fg-reid-duke-resnet50-2-map"}, 60.8),
        ({"id": "fg-invalid-mbv2-grafting-0.01"}, 8492),
        ({"table": "Figure l1_threshold", "method": "grafting", "threshold": 0.1}, 0.091),
        ({"table": "Figure entropy_compare", "networks": 8}, 77.34),
        ({"id": "fg-c-c100-mbv2-grafting-a0.4-c500", "method": "grafting"}, 72.38),
        ({"dataset": "cifar10", "method": "grafting-a0-c100"}, 93.40),
        ({"table": "README leaky ReLU", "id": "fg-leaky-c100-cifar_resnet110_leaky_relu-grafting"}, 73.82),
        ({"table": "README VGG", "dataset": "cifar10", "method": "grafting-filter"}, 94.26),
    ],
)
def test_golden_rows(published, wanted, value):
    assert lookup(published, **wanted)["value"] == value


def test_golden_reruns():
    reruns = read_papers([PAPERS / "filter-grafting.yaml"], "reruns")
    assert lookup(reruns, id="fg-rerun-17-mbv2-single-lr0.05")["value"] == 94.35
    assert lookup(reruns, id="fg-rerun-17-mbv2-author-lr0.02")["value"] == 94.03
    assert lookup(reruns, id="fg-rerun-5-r32-author")["value"] == 71.05
    assert lookup(reruns, source="issue 7", method="grafting")["value"] == 72.80


@pytest.mark.parametrize(
    ("paper", "teacher", "student", "method", "value"),
    [
        ("crd-benchmark", None, R20, "baseline", 69.06),
        ("crd-benchmark", None, R32, "baseline", 71.14),
        ("crd-benchmark", None, R56, "baseline", 72.34),
        ("crd-benchmark", None, R110, "baseline", 74.31),
        ("crd-benchmark", R56, R20, "kd-crd", 70.66),
        ("crd-benchmark", R56, R20, "fitnet", 69.21),
        ("crd-benchmark", R56, R20, "at", 70.55),
        ("crd-benchmark", R110, R32, "sp", 72.69),
        ("crd-benchmark", R110, R32, "rkd", 71.82),
        ("crd-benchmark", R110, R32, "crd", 73.48),
        ("crd-benchmark", R110, R20, "crd", 71.46),
        ("crd-benchmark", "vgg13", "mobilenetv2_half", "at", 59.40),
        ("crd-benchmark", "resnet50", "vgg8", "kd-crd", 73.81),
        ("crd-benchmark", "wrn_40_2", "shufflenetv1", "sp", 74.52),
        ("crd-benchmark", None, "mobilenetv2_half", "baseline", 64.60),
        ("dkd", R56, R20, "dkd-beta2", 71.97),
        ("dkd", "resnet32x4", "shufflenetv2", "dkd", 77.07),
        ("dkd", "vgg13", "vgg8", "dkd-beta6", 74.68),
        ("hkd", "resnet32x4", "resnet8x4", "hkd+kd", 76.13),
        ("hkd", "resnet50", "mobilenetv2_half", "hkd", 69.83),
        ("review", "resnet32x4", "shufflenetv2", "review-official-8", 77.78),
        ("dkd", R110, R32, "dkd-beta2", 74.11),
        ("dkd", R110, R32, "kd-crd", 73.08),
        ("review", R56, R20, "review-official-0.6", 71.89),
        ("review", R110, R32, "review-official", 73.89),
        ("dml", None, R20, "baseline", 68.92),
        ("ffsd", None, R20, "ffsd-official", 72.70),
        ("ffsd", None, R32, "ffsd-official", 74.85),
        ("cgan-kd", None, "vgg8", "raw", 31.0),
        ("cgan-kd", None, "mobilenetv2", "filtered", 31.6),
    ],
)
def test_golden_rows_of_the_other_methods(paper, teacher, student, method, value):
    rows = read_papers([PAPERS / f"{paper}.yaml"])
    assert lookup(rows, dataset="cifar100", teacher=teacher, model=student, method=method)["value"] == value


def test_golden_rows_of_generated_images():
    rows = read_papers([PAPERS / "cgan-kd.yaml"])
    printed = rows[rows["table"] == "Steering Angle and UTKFace"]
    assert lookup(printed, dataset="steering-angle", model="resnet20", method="cgan-kd")["value"] == 1.60
    assert lookup(printed, dataset="utkface", model="wrn40x1", method="baseline")["value"] == 6.70
    steps = rows[rows["table"] == "ablation Steering Angle"]
    assert steps["value"].tolist() == [5.51, 2.22, 2.11, 1.93, 1.60]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"nesterov": "no"}, "conditions.cifar10.nesterov is 'no'; it must be true or false"),
        ({"epochs": True}, "conditions.cifar10.epochs is True; it must be a whole number"),
        ({"batch_size": [128, 0]}, "conditions.cifar10.batch_size is 0; it must be at least 1"),
        ({"diverse": "dlr"}, "conditions.cifar10: diverse: unknown key"),
        ({"threads": 2}, "conditions.cifar10: threads: unknown key"),  # no condition of a number
    ],
)
def test_conditions_are_checked(conditions, message):
    with pytest.raises(ValueError, match=message):
        read_papers([PAPER | {"conditions": {"cifar10": conditions}}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditions": {"cifar10": {"reported": "first"}}}, "conditions.cifar10.reported is 'first'; it must be one of last,"),
        ({"results": [ROW | {"reported": "first"}]}, "row 'a'.reported is 'first'; it must be one of last, best on test"),
        ({"teachers": {"cifar10": {"reported": 3}}}, "teachers.cifar10.reported is 3"),
        ({"by_network": {"m": {"lr": 0}}}, "by_network.m.lr is 0; it must be above 0"),
    ],
)
def test_conditions_of_single_networks_and_epochs_are_checked(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_papers([PAPER | change])


def test_conditions_go_by_whose_cell_it_is():
    document = PAPER | {"conditions": {"cifar10": {"lr": 0.1, "reported": "best on test"}}, "networks": {"t": "u"}}
    document |= {"by_network": {"m": {"lr": 0.01}}, "teachers": {"cifar10": {"epochs": 9, "reported": "last"}}}
    taught, best = ROW | {"teacher": "t"}, ROW | {"id": "b", "teacher": "t", "reported": "last"}
    rows = read_papers([document | {"results": [taught, best]}])
    assert rows["reported"].tolist() == ["best on test", "last"]
    found = rows["conditions"][0]
    assert found.own == found.baseline == {"lr": (0.01,), "network": ("m",)}
    assert found.teacher == {"lr": (0.1,), "epochs": (9,), "network": ("u",), "reported": ("last",)}


def test_slow_students_of_the_benchmark_are_trained_so_alone_and_taught():
    rows = read_papers([PAPERS / "crd-benchmark.yaml"])
    for row in rows.itertuples():
        slow = row.model_here in ("crd_mobilenetv2_half", "crd_shufflenetv1", "crd_shufflenetv2")
        assert row.conditions.own["lr"] == row.conditions.baseline["lr"] == ((0.01,) if slow else (0.05,)), row.id
        assert not row.conditions.teacher or row.conditions.teacher["lr"] == (0.05,)


def test_every_network_of_the_crd_benchmark_is_one_of_ours():
    for name in ("crd-benchmark", "dkd", "hkd", "review", "dml", "ffsd"):
        rows = read_papers([PAPERS / f"{name}.yaml"])
        assert {*rows["model_here"], *rows["teacher_here"].dropna()} <= set(timm.list_models("crd_*")), name


def test_what_a_table_copies_from_another_is_the_same_number():
    crd = {(row.model, row.teacher, row.method): row.value for row in read_papers([PAPERS / "crd-benchmark.yaml"]).itertuples()}
    copied = read_papers([PAPERS / f"{name}.yaml" for name in ("dkd", "hkd", "review")])
    copied = copied[copied["copied_from"] == "the CRD benchmark"]
    assert len(copied) == 11 + 3 + 5
    assert all(crd[row.model, row.teacher, row.method] == row.value for row in copied.itertuples())


def test_conditions_are_typed():
    given = {"batch_size": [128, 256], "milestones": [5, 7], "train_images": None, "lr": 1}
    recipe = {"recipe": {"schedule": "dlr"}}
    document = PAPER | {
        "methods": [{"kd-dlr": {"base": "kd"} | recipe}],
        "conditions": {"cifar10": given},
        "networks": {"m": "n"},
    }
    rows = read_papers([document | {"results": [ROW | {"method": "kd-dlr", "teacher": "m", "copied_from": "p"}]}])
    found = rows["conditions"][0]
    shared = {"batch_size": (128, 256), "milestones": ((5, 7),), "train_images": (None,), "lr": (1.0,)}
    assert found.own == shared | {"schedule": ("dlr",), "network": ("n",), "copied_from": ("p",)}
    assert found.baseline == found.teacher == shared | {"network": ("n",)}
    assert (rows["composition"][0].teachers, rows["overrides"][0]) == (1, {"schedule": ("dlr",)})
    several = PAPER | {"conditions": {"cifar10": {"milestones": [[5, 7], [9]]}}, "results": [ROW]}
    assert read_papers([several])["conditions"][0].own["milestones"] == ((5, 7), (9,))
    with pytest.raises(ValueError, match="p: methods: unknown method 'kdd'"):
        read_papers([PAPER | {"methods": ["kdd"]}])


def test_two_networks_of_dml_are_two_rows_the_first_one_first():
    rows = read_papers([PAPERS / "dml.yaml"])
    assert rows.loc[rows["method"] == "dml", "value"].tolist() == [70.39, 70.22]


def test_means_and_spreads_of_ffsd_are_those_of_the_printed_runs():
    rows = read_papers([PAPERS / "ffsd.yaml"])
    for row in rows.itertuples():
        runs = [float(value) for value in re.findall(r"\d+\.\d+", row.note)]
        assert (row.n, row.value, row.sd) == (len(runs), round(statistics.mean(runs), 2), round(statistics.stdev(runs), 2))


@pytest.mark.parametrize(
    ("paper", "expected"),
    [
        ("crd-benchmark", (240, 0.05, [64], [150, 180, 210], 5e-4, False)),
        ("dkd", (240, 0.05, [64], [150, 180, 210], 5e-4, False)),
        ("dml", (200, 0.1, [128], [100, 150], 1e-4, True)),
        ("ffsd", (300, 0.1, [128], [150, 225], 1e-4, True)),
        ("review", (240, 0.1, [128], [151, 181, 211], 5e-4, True)),
    ],
)
def test_recipes_of_the_other_methods(paper, expected):
    recipe = yaml.safe_load((PAPERS / f"{paper}.yaml").read_text(encoding="utf-8"))["conditions"]["cifar100"]
    assert tuple(recipe[k] for k in ("epochs", "lr", "batch_size", "milestones", "weight_decay", "nesterov")) == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_data_set_of_an_accuracy_that_is_compared_has_conditions(path):
    """Without one, any cell would count as trained as published."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    reid = ("market1501", "dukemtmc", None)
    assert {row["dataset"] for row in document["results"]} - set(document["conditions"]) <= set(reid)


def test_headline_orders_the_tables(published):
    cell = (published["dataset"] == "cifar100") & (published["model"] == R56) & (published["metric"] == "top1")
    rows = published[cell & (published["method"] == "grafting")]
    assert rows["value"].tolist() == [72.00, 72.60, 73.09]  # Table 8, Table 7, the other paper


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "90"}, "value must be float, got '90'"),
        ({"networks": 1.5}, "networks must be int"),
        ({"networks": True}, "networks must be int"),
        ({"model": None}, "model must be str"),
        ({"colour": 1}, "unknown fields \\['colour'\\]"),
        ({"method": "kd2"}, "method 'kd2' is not in methods; did you mean kd?"),
        ({"networks": 2}, "networks 2 and teachers 1; its method has 1 and 1"),
        ({"copied_from": 1}, "copied_from must be str, got 1"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, message):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(PAPER | {"results": [ROW | change]}))
    with pytest.raises(ValueError, match=f"p.yaml: row 'a': .*{message}"):
        read_papers([path])


def test_double_ids_missing_fields_and_missing_keys_are_named(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(PAPER | {"results": [ROW, ROW]}))
    with pytest.raises(ValueError, match="id 'a' is already used"):
        read_papers([path])
    path.write_text(yaml.safe_dump(PAPER | {"results": [{"id": "a"}]}))
    with pytest.raises(ValueError, match=r"missing fields .*'value'"):
        read_papers([path])
    path.write_text("paper: p\n")
    with pytest.raises(ValueError, match="headline is missing"):
        read_papers([path])


def test_every_field_has_a_type(document):
    assert {field for row in document["results"] for field in row} <= set(FIELDS)


@pytest.mark.parametrize(
    ("paper", "methods"),
    [
        ("crd-benchmark", {"crd", "kd-crd", "fitnet", "at", "sp", "rkd"}),
        ("dkd", {"dkd", "dkd-beta2", "dkd-beta6"}),
        ("hkd", {"hkd", "hkd+kd"}),
        ("review", {"review-official-0.6", "review-official-5", "review-official-8"}),
        ("dml", {"dml"}),
    ],
)
def test_each_method_has_a_claim_on_its_own_pairs(paper, methods):
    """Over KD, or KD over it where so it was published; every pair that was published so is a setting."""
    claims = claims_of([PAPERS / f"{paper}.yaml"])
    assert {side.reading.method for one in claims for setting in one.settings for side in setting.sides} >= methods
    rows = read_papers([PAPERS / f"{paper}.yaml"])
    values = {(row.model, row.teacher if row.teachers else "", row.method): row.value for row in rows.itertuples()}
    for one in claims:
        side, other = one.settings[0].sides
        better = {
            (model, teacher)
            for (model, teacher, method), value in values.items()
            if method == side.reading.method
            and value > values.get((model, teacher, other.reading.method), values.get((model, "", other.reading.method), 100))
        }
        assert {(setting.student, setting.teacher) for setting in one.settings} == better, one.id
