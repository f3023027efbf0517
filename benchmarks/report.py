"""Write the measured figures into benchmarks/README.md and README.md: `python -m benchmarks.report`.

They come from benchmarks/results/*.json, benchmarks/tried.yaml and results/fast-path/cells.csv; a test holds them to that.
"""

import json
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import yaml
from tabulate import tabulate

from benchmarks import ROOT
from dgd.files import write_bytes
from dgd.read.statistics import difference, mean_interval

FOLDER = ROOT / "benchmarks"
EPOCH = 50_000
SHOWN = (
    ("cifar_resnet20", "kd"),
    ("cifar_resnet32", "dgd"),
    ("cifar_resnet56", "grafting"),
    ("cifar_resnet110", "baseline"),
    ("cifar_mobilenetv2", "dgd"),
    ("resnet18", "kd"),
)
ELSEWHERE = {
    "baseline": 236,
    "kd": 511,
    "at": 483,
    "sp": 432,
    "rkd": 456,
    "dkd": 436,
    "review": 731,
    "hkd-512": 478,
    "hkd-4096": 962,
    "dml": 478,
    "ffsd": 782,
    "self-explanation": 470,
    "self-explanation-10": 1085,
}
"""Milliseconds of a step, the least of ten, in one run of public code, or of a reconstruction where there is none
(self-explanation): float32, one thread of two cores, batch 64, ResNet-20 taught by ResNet-56. Another harness, the same class
of machine."""
WITHOUT_OWN = {"ce", "kd", "smoothing"}
"""Terms that take next to nothing beside networks and teachers."""
GROWTH = ("plan", "collect", "tabulate", "plot", "report")


def number(value: float) -> str:
    """Three significant digits."""
    value = float(f"{value:.3g}")
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(digits, 0)}f}"


def spread(values: Mapping[str, float]) -> str:
    """A median with the smallest and the largest."""
    return f"{number(values['median'])} ({number(values['min'])}–{number(values['max'])})"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{number(100 * share)} %"


def table(rows: Iterable[Mapping[str, object]]) -> str:
    """Rows of one set of columns as a Markdown table."""
    rows = list(rows)
    return tabulate([list(row.values()) for row in rows], list(rows[0]), tablefmt="pipe", disable_numparse=True)


def read(folder: Path) -> tuple[list[dict], list[dict]]:
    """What was measured on each machine, and what `benchmarks.scale` measured."""
    files = {path.name: json.loads(path.read_text()) for path in sorted((folder / "results").glob("*.json"))}
    growth = [found for name, found in files.items() if name.startswith("scale-")]
    return [found for name, found in files.items() if not name.startswith("scale-")], growth


def headline(found: Mapping) -> dict | None:
    """The row that was measured in float32 too."""
    return next((row for row in found.get("steps", ()) if "ours_fp32" in row["seconds"]), None)


def about(found: Mapping) -> str:
    """What was measured on, when, and at which commit."""
    machine = found["machine"]
    rates = machine["matrix_tflops"]
    parts = [machine["cpu"], f"{machine['cores']} cores", machine["cpu_capability"]]
    if gpu := machine["gpu"]:
        parts += [gpu["name"], f"driver {gpu['driver']}", f"CUDA {gpu['cuda']}"]
    parts += [f"{name} {version}" for name, version in machine["packages"].items()]
    parts.append(f"matrix products at {number(rates['fp32'])} (fp32) and {number(rates['bf16'])} (bf16) TFLOP/s")
    parts.append(f"memory copied at {number(machine['bandwidth_gb_s'])} GB/s, read and written")
    measured: dict[str, list[str]] = {}
    for part, run in found["runs"].items():
        measured.setdefault(when(run), []).append(part)
    said = "; ".join(f"{', '.join(names)} {time}" for time, names in measured.items())
    return f"{', '.join(parts)}. Measured: {said}."


def when(run: Mapping) -> str:
    """When a part was measured, and at which commit."""
    git = run["git"]
    return f"on {run['finished'][:10]}" + (f" at {git['commit'][:7]}{' with changes' * git['dirty']}" if git else "")


def say_headline(found: Mapping) -> str:
    """The one row that stands for all."""
    row = headline(found)
    speeds = row["images_per_second"]
    return (
        f"**{row['method']}, {row['teacher']} → {row['model']}, batch {row['batch_size']}: "
        f"{spread(row['speedup']['ours'])} times the plain loop**, {number(speeds['ours']['median'])} images/s against "
        f"{number(speeds['plain']['median'])}, and {percent(row['share_of_limit']['median'])} of the limit. "
        f"With `precision: fp32` it is {spread(row['speedup']['ours_fp32'])} times the plain loop."
    )


def steps_table(found: Mapping) -> str:
    """Every model and method."""
    rows = []
    for row in found["steps"]:
        speeds, cpu = row["images_per_second"], row["cpu_seconds_per_image"]
        rows.append(
            {
                "model": row["model"] + (f" ← {row['teacher']}" if row["teacher"] else ""),
                "method": row["method"],
                "ours / plain": spread(row["speedup"]["ours"]),
                "ours / limit": spread(row["share_of_limit"]),
                **{f"{arm}, images/s": number(speeds[arm]["median"]) for arm in ("plain", "ours", "limit")},
                **{f"{arm}, CPU-ms/image": number(1000 * cpu[arm]["median"]) for arm in ("plain", "ours")},
                "steps × repeats": f"{row['steps']} × {len(row['seconds']['ours'])}",
            }
        )
    return table(rows)


def own_multiple(row: Mapping, rows: Iterable[Mapping], precision: str) -> float:
    """What a method's own terms take for each network, in steps of baseline: what is left of its step without what networks
    take, and their teacher. That is one for a network alone, and in the median of the rows that have no terms of their own
    (kd, dgd, kd-crd) for one that is taught."""
    if row["objective"].keys() <= WITHOUT_OWN:
        return 0.0

    def each(row: Mapping) -> float:
        return row["multiple"][precision]["median"] / row["networks"]

    plain = [each(other) for other in rows if other["teacher"] and other["objective"].keys() <= WITHOUT_OWN]
    return max(0.0, each(row) - (statistics.median(plain) if row["teacher"] else 1.0))


def methods_table(found: Mapping) -> str:
    """Every method's step as a multiple of baseline's."""
    rows = []
    for row in found["methods"]:
        shown = {
            "method": row["method"],
            "networks": row["networks"],
            **{f"x baseline, {precision}": spread(values) for precision, values in row["multiple"].items()},
        }
        least = [row[f"{arm}{row['clock']}"]["fp32"]["min"] for arm in ("", "baseline_")]
        shown["least / least, fp32"] = number(least[0] / least[1])
        elsewhere = None if found["machine"]["gpu"] else ELSEWHERE.get(row["method"])  # it ran on a CPU
        shown["plain, fp32"] = spread(row["plain_multiple"]) if row.get("plain_multiple") else ""
        shown["public code, fp32"] = number(elsewhere / ELSEWHERE["baseline"]) if elsewhere else ""
        for precision in row["multiple"]:
            share = row["networks"] * own_multiple(row, found["methods"], precision) / row["multiple"][precision]["median"]
            shown[f"own share, {precision}"] = percent(share) if row["objective"].keys() - WITHOUT_OWN else ""
        shown |= {f"ms, {precision}": number(1000 * values["median"]) for precision, values in row[row["clock"]].items()}
        shown["public code, ms"] = str(elsewhere or "")
        rows.append(shown)
    return table(rows)


def say_methods(found: Mapping) -> str:
    """What the table of methods is of, and how busy the machine was."""
    rows, run = found["methods"], found["runs"]["methods"]
    taught = next((row["teacher"] for row in rows if row["teacher"]), None)
    unit = {"seconds": "seconds", "cpu_seconds": "CPU-seconds"}[rows[0]["clock"]]
    start, end = run["load"]
    return (
        f"A training step of the whole method, all networks of its group, as a multiple of one of baseline's, in {unit}; "
        f"{rows[0]['model']}{f' ← {taught}' if taught else ''}, batch {rows[0]['batch_size']}, {rows[0]['repeats']} repeats of "
        f"{rows[0]['steps']} steps. The machine's load average was {start} when it started and {end} when it ended."
    )


def step_seconds(row: Mapping) -> float:
    """Our seconds for one step of a row."""
    return row["networks"] * row["batch_size"] / row["images_per_second"]["ours"]["median"]


def say_data(found: Mapping) -> str:
    """The loader's time, and its share of a step of the headline's model."""
    seconds, row = found["data"]["seconds_per_batch"], headline(found)
    shares = [
        f"{percent(seconds['median'] / step_seconds(other))} of a {other['method']} step of {other['model']}"
        for other in found.get("steps", ())
        if row and other["model"] == row["model"] and other["method"] in ("kd", "baseline")
    ]
    taken = {key: 1000 * value for key, value in seconds.items()}
    text = f"A batch of {found['data']['batch_size']} with its augmentation takes {spread(taken)} ms"
    return f"{text}: {' and '.join(shares)}." if shares else f"{text}."


def shares_of_epoch(found: Mapping) -> list[float | None]:
    """For each row of the exchange, its share of our epoch of 50,000 images; None where that model's step was not measured.

    The epoch's time comes from the model's grafting row of as many networks, or of the most there are below.
    """
    shares = []
    for row in found["exchange"]:
        steps = [
            other
            for other in found.get("steps", ())
            if other["model"] == row["model"]
            and other["method"].startswith("grafting")
            and other["networks"] <= row["networks"]
        ]
        if not steps:
            shares.append(None)
            continue
        speed = max(steps, key=lambda other: other["networks"])["images_per_second"]["ours"]["median"]
        shares.append(row["seconds"]["ours"]["median"] / (row["networks"] * EPOCH / speed))
    return shares


def exchange_table(found: Mapping) -> str:
    """Every model and number of networks."""
    return table(
        {
            "model": row["model"],
            "networks": row["networks"],
            "ours / plain": spread(row["speedup"]),
            "plain, s": number(row["seconds"]["plain"]["median"]),
            "ours, ms": number(1000 * row["seconds"]["ours"]["median"]),
            "share of an epoch": "" if share is None else percent(share),
        }
        for row, share in zip(found["exchange"], shares_of_epoch(found))
    )


def say_exchange(found: Mapping) -> str:
    """The least favourable rows of the exchange."""
    slowest = min(row["speedup"]["median"] for row in found["exchange"])
    known = [share for share in shares_of_epoch(found) if share is not None]
    networks = sorted({row["networks"] for row in found["exchange"]})
    among = f"{networks[0]} to {networks[-1]}" if len(networks) > 1 else networks[0]
    text = (
        f"An exchange among {among} networks is at least {number(slowest)} times as fast as plain loops over filters and bins"
    )
    return text + (f", and takes at most {percent(max(known))} of an epoch of {EPOCH:,} images." if known else ".")


def say_overhead(found: Mapping) -> str:
    """Start-up, and the harness's cost a cell."""
    row = found["overhead"]
    return (
        f"The first training step starts {spread(row['seconds_to_first_step'])} s after the `snakemake` command; "
        f"the harness takes {spread(row['seconds_per_cell'])} s a cell beside its epochs, most of it to start Python and torch."
    )


def say_accuracy(cells: pd.DataFrame) -> str:
    """Whether the fast path changes accuracy: kd against kd-plain of config/fast-path.yaml."""
    top1 = {method: rows["top1_last"].tolist() for method, rows in cells.query("network == 0").groupby("method")}
    said = {method: "{:.2f} ± {:.2f} %".format(*mean_interval(values)[:2]) for method, values in top1.items()}
    gap, low, high, _ = difference(top1["kd"], top1["kd-plain"])
    pair = cells.query("method == 'kd'").iloc[0]
    return (
        f"Accuracy, kd {pair.teacher} → {pair.student} on a part of {pair.dataset}, {len(top1['kd'])} seeds each "
        f"(config/fast-path.yaml): {said['kd']} with the fast path, {said['kd-plain']} with the plain arithmetic; the "
        f"difference is {gap:+.2f} points, 95 % interval [{low:+.2f}, {high:+.2f}]."
    )


def memory_table(found: Mapping) -> str:
    """Peak memory of a cell, measured and estimated before it started."""
    return table(
        {
            "model": row["model"],
            "method": row["method"],
            "networks": row["networks"],
            "measured, MiB": number(row["measured_mib"]),
            "estimated, MiB": number(row["estimated_mib"]),
            "estimated / measured": number(row["estimated_mib"] / row["measured_mib"]),
        }
        for row in found["memory"]
    )


def machine_section(found: Mapping) -> list[str]:
    """All of one machine, for benchmarks/README.md."""
    parts = [f"## {found['machine']['name']}", about(found)]
    if "steps" in found:
        parts += ["### A training step", *([say_headline(found)] if headline(found) else []), steps_table(found)]
    if "methods" in found:
        parts += ["### Methods", say_methods(found), methods_table(found)]
    if "data" in found:
        parts += ["### Data", say_data(found)]
    if "exchange" in found:
        parts += ["### Exchange", say_exchange(found), exchange_table(found)]
    if "overhead" in found:
        parts += ["### Around the training", say_overhead(found)]
    if "memory" in found:
        parts += ["### Memory", memory_table(found)]
    return parts


def results(machines: Sequence[Mapping], growth: Sequence[Mapping], tried: Sequence[Mapping]) -> str:
    """What stands in benchmarks/README.md."""
    parts = [part for found in machines for part in machine_section(found)] or ["Nothing was measured yet: `make benchmark`."]
    for found in growth:
        rows = [
            {"cells": f"{row['cells']:,}"} | {f"{step}, s": number(row[f"{step}_seconds"]) for step in GROWTH}
            for row in found["scale"]
        ]
        where = f"{found['machine']['cpu']}, {found['machine']['cores']} cores"
        commit = f"{found['git']['commit'][:7]}{' and uncommitted changes' * found['git']['dirty']}"
        parts += [f"## Growth with the number of cells: {where}", f"{found['finished'][:10]}, commit {commit}.", table(rows)]
    if tried:
        parts += ["## What was tried", table({key: row[key] for key in ("what", "figure", "verdict")} for row in tried)]
    return "\n\n".join(parts)


def speed(machines: Sequence[Mapping]) -> str:
    """What stands in README.md: a short table and a few sentences a machine."""
    parts = []
    for found in machines:
        rows = {(row["model"], row["method"]): row for row in found.get("steps", ())}
        shown = [rows[key] for key in SHOWN if key in rows]
        if shown:
            parts.append(f"**{found['machine']['name']}**, batch {shown[0]['batch_size']}, images of 32x32:")
            parts.append(
                table(
                    {
                        "model": row["model"] + (f" ← {row['teacher']}" if row["teacher"] else ""),
                        "method": row["method"],
                        "plain loop, images/s": number(row["images_per_second"]["plain"]["median"]),
                        "ours, images/s": number(row["images_per_second"]["ours"]["median"]),
                        "ratio": number(row["speedup"]["ours"]["median"]),
                    }
                    for row in shown
                )
            )
        sentences = {"data": say_data, "exchange": say_exchange, "overhead": say_overhead}
        parts.append(" ".join(say(found) for part, say in sentences.items() if part in found))
    return "\n\n".join(filter(None, parts)) or "Nothing was measured yet: `make benchmark`."


def between(text: str, name: str, content: str) -> str:
    """The text with what stands between the marks of that name replaced; as it is where there are none."""
    start, end = f"<!-- {name}: written by `python -m benchmarks.report` -->", f"<!-- end of {name} -->"
    before, mark, rest = text.partition(start)
    return f"{before}{start}\n\n{content}\n\n{end}{rest.partition(end)[2]}" if mark else text


def render() -> dict[Path, str]:
    """The two files as they should be."""
    machines, growth = read(FOLDER)
    tried = yaml.safe_load((FOLDER / "tried.yaml").read_text())
    same = say_accuracy(pd.read_csv(ROOT / "results" / "fast-path" / "cells.csv"))
    pages = {
        FOLDER / "README.md": ("results", same + "\n\n" + results(machines, growth, tried)),
        ROOT / "README.md": ("speed", speed(machines) + "\n\n" + same),
    }
    return {path: between(path.read_text(), *place) for path, place in pages.items()}


def main() -> None:
    """Write the two files."""
    for path, text in render().items():
        write_bytes(path, text.encode())


if __name__ == "__main__":
    sys.exit(main())
