"""The conda environments: every import of a rule's script is in them, in the lock's version. Conda itself is not run here."""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# What an import and a conda-forge package are called where the lock has another name.
PACKAGES = {"yaml": "pyyaml", "vl_convert": "vl-convert-python", "sklearn": "scikit-learn", "PIL": "pillow"}
PACKAGES["triton"] = "torch"  # it comes with torch's CUDA build, and `fused_norm` is refused where it is not
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
# Which script runs in which environment is read off the rules.
RULES = [
    (script, (smk.parent / env).resolve())
    for smk in sorted(ROOT.glob("pipeline/rules/*.smk"))
    for env, script in re.findall(r'conda:\s+"([^"]+)".*?-m pipeline\.(\w+)', smk.read_text(), re.DOTALL)
]
PYTHON = "3.11"


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
    names = {conda: name for name, conda in CONDA.items()}
    pairs = [item.split(" =") for item in yaml.safe_load(path.read_text())["dependencies"]]
    return {names.get(name, name): version for name, version in pairs}


def locked() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def test_the_rules_are_found():
    reading = {"collect", "tabulate", "plot", "report", "manifest"}
    assert {script for script, _ in RULES} == {"prepare", "generate", "train", "prune"} | reading
    assert {env for _, env in RULES} == set(ROOT.glob("envs/*.yaml"))


@pytest.mark.parametrize(("script", "env"), RULES, ids=[script for script, _ in RULES])
def test_an_environment_has_all_that_its_script_imports(script, env):
    there = environment(env)
    needed = modules(ROOT / "pipeline" / f"{script}.py", torch_free="timm" not in there)
    brought = {"pillow"} if "torchvision" in there else set()  # torchvision needs it
    assert {PACKAGES.get(name, name) for name in needed} <= there.keys() | brought


@pytest.mark.parametrize("env", sorted(ROOT.glob("envs/*.yaml")), ids=lambda path: path.stem)
def test_versions_are_those_of_the_lock(env):
    lock = locked()
    for name, version in environment(env).items():
        assert version == (PYTHON if name == "python" else lock[name]), f"{env.name}: {name}"


@pytest.mark.parametrize("env", sorted(ROOT.glob("envs/*.yaml")), ids=lambda path: path.stem)
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
