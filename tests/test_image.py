"""The image and what is made from it (locks, labels, services, recipes), and what `make` says where something is missing.

Docker is not run here; tests/faults/test_container.py runs it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CUDA = r"torch|torchvision|triton|nvidia-.+|cuda-.+"


def lock(part: str = "") -> dict[str, tuple[str, frozenset[str]]]:
    """Package -> version and hashes of the files that may be installed."""
    text = (ROOT / f"requirements{part}.lock").read_text()
    blocks = re.findall(r"^([a-z0-9_.-]+)==(\S+)((?: \\\n    --hash=\S+)+)", text, re.MULTILINE)
    return {name: (version, frozenset(re.findall(r"sha256:\w+", hashes))) for name, version, hashes in blocks}


def required(*roots: str) -> set[str]:
    """Packages that these requirements bring, all the way down, on the machine that the locks are for."""
    machine = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "python_version": "3.11"}
    machine |= {"python_full_version": "3.11.9", "implementation_name": "cpython", "platform_python_implementation": "CPython"}
    machine |= {"os_name": "posix"}
    found, todo = set(), [Requirement(root) for root in roots]
    seen = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in requirement.extras or {""}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            wanted = map(Requirement, requires(name) or [])
            todo += [r for r in wanted if not r.marker or any(r.marker.evaluate(machine | {"extra": e}) for e in ("", extra))]
        found.add(name)
    return found


def test_the_images_locks_are_parts_of_the_lock():
    whole, run, cuda = lock(), lock("-run"), lock("-cuda")
    assert len(whole) == len(re.findall(r"^[a-z]\S*==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert run.items() | cuda.items() <= whole.items()


def test_the_images_locks_hold_what_a_run_needs_and_nothing_else():
    wanted = required(
        *PROJECT["dependencies"], *(r for extra in ("pipeline", "logs") for r in PROJECT["optional-dependencies"][extra])
    )
    assert lock("-run").keys() | lock("-cuda").keys() == wanted
    assert lock("-cuda").keys() == required("torch", "torchvision")


def test_the_run_lock_has_nothing_of_cuda():
    """It is installed without dependencies beside either build of torch."""
    assert lock("-run").keys() == {name for name in lock("-run").keys() | lock("-cuda").keys() if not re.fullmatch(CUDA, name)}


def test_torchs_versions_are_the_same_from_another_index():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {name: lock()[name][0] for name in pinned} == pinned
    assert {"torch", "torchvision"} <= pinned.keys()


def test_code_is_copied_after_all_that_is_installed():
    """A layer is built again if one before it changed: an edit of the code must not install anything."""
    before, after = DOCKERFILE.split("\nCOPY . ./\n")
    assert "\nRUN " in before
    assert "\nRUN " not in after
    copied = [name for line in re.findall(r"^COPY (.+) \./$", before, re.MULTILINE) for name in line.split()]
    assert "pyproject.toml" in copied
    assert all((ROOT / name).is_file() for name in copied)
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} <= set(allowed)
    assert all((ROOT / line[1:]).exists() for line in allowed if line.startswith("!"))


def test_labels_are_the_projects():
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', DOCKERFILE))
    assert labels == {
        "title": PROJECT["name"],
        "description": PROJECT["description"],
        "version": PROJECT["version"],
        "licenses": PROJECT["license"],
        "revision": "$REVISION",
    }


def test_services_are_the_image():
    services = COMPOSE["services"]
    assert services.keys() == {"bench", "gpu", "cpu"}
    volumes = re.search(r"^VOLUME (.+)$", DOCKERFILE, re.MULTILINE)[1].split()
    arguments = re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE)
    for service in services.values():
        assert [volume.split(":")[1] for volume in service["volumes"]] == ["/results"]
        assert "/results" in volumes
    assert services["bench"] == {key: value for key, value in services["gpu"].items() if key != "deploy"}
    assert set(services["cpu"]["build"]["args"]) <= set(arguments)


def test_the_apptainer_recipe_only_takes_the_image():
    text = (ROOT / "apptainer.def").read_text()
    header = dict(re.findall(r"^(\w+): (.+)$", text, re.MULTILINE))
    assert header == {"Bootstrap": "docker-daemon", "From": f"{COMPOSE['services']['bench']['image']}:latest"}
    assert re.findall(r"^%(\w+)", text, re.MULTILINE) == ["environment"]


def test_the_devcontainer_is_what_make_needs():
    lines = (ROOT / ".devcontainer" / "devcontainer.json").read_text().splitlines()
    container = json.loads("\n".join(line for line in lines if not line.startswith("//")))
    python = re.search(r"^PYTHON \?= python(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert container["image"].startswith(f"python:{python}-")
    assert re.search(rf"^FROM python:{python}-", DOCKERFILE, re.MULTILINE)
    target = container["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.fixture
def machine(tmp_path):
    """Run `make bench` on a machine that has these commands, and return what it says."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sh", "bash", "uname", "nproc"):
        (commands / name).symlink_to(shutil.which(name))

    def make(**scripts: str) -> list[str]:
        for name, script in scripts.items():
            path = commands / name.replace("_", ".")
            path.unlink(missing_ok=True)
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        there = {
            "PATH": str(commands),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": "http://127.0.0.1:9",
            "PIP_RETRIES": "0",
        }
        done = subprocess.run(
            [shutil.which("make"), "bench"],
            cwd=tmp_path,
            env=there,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode != 0
        assert not (tmp_path / ".venv" / ".locked").exists()
        return [line for line in done.stdout.splitlines() if not line.startswith("make: ***")]

    return make


def test_a_machine_without_python_is_told_what_to_install(machine):
    (said,) = machine()
    assert said.startswith(
        "Python 3.11 is needed, as requirements.lock is for it, and python3.11 is missing: install it (Debian"
    )
    assert said.endswith("then make PYTHON=/path/to/python3.11")


def test_another_python_is_refused(machine):
    (said,) = machine(python3_11="echo 3.13")
    assert "python3.11 is 3.13: install it" in said


def test_a_python_that_only_says_how_to_get_it_is_missing(machine):
    """As pyenv's commands do."""
    (said,) = machine(python3_11="echo 'pyenv: python3.11: command not found' >&2; exit 127")
    assert "python3.11 is missing: install it" in said


def test_a_python_without_venv_is_told_what_to_install(machine):
    (said,) = machine(python3_11='case "$2" in *version*) echo 3.11;; *) exit 1;; esac')
    assert said == "python3.11 has no venv or no ensurepip: install it (Debian, Ubuntu: apt install python3.11-venv)"


def test_another_system_is_told_how_to_do_without_the_lock(machine):
    (said,) = machine(uname="echo Darwin arm64")
    assert said.startswith("requirements.lock is for Linux on x86-64, and this is Darwin arm64: docs/environments.md says how")
    assert (ROOT / "docs" / "environments.md").is_file()


@pytest.mark.slow
def test_a_machine_without_an_index_is_told_what_pip_needs(machine):
    """The virtual environment is real; pip is asked to use an address that nobody listens to."""
    python = os.path.realpath(sys.executable)
    said = machine(python3_11=f'exec "{python}" "$@"')
    assert said[-1].startswith("requirements.lock could not be installed: pip needs a package index")
