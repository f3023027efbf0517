"""Run commands on a disk of any size, or that cannot be written: `python -m tests.faults.disks <file>`, in a mount namespace.

The file holds the steps as JSON. Each runs in a process that is forked from one that has imported torch, because importing
takes seconds; what it did is printed as a line of JSON.
"""

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(disk: Path, steps: Sequence[dict]) -> list[dict]:
    """Mount a disk of memory in a mount namespace of its own and run steps on it; skip the test where none can be mounted.

    Args:
        disk: An empty folder.
        steps: Each has one of `size`, of the disk in MiB; `spare`, bytes that are left beside what is used; `readonly`;
            `remove`, a path; `main`, a module whose command is run, and `argv`; `hash`, a folder.

    Returns:
        Of each `main` its `status`, what it `said` on stderr and the `files` on the disk; of each `hash` the files' hashes.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([str(disk), list(steps)], file)
        file.flush()
        script = 'mount -t tmpfs -o size=64m none "$1" && shift && exec "$@"'
        command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", str(disk)]
        done = subprocess.run(
            [*command, sys.executable, "-m", "tests.faults.disks", file.name],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mounts here")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    """Run the steps of a file."""
    import dgd.train  # noqa: F401

    disk, steps = json.loads(Path(sys.argv[1]).read_text())
    for step in steps:
        if "spare" in step:
            room = os.statvfs(disk)
            used = (room.f_blocks - room.f_bfree) * room.f_frsize
            _mount(disk, f"size={max(used + step['spare'], 4096)}")
        elif "size" in step:
            _mount(disk, f"rw,size={step['size']}m")
        elif "readonly" in step:
            _mount(disk, "ro")
        elif "remove" in step:
            shutil.rmtree(step["remove"])
        elif "hash" in step:
            print(json.dumps(_hashes(Path(step["hash"]))), flush=True)
        else:
            print(json.dumps(_forked(step["main"], step["argv"]) | {"files": _files(disk)}), flush=True)


def _mount(disk: str, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def _files(disk: str) -> list[str]:
    return sorted(str(path.relative_to(disk)) for path in Path(disk).rglob("*") if not path.is_dir())


def _hashes(folder: Path) -> dict[str, str]:
    """Return file -> hash of its content; without timings, which no two runs share, and what tells of them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "provenance.json":
            content = path.read_bytes()
            if path.name == "metrics.json":
                content = json.dumps({k: v for k, v in json.loads(content).items() if k != "timings"}).encode()
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def _forked(module: str, argv: Sequence[str]) -> dict:
    """Run a module's command in a child; return its exit status and its lines on stderr."""
    with tempfile.TemporaryFile("w+") as said:
        pid = os.fork()
        if not pid:
            status = 70
            try:
                os.dup2(said.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
                status = _called(module, argv)
            except SystemExit as end:
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            finally:
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        lines = [line for line in said.read().replace("\r", "\n").splitlines() if line.strip() and "epoch" not in line]
    return {"status": status, "said": lines}


def _called(module: str, argv: Sequence[str]) -> int:
    sys.argv = [module, *argv]
    found = importlib.import_module(module)
    if module == "dgd.cli":
        return found.main()
    from pipeline import script

    script.run(found.main)
    return 0


if __name__ == "__main__":
    main()
