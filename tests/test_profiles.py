"""The profiles of clusters: what they set is known to Snakemake, its plugins and our rules. Nothing is submitted."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from snakemake.cli import get_argument_parser

from dgd.config import cells, check, read
from dgd.train.memory import MIB, estimate
from pipeline.jobs import gpus, mem_mb

ROOT = Path(__file__).parents[1]
PROFILES = {path.parent.name: yaml.safe_load(path.read_text()) for path in ROOT.glob("profiles/*/config.yaml")}
RULES = "".join(path.read_text() for path in ROOT.glob("pipeline/rules/*.smk"))
NAMES = set(re.findall(r"^rule (\w+)|^use rule \w+ as (\w+)", RULES, re.MULTILINE))
# Resources that no rule has because they say how a cluster runs a job, and not what the job needs.
CLUSTER = {"runtime", "disk_mb", "gpu_manufacturer", "scale"}


def resources_of_the_rules() -> set[str]:
    blocks = re.findall(r"^    resources:\n((?: {8}.*\n)+)", RULES, re.MULTILINE)
    return set(re.findall(r"^ {8}(\w+)=", "".join(blocks), re.MULTILINE))


def test_the_profiles_are_there():
    assert set(PROFILES) == {"default", "slurm", "kubernetes"}


@pytest.mark.parametrize("name", PROFILES)
def test_every_key_is_an_option(name):
    profile = PROFILES[name]
    known = {flag.lstrip("-") for action in get_argument_parser()._actions for flag in action.option_strings}
    unknown = set(profile) - known
    plugins = [profile.get("executor"), profile.get("default-storage-provider")]
    for plugin in filter(None, plugins):
        kind = "executor" if plugin == profile.get("executor") else "storage"
        if not find_spec(f"snakemake_{kind}_plugin_{plugin}"):
            unknown = {key for key in unknown if not key.removeprefix("storage-").startswith(f"{plugin}-")}
    assert not unknown


@pytest.mark.parametrize("name", PROFILES)
def test_rules_and_resources_are_ours(name):
    known = resources_of_the_rules() | CLUSTER
    assert {"gpu", "mem_mb"} <= known
    profile = PROFILES[name]
    for key in ("resources", "default-resources", "set-resource-scopes"):
        assert set(profile.get(key, {})) <= known, key
    rules = {rule for pair in NAMES for rule in pair if rule}
    for rule, resources in profile.get("set-resources", {}).items():
        assert rule in rules
        assert set(resources) <= known


def changes(name: str) -> dict:
    """What a profile changes in every config."""
    pairs = (change.partition("=") for change in PROFILES[name]["config"])
    return {key: yaml.safe_load(value) for key, _, value in pairs}


def test_a_job_stops_before_slurm_ends_it_and_is_started_again():
    profile = PROFILES["slurm"]
    training = {rule for pair in NAMES for rule in pair if rule.startswith(("train", "teach"))} - {"trained"}
    assert set(profile["set-resources"]) == training
    (minutes,) = {resources["runtime"] for resources in profile["set-resources"].values()}
    assert minutes * 60 - 3600 < changes("slurm")["stop_after"] < minutes * 60 - 600
    assert profile["retries"] * minutes / 60 > 200  # hours


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_every_cell_has_a_gpu_and_its_estimate_on_a_cluster(name):
    """The machine that submits may have no GPU: the profile says that cells run on CUDA, and the rules then count."""
    given = read(ROOT / "config/test/tiny.yaml")
    recipe = {**given["recipe"], **changes(name)["recipe"]}
    cell = cells(check({**given, **changes(name), "recipe": recipe}))[-1]
    assert gpus(cell) == 1
    assert mem_mb(cell) == estimate(cell, cuda=True)["host"] * MIB // 10**6 + 1
    for resources in PROFILES[name]["set-resources"].values():
        assert not {"gpu", "mem_mb"} & set(resources)


def test_a_job_on_a_cluster_counts_gpus_by_machine():
    assert re.search(r'resource_scopes:\s+gpu="local"', (ROOT / "Snakefile").read_text())
