"""Train a cell, or several side by side: `python -m pipeline.train --cell '<resolved cell as JSON>' --data <its data> ...`."""

import argparse
import json
import os
import sys
import traceback
from pathlib import Path

from dgd import identity, running
from dgd.cell import Cell
from dgd.files import Locked, locked, write_text
from dgd.metrics import METRICS
from pipeline import script, slots

LEADS = os.environ.get("RANK", "0") == "0"
"""Whether this process, one of a torchrun's, writes and prints."""


def main(argv=None):
    """Take cells over from another benchmark that has them, or train them, or go on with them where they were stopped.

    Where the time is over it ends with exit status 75. A cell that cannot be trained fails the command after the others are
    trained, or is written down where `--failed` says so.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--cell", type=json.loads, action="append", required=True, help="a resolved cell, as `dgd.cell.Cell.plain` gives it"
    )
    parser.add_argument("--data", type=Path, action="append", required=True, help="folder of its prepared data set, in order")
    parser.add_argument("--results", type=Path, required=True, help="results root, which teachers' paths are relative to")
    parser.add_argument("--stop-after", type=float, help="seconds after which to stop, after an epoch")
    parser.add_argument("--failed", type=Path, help="file for a line for each cell that could not be trained")
    parser.add_argument("--log", type=Path, help="file that stderr goes to; it is the cells' train.log too")
    args = parser.parse_args(argv)
    progress = running.Progress.begin(args.stop_after)
    pairs = [(Cell.from_plain(cell), data) for cell, data in zip(args.cell, args.data, strict=True)]
    for cell, _ in pairs if args.log else ():
        _link(args.log, args.results / cell.path / "train.log")
    waiting = [pair for pair in pairs if not _is_there(*pair, args.results)]
    left, failed = _train(waiting, args.results, progress) if waiting else ([], {})
    if left:
        print(
            f"{len(left)} of {len(pairs)} cells are left after {args.stop_after:g} s; the same command goes on", file=sys.stderr
        )
        sys.exit(running.TRY_AGAIN)
    if args.failed:
        write_text(args.failed, "".join(f"{path}: {why}\n" for path, why in failed.items()))
    elif failed:
        sys.exit(1)


def _link(log: Path, name: Path) -> None:
    """Make a log the train.log of a cell too."""
    name.parent.mkdir(parents=True, exist_ok=True)
    name.unlink(missing_ok=True)
    try:
        name.hardlink_to(log)
    except OSError:  # not every file system has hard links
        name.symlink_to(os.path.relpath(log, name.parent))


def _is_there(cell: Cell, data: Path, results: Path) -> bool:
    """Return whether a cell need not be trained: this job did so before it was stopped, or another benchmark has the cell.

    What is there of another result is deleted, as Snakemake does with the outputs of a job that it starts.
    """
    out, made_from, held = results / cell.path, identity.at(cell, results), identity.data_hash(data / "manifest.json")
    if identity.status(cell, out, identity=made_from, data=held).fresh:
        print(f"{cell.path}: already there", file=sys.stderr)
        return True
    source = identity.find(results, made_from, held, but=out)
    try:
        if source and LEADS:
            identity.adopt(source, out, cell)
            print(f"{cell.path}: taken over from {source}, the same cell", flush=True)
        elif LEADS:
            with locked(out):
                for name in identity.OUTPUTS:
                    (out / name).unlink(missing_ok=True)
    except Locked:  # the training will say who has it
        return False
    return bool(source)


def _train(pairs: list[tuple[Cell, Path]], results: Path, progress: running.Progress) -> tuple[list[str], dict[str, str]]:
    """Train cells; return the paths of those that are left, and those that could not be trained with the reason."""
    # The lock lives as long as this name. CUDA reads which devices it may see once, perhaps when torch is imported.
    _slot = slots.take() if pairs[0][0].recipe.device != "cpu" else None
    from dgd import train

    left, failed = [], {}
    for (cell, _), outcome in zip(pairs, running.side_by_side(*zip(*pairs), results, progress), strict=True):
        if isinstance(outcome, train.OutOfTime):
            left.append(cell.path)
        elif isinstance(outcome, Exception) and not isinstance(outcome, train.NoResult):
            failed[cell.path] = " ".join(f"{type(outcome).__name__}: {outcome}".split())
            traceback.print_exception(outcome)
            if LEADS:
                print(f"{cell.path}: FAILED: {failed[cell.path]}", flush=True)
        elif LEADS:
            # A cell without a result is recorded in metrics.json: the others go on, and the table shows the hole.
            print(f"{cell.path}: {_summary(cell, json.loads((results / cell.path / 'metrics.json').read_text()))}", flush=True)
    return left, failed


def _summary(cell: Cell, metrics: dict) -> str:
    if metrics["status"] != "finished":
        return f"{metrics['status'].upper()}: {metrics.get('error', '')}"
    metric = METRICS[cell.task]
    return f"{metrics['networks'][0]['last'][metric.name]:{metric.form}} {metric.unit} in {metrics['timings']['seconds']:.0f} s"


if __name__ == "__main__":
    script.run(main)
