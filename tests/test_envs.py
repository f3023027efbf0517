"""The conda environments: every import of a rule's script is in them, in the lock's version.

Conda itself is not run here; what it is given is read by py-rattler's parser and matcher of conda's match specifications.
"""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml
from rattler import BuildString, Channel, MatchSpec, PackageRecord

from dgd.cell import DEVICES

ROOT = Path(__file__).parents[1]
# What an import and a conda-forge package are called where the lock has another name.
PACKAGES = {"yaml": "pyyaml", "vl_convert": "vl-convert-python", "sklearn": "scikit-learn", "PIL": "pillow"}
PACKAGES["triton"] = "torch"  # it comes with torch's CUDA build, and `fused_norm` is refused where it is not
CONDA = {"pytorch": "torch", "pytorch-cpu": "torch", "pytorch-gpu": "torch", "matplotlib-base": "matplotlib"}
# Which script runs in which environment is read off the rules. Those that train have one for each device; a test holds
# the others to the first.
RULES = [
    (script, (smk.parent / env.format(DEVICE=DEVICES[0])).resolve())
    for smk in sorted(ROOT.glob("pipeline/rules/*.smk"))
    for env, script in re.findall(r'conda:\s+f?"([^"]+)".*?-m pipeline\.(\w+)', smk.read_text(), re.DOTALL)
]
ENVS = sorted(ROOT.glob("envs/*.yaml"))
PYTHON = "3.11"
BUILD = BuildString("py311_0")


def modules(path: Path, torch_free: bool) -> set[str]:
    """Top-level names that a file imports, and those of the files of ours that it imports, all the way down."""
    found, todo, seen = set(), [path], set()
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            for name in names:
                top = name.split(".")[0]
                if top not in ("dgd", "pipeline"):
                    found.add(top)
                    continue
                # `import dgd` brings the networks in only where timm is, and a config is then held to the registries. What a
                # plugin adds to them needs torch, too.
                if torch_free and name in ("dgd.models", "dgd.data", "dgd.objectives", "dgd.task"):
                    continue
                base = ROOT / name.replace(".", "/")
                todo += [p for p in (base.with_suffix(".py"), base / "__init__.py", ROOT / top / "__init__.py") if p.is_file()]
    return found - set(sys.stdlib_module_names)


def environment(path: Path) -> dict[str, str]:
    """Package -> version of an environment file, in the lock's names."""
    pairs = [item.split(" =") for item in dependencies(path)]
    return {CONDA.get(name, name): version for name, version in pairs}


def dependencies(path: Path) -> list[str]:
    return yaml.safe_load(path.read_text())["dependencies"]


def locked() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def test_the_rules_are_found():
    reading = {"collect", "tabulate", "plot", "report", "manifest"}
    assert {script for script, _ in RULES} == {"prepare", "generate", "train", "prune"} | reading
    assert {env.name for _, env in RULES} == {"tables.yaml", "train-auto.yaml"}
    assert {env.name for env in ENVS} == {"tables.yaml", *(f"train-{device}.yaml" for device in DEVICES)}


@pytest.mark.parametrize(("script", "env"), RULES, ids=[script for script, _ in RULES])
def test_an_environment_has_all_that_its_script_imports(script, env):
    there = environment(env)
    needed = modules(ROOT / "pipeline" / f"{script}.py", torch_free="timm" not in there)
    brought = {"pillow"} if "torchvision" in there else set()  # torchvision needs it
    assert {PACKAGES.get(name, name) for name in needed} <= there.keys() | brought


@pytest.mark.parametrize("env", ENVS, ids=lambda path: path.stem)
def test_versions_are_those_of_the_lock(env):
    lock = locked()
    for name, version in environment(env).items():
        assert version == (PYTHON if name == "python" else lock[name]), f"{env.name}: {name}"


@pytest.mark.parametrize("env", ENVS, ids=lambda path: path.stem)
def test_conda_takes_the_locks_versions_and_no_others(env):
    file = yaml.safe_load(env.read_text())
    assert [Channel(name).name for name in file["channels"]] == ["conda-forge", "nodefaults"]
    for item in file["dependencies"]:
        spec = MatchSpec(item, strict=True)
        name = spec.name.normalized
        version = locked().get(CONDA.get(name, name), f"{PYTHON}.9")
        assert spec.matches(PackageRecord(name, version, BUILD, 0, "linux-64")), item
        for other in ("0", f"9{version}", f"{item.partition('=')[2]}9"):
            assert not spec.matches(PackageRecord(name, other, BUILD, 0, "linux-64")), item


def test_the_devices_environments_differ_in_pytorchs_build_alone():
    packages = {device: set(dependencies(ROOT / "envs" / f"train-{device}.yaml")) for device in DEVICES}
    common = set.intersection(*packages.values())
    version = locked()["torch"]
    assert {device: names - common for device, names in packages.items()} == {
        "auto": {f"pytorch ={version}"},
        "cpu": {f"pytorch-cpu ={version}"},
        "cuda": {f"pytorch-gpu ={version}"},
    }


@pytest.mark.parametrize("env", sorted({env for _, env in RULES}), ids=lambda path: path.stem)
def test_an_environment_has_nothing_that_no_script_needs(env):
    there = environment(env)
    needed = set()
    for script, other in RULES:
        if other == env:
            needed |= modules(ROOT / "pipeline" / f"{script}.py", torch_free="timm" not in there)
    assert set(there) - {"python"} <= {PACKAGES.get(name, name) for name in needed}


def test_the_library_never_imports_the_workflow():
    for path in ROOT.glob("dgd/**/*.py"):
        assert not re.search(r"^\s*(from|import) pipeline\b", path.read_text(), re.MULTILINE), path


def test_the_list_of_licences_is_the_locks():
    """`make licences` writes it; a package that it lacks was locked without looking at its licence."""
    listed = re.findall(r"^\| ([A-Za-z0-9_.-]+) +\| (\d\S*)", (ROOT / "docs/licences.md").read_text(), re.MULTILINE)
    assert {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in listed} == {
        re.sub(r"[-_.]+", "-", name): version for name, version in locked().items()
    }
