"""Do what is most useful with one GPU for so many seconds.

    PYTHONPATH=. python3 -m speed.on_a_gpu SECONDS [CONFIG ...] --out FOLDER

First the tests marked `cuda`, then rows of the speed table for this card, then the cells of the configs, as `dgd-bench train`
trains them: teachers first, side by side, stopped in time. What must be kept is packed into a few files, from which another
machine goes on: `--resume FILES` unpacks those of an earlier part first, `--unpack FILES` does only that. Where a part ends
changes no byte of the cells. Tests and rows of the same code that are there are not repeated.

Nothing has to be installed: it needs torch, torchvision, timm, the numeric packages of pyproject.toml and, for tests, pytest.
"""

import argparse
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from dgd import identity, running
from dgd.cell import Cell
from dgd.files import write_bytes, write_text
from dgd.train.record import RESUME
from speed import ROOT
from speed.measure.gpu import code

LOG = "on_a_gpu/tests.log"
PART = "on_a_gpu.tar."
RESERVE = 30
"""Seconds that are kept to pack, and for the start of processes; a tenth of the time where that is less."""


@dataclass(frozen=True)
class Clock:
    """The time of a run.

    Attributes:
        seconds: All of it.
        begun: When it began, as `time.monotonic` counts.
    """

    seconds: float
    begun: float

    @property
    def reserve(self) -> float:
        """Return the seconds that are kept."""
        return min(RESERVE, self.seconds / 10)

    def left(self) -> float:
        """Return the seconds that are left for work."""
        return self.begun + self.seconds - self.reserve - time.monotonic()


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and return the exit status: 0; 75 if cells are left, 1 if something failed; all that was done is packed anyway."""
    parser = argparse.ArgumentParser(prog="python -m speed.on_a_gpu", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, metavar="SECONDS", help="how long it may take, packing included")
    parser.add_argument("configs", nargs="*", type=Path, metavar="CONFIG", help="benchmarks whose cells are trained, in order")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the packed files go")
    parser.add_argument("--root", type=Path, default=Path(), help="has results/ and speed/results/ (default: this folder)")
    parser.add_argument("--resume", nargs="+", type=Path, default=[], metavar="FILE", help="packed files of one earlier part")
    parser.add_argument("--unpack", nargs="+", type=Path, metavar="FILE", help="unpack them into --root, and do nothing else")
    parser.add_argument("--share", type=float, default=0.4, help="of the time for rows of the speed table (default: 0.4)")
    parser.add_argument("--together", type=int, help="cells side by side (default: as many as the GPU's memory takes, up to 8)")
    parser.add_argument("--files", type=int, default=8, help="packed files at most (default: 8)")
    parser.add_argument("--mib", type=float, default=16, help="size of a packed file at most (default: 16)")
    parser.add_argument("--quick", action="store_true", help="the smallest rows of the speed table, also on a CPU")
    args = parser.parse_args(argv)
    if not args.unpack and (args.seconds is None or not args.out):
        parser.error("give SECONDS and --out FOLDER, or --unpack FILES")
    clock = Clock(args.seconds or 0, time.monotonic())
    try:
        if args.unpack or args.resume:
            unpack(args.unpack or args.resume, args.root)
        if args.unpack:
            return 0
        cells = {path: running.benchmark_cells(path) for path in args.configs}
        prepare([cell for own in cells.values() for cell in own], args.root / "results")
    except (ValueError, OSError, RuntimeError, yaml.YAMLError) as error:
        print(f"on_a_gpu: {error}", file=sys.stderr)
        return 1
    statuses = [run_tests(args.root / LOG, clock), measure(args.root / "speed", clock, args.share, args.quick)]
    statuses += [train(path, args.root / "results", clock, args.together) for path in cells]
    unique = {cell.path: cell for own in cells.values() for cell in own}
    pack(units(list(unique.values()), args.root), args.root, args.out, args.files, int(args.mib * 2**20))
    return next((status for status in (1, running.TRY_AGAIN) if status in statuses), 0)


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def prepare(cells: Iterable[Cell], results: Path) -> None:
    """Prepare the data sets of real images; what other cells generate is made when these are trained.

    Raises:
        OSError: A data set is neither prepared, nor in `data.dir`, nor can it be downloaded.
    """
    for cell in cells:
        if not cell.generated:
            running.prepared(cell, results)


# ------------------------------------------------------------------------------------------------------ tests and speed


def run_tests(log: Path, clock: Clock) -> int:
    """Run the tests marked `cuda`, write what they print into a log, and return whether that failed."""
    files = sorted(path for path in (ROOT / "tests").glob("test_*.py") if "mark.cuda" in path.read_text())
    if not torch.cuda.is_available():
        say(f"tests: no CUDA device, so none of the tests marked cuda can run ({len(files)} files have such tests)")
        return 0
    first = f"code {code()} passed"
    if log.is_file() and log.read_text().startswith(first):
        say("tests: passed before with this code")
        return 0
    options = ["-m", "cuda", "-o", "addopts=", "-p", "no:cacheprovider"]
    status, printed = _call(["pytest", *options, *map(str, files)], clock.left())
    lines = printed.strip().splitlines() or ["nothing was printed"]
    write_text(log, f"{first if status == 0 else f'code {code()} failed'}\n{printed}")
    say(f"tests: {lines[-1]}" if status is not None else "tests: the time was over before they ended")
    return int(status != 0)


def measure(folder: Path, clock: Clock, share: float, quick: bool) -> int:
    """Measure rows of the speed table for a share of the time that is left, and return whether that failed.

    Args:
        folder: Has `results/`, or for the smallest rows `quick/`, where they are written.
        clock: The time.
        share: The share.
        quick: Measure the smallest rows, which are not for the table.
    """
    if not torch.cuda.is_available() and not quick:
        say("speed: no CUDA device, so there is no row to measure")
        return 0
    seconds = share * clock.left()
    if seconds <= 0:
        say("speed: no time for a row of the table")
        return 0
    folder /= "quick" if quick else "results"
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--only", "gpu", "--out", str(folder.resolve()), "--seconds", f"{seconds:.0f}", *["--quick"] * quick]
    status, printed = _call(["speed.measure", *options], clock.left())
    say("".join(f"speed: {line}\n" for line in printed.strip().splitlines()).rstrip() or "speed: nothing was printed")
    return int(status != 0)


def _call(module: Sequence[str], seconds: float, *, shown: bool = False) -> tuple[int | None, str]:
    """Run a module, and return its exit status, None where the time was over, and what it printed.

    Args:
        module: Its name and its arguments.
        seconds: When these are over, it is ended with all that it has started.
        shown: Let it print where this process prints; "" is returned then.
    """
    pipes = {} if shown else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen([sys.executable, "-m", *module], text=True, start_new_session=True, **pipes)
    try:
        printed, _ = process.communicate(timeout=max(seconds, 0.1))
        return process.returncode, printed or ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0] or ""
    finally:
        if process.poll() is None:  # this one is interrupted
            os.killpg(process.pid, signal.SIGKILL)


# ---------------------------------------------------------------------------------------------------------------- cells


def train(path: Path, results: Path, clock: Clock, together: int | None) -> int:
    """Train the cells of a config until the time is over; return the command's exit status, 75 where cells are left."""
    if clock.left() <= 0:
        say(f"{path}: no time was left for its cells")
        return running.TRY_AGAIN
    seconds = max(clock.left() - clock.reserve / 2, 0.1)  # they count from when it has started
    command = ["train", str(path), "--results", str(results), "--stop-after", f"{seconds:.1f}"]
    command += ["--together", str(together)] if together else []
    say(shlex.join(["dgd-bench", *command]))
    status, _ = _call(["dgd.cli", *command], clock.left() + clock.reserve / 2, shown=True)
    if status is None:
        say(f"{path}: ended before it had stopped by itself; another part goes on from the last epochs that were kept")
    return running.TRY_AGAIN if status is None else status


# ------------------------------------------------------------------------------------------------- what must be kept


@dataclass(frozen=True)
class Unit:
    """Files that are packed together or not at all; `what` names them."""

    what: str
    files: Sequence[Path]


def units(cells: Sequence[Cell], root: Path) -> Iterator[Unit]:
    """Yield what a run must leave, the most important first.

    Resume points; the tests' log and the speed table; whole cells that others still learn from; other cells without weights;
    their weights.
    """
    results = root / "results"
    done = {path for path, state in identity.states(cells, results).items() if state.fresh}
    needed = {source for cell in cells if cell.path not in done for source in cell.sources}
    for cell in cells:
        if cell.path not in done and (point := results / cell.path / RESUME).is_file():
            yield Unit(f"the resume point of {cell.path}", [point])
    for path in [root / LOG, *sorted((root / "speed").glob("*/*.json"))]:
        if path.is_file() and (path.suffix != ".json" or "gpu" in json.loads(path.read_text())):
            yield Unit(str(path.relative_to(root)), [path])
    for whole in (True, False):
        for cell in cells:
            if cell.path in done and (cell.path in needed) == whole:
                names = [name for name in identity.OUTPUTS if whole or name != identity.WEIGHTS]
                yield Unit(cell.path, [results / cell.path / name for name in names])
    for cell in cells:
        if cell.path in done - needed and (weights := results / cell.path / identity.WEIGHTS).is_file():
            yield Unit(f"the weights of {cell.path}", [weights])


class Parts(io.RawIOBase):
    """A file that is written in parts of a size.

    Args:
        folder: Where they lie.
        size: Bytes of a part at most.
    """

    def __init__(self, folder: Path, size: int):
        self.folder, self.size, self.held, self.written = folder, size, bytearray(), 0

    def write(self, content) -> int:
        """Take bytes, and write the parts that are full."""
        self.held += content
        while len(self.held) >= self.size:
            self._put(self.held[: self.size])
            del self.held[: self.size]
        return len(content)

    def end(self) -> None:
        """Write the last part."""
        if self.held:
            self._put(self.held)

    def _put(self, content: bytearray) -> None:
        write_bytes(self.folder / f"{PART}{self.written:03}", bytes(content))
        self.written += 1


def pack(wanted: Iterable[Unit], root: Path, out: Path, files: int, size: int) -> None:
    """Write units into `files` parts of a tar of at most `size` bytes each; what does not fit is left out, and said.

    Args:
        wanted: The most important first.
        root: Names in the tar are relative to it.
        out: The folder of the parts; parts that are there are removed.
        files: Number of parts at most.
        size: Bytes of a part.
    """
    for old in out.glob(f"{PART}*"):
        old.unlink()
    left, taken, left_out, parts = files * size - tarfile.RECORDSIZE, 0, [], Parts(out, size)
    with tarfile.open(fileobj=parts, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for unit in wanted:
            members = [(path, tar.gettarinfo(path, path.relative_to(root).as_posix())) for path in unit.files]
            takes = sum(len(one.tobuf(tar.format)) + one.size + -one.size % tarfile.BLOCKSIZE for _, one in members)
            if takes > left:
                left_out.append(f"{unit.what} ({takes / 2**20:.1f} MiB)")
                continue
            left, taken = left - takes, taken + 1
            for path, one in members:
                with path.open("rb") as content:
                    tar.addfile(one, content)
    parts.end()
    say(f"packed {taken} things into {parts.written} files of {out}: {PART}*")
    if left_out:
        say(f"left out, because {files} files of {size / 2**20:g} MiB are full: {', '.join(left_out)}")


def unpack(parts: Sequence[Path], root: Path) -> None:
    """Write what the parts of one run hold below a root.

    Raises:
        ValueError: They are not all parts of one run, or name a place outside of the root.
    """
    ordered = sorted(parts, key=lambda path: path.name)
    whole = io.BytesIO(b"".join(path.read_bytes() for path in ordered))
    try:
        with tarfile.open(fileobj=whole, mode="r:") as tar:
            for one in tar:
                name = Path(one.name)
                if not one.isfile() or name.is_absolute() or ".." in name.parts:
                    raise ValueError(f"{ordered[0]}: {one.name} is no file below a root; it was not packed by this script")
                write_bytes(root / name, tar.extractfile(one).read())
    except tarfile.TarError as error:
        names = ", ".join(path.name for path in ordered)
        raise ValueError(f"{names}: {error}; give all the files {PART}* of one part, and no others") from None


if __name__ == "__main__":
    sys.exit(main())
