"""The image in a container that may do nothing: no network, no rights, no file that it can write but the results.

`docker build -t dgd-bench .`, then DGD_IMAGE=dgd-bench make faults.
"""

import json
import os
import shutil
import subprocess

import pytest

IMAGE = os.environ.get("DGD_IMAGE")
SHUT = ["--read-only", "--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not (IMAGE and shutil.which("docker")), reason="DGD_IMAGE and a Docker engine are needed"),
]


def run(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run(["docker", "run", "--rm", *SHUT, *options], capture_output=True, text=True)


@pytest.mark.parametrize("user", [[], ["--user", "4321"]], ids=["image's user", "any user"])
def test_a_benchmark_runs_in_a_container_that_may_do_nothing(user, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    tiny = ["--configfile", "config/test/tiny.yaml"]
    done = run(*user, "-v", f"{out}:/results", IMAGE, *tiny)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| digits     | cifar_resnet8 ← cifar_resnet20 | dgd " in done.stdout
    before = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")}
    assert len(before) == 3
    assert run(*user, "-v", f"{out}:/results", IMAGE, *tiny).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("metrics.json")} == before


def test_a_folder_that_it_cannot_write_is_one_line(tmp_path):
    done = run("--user", "4321", "-v", f"{tmp_path}:/results:ro", IMAGE)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        '/results is not writable for user 4321: mount a folder that is, with -v FOLDER:/results --user "$(id -u)"'
        " (Apptainer: --bind FOLDER:/results)"
    ]


def test_a_command_of_ours_runs_in_it():
    done = run(IMAGE, "dgd-bench", "doctor")
    assert done.returncode == 0, done.stderr
    assert "torch " in done.stdout


def test_a_run_starts_in_any_folder(tmp_path):
    """Apptainer keeps the folder that it is called from."""
    done = run("--workdir", "/tmp", IMAGE, "--configfile", "config/test/tiny.yaml", "-n")
    assert done.returncode == 0, done.stderr
    assert "prepare" in done.stdout + done.stderr


def test_the_image_is_labelled():
    done = subprocess.run(["docker", "inspect", "--format", "{{json .Config.Labels}}", IMAGE], capture_output=True, text=True)
    labels = json.loads(done.stdout)
    assert labels["org.opencontainers.image.title"] == "dgd-bench"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
