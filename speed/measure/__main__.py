"""Measure speed on this machine, on CUDA where there is one: `python -m speed.measure`, about 25 minutes on a CPU.

Writes speed/results/<machine>.json, which `python -m speed.report` renders; speed/README.md says what each figure is.
"""

import argparse
import json
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from dgd import provenance
from dgd.files import write_text
from speed import ROOT
from speed.measure import arithmetic, data, exchange, gpu, machine, memory, methods, overhead, steps
from speed.measure.setup import FULL, QUICK, Setup
from speed.plain_process import PlainProcess

PARTS = {
    "steps": steps.measure,
    "methods": methods.measure,
    "arithmetic": arithmetic.measure,
    "data": data.measure,
    "exchange": exchange.measure,
    "memory": memory.measure,
    "overhead": overhead.measure,
    "gpu": gpu.measure,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write what was found after each part; parts that are left out stay as they are in the file.

    Each part is written with its command, commit and time, and with the machine's load average at its start and its end.
    """
    parser = argparse.ArgumentParser(prog="python -m speed.measure", description=main.__doc__)
    parser.add_argument("--out", type=Path, help="a file, or a folder for <CPU or GPU, threads>.json (default: speed/results)")
    parser.add_argument("--only", help=f"comma-separated parts (default: all; `gpu` where there is a GPU): {','.join(PARTS)}")
    parser.add_argument("--models", help="comma-separated students of the part `steps`: the rows of others stay as they are")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"), help="cpu: leave GPUs alone (default: auto)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of the part `gpu`: what does not fit is left out")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process (default: 1)")
    parser.add_argument("--quick", action="store_true", help="only see that it runs, with the smallest model; needs --out")
    args = parser.parse_args(argv)
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of this process and of all that it starts
    only = args.only.split(",") if args.only else [part for part in PARTS if part != "gpu" or torch.cuda.is_available()]
    if unknown := set(only) - set(PARTS):
        parser.error(f"--only: unknown part {sorted(unknown)[0]!r}; known: {', '.join(PARTS)}")
    if args.quick and not args.out:
        parser.error("--quick needs --out: its numbers are not for speed/results")
    size = known = QUICK if args.quick else FULL
    if args.models:
        if only != ["steps"] or (unknown := set(args.models.split(",")) - set(size.models)):
            parser.error(f"--models: goes with --only steps, and knows {', '.join(size.models)}")
        size = replace(size, models={name: size.models[name] for name in args.models.split(",")})
    torch.set_num_threads(args.threads)
    found = machine.describe(size, args.threads)
    slug = re.sub(r"[^a-z0-9]+", "-", found["name"].lower())
    out = args.out or ROOT / "speed" / "results"
    out = out / f"{slug}.json" if out.is_dir() else out
    results = json.loads(out.read_text()) if out.is_file() else {"runs": {}}
    results["machine"] = found | machine.fastest(found, results.get("machine", found))
    command = shlex.join(["python", "-m", "speed.measure", *(sys.argv[1:] if argv is None else argv)])
    with PlainProcess(args.threads) as plain:
        for part in only:
            start, load = time.perf_counter(), os.getloadavg()[0]
            before = results.get(part, {})
            results[part] = PARTS[part](Setup(size, args.threads, plain, args.seconds, before))
            if part == "steps" and args.models:  # these rows have a date and a commit of their own
                results[part] = [*(row for row in before if row["model"] not in size.models), *results[part]]
                results[part].sort(key=lambda row: [*known.models].index(row["model"]))
                part = f"steps of {args.models}"
            elif part == "steps":
                results["runs"] = {name: run for name, run in results["runs"].items() if not name.startswith("steps of ")}
            results["runs"][part] = {
                "command": command,
                "git": provenance.git(),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.perf_counter() - start, 1),
                "load": [round(load, 1), round(os.getloadavg()[0], 1)],
            }
            write_text(out, json.dumps(results, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
