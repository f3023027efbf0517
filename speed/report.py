"""Write the measured figures into speed/README.md: `python -m speed.report`.

They come from speed/results/*.json, speed/trial.yaml, speed/tried.yaml and results/fast-path/cells.csv; a test holds the page
to that.
"""

import sys
from collections.abc import Mapping, Sequence

import pandas as pd

from dgd import yaml_files
from dgd.files import write_text
from dgd.precision import MOST, auto
from dgd.precision import rows as strided_rows
from dgd.read.statistics import difference, mean_interval
from speed import ROOT
from speed.format import number, percent, spread, table
from speed.measured import (
    EPOCH,
    PUBLIC_CODE_MS,
    WITHOUT_OWN,
    headline,
    own_multiple,
    read,
    read_trial,
    shares_of_epoch,
    step_seconds,
)

PAGE = ROOT / "speed" / "README.md"
SHOWN = (
    ("cifar_resnet20", "kd"),
    ("cifar_resnet32", "dgd"),
    ("cifar_resnet56", "grafting"),
    ("cifar_resnet110", "baseline"),
    ("cifar_mobilenetv2", "dgd"),
    ("resnet18", "kd"),
)
"""Model and method of the rows of steps that stand in the short table."""
GROWTH = ("plan", "collect", "tabulate", "plot", "report")
"""What `speed.scale` times."""


def machine_text(found: Mapping) -> str:
    """Return what was measured on, when, and at which commit."""
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
        measured.setdefault(run_text(run), []).append(part)
    runs = "; ".join(f"{', '.join(names)} {time}" for time, names in measured.items())
    return f"{', '.join(parts)}. Measured: {runs}."


def run_text(run: Mapping) -> str:
    """Return when a part was measured, and at which commit."""
    git = run["git"]
    return f"on {run['finished'][:10]}" + (f" at {git['commit'][:7]}{' with changes' * git['dirty']}" if git else "")


def headline_text(found: Mapping) -> str:
    """Return a paragraph about the headline's row."""
    row = headline(found)
    speeds = row["images_per_second"]
    return (
        f"**{row['method']}, {row['teacher']} → {row['model']}, batch {row['batch_size']}: "
        f"{spread(row['speedup']['ours'])} times the plain loop**, {number(speeds['ours']['median'])} images/s against "
        f"{number(speeds['plain']['median'])}, and {percent(row['share_of_limit']['median'])} of the limit. "
        f"With `precision: fp32` it is {spread(row['speedup']['ours_fp32'])} times the plain loop."
    )


def steps_table(found: Mapping) -> str:
    """Return the table of training steps: every model and method."""
    rows = []
    for row in found["steps"]:
        speeds, cpu = row["images_per_second"], row["cpu_seconds_per_image"]
        rows.append(
            {
                "model": row["model"] + (f" ← {row['teacher']}" if row["teacher"] else ""),
                "method": row["method"],
                "precision": row["recipe"]["precision"],
                "ours / plain": spread(row["speedup"]["ours"]),
                "ours / limit": spread(row["share_of_limit"]),
                **{f"{arm}, images/s": number(speeds[arm]["median"]) for arm in ("plain", "ours", "limit")},
                **{f"{arm}, CPU-ms/image": number(1000 * cpu[arm]["median"]) for arm in ("plain", "ours")},
                "steps × repeats": f"{row['steps']} × {len(row['seconds']['ours'])}",
            }
        )
    return table(rows)


def arithmetic_table(found: Mapping) -> str:
    """Return the table of networks in each precision and layout, those with the fewest strided rows first, by image size."""
    return table(
        {
            "network": row["model"],
            "images": f"{row['image_size']}x{row['image_size']}, batch {row['batch_size']}",
            "strided rows": number(strided_rows(row["model"])),
            "`auto` is": auto(row["model"]),
            "fp32, ms/image": number(row["plain_ms_per_image"]["median"]),
            **{name: spread(values) for name, values in row["speedup"].items()},
        }
        for row in sorted(found["arithmetic"], key=lambda row: (row["image_size"], strided_rows(row["model"])))
    )


def arithmetic_text(found: Mapping) -> str:
    """Return what the table of arithmetic shows, and how busy the machine was."""
    rows, (start, end) = found["arithmetic"], found["runs"]["arithmetic"]["load"]
    unit = {"seconds": "seconds", "cpu_seconds": "CPU-seconds"}[rows[0]["clock"]]
    return (
        f"Networks forward and backward on one batch: how many times faster than in float32 without channels-last, as the "
        f"plain loop computes, in {unit}; {rows[0]['repeats']} repeats in turn. *Strided rows* are those that depthwise "
        f"convolutions with a stride make, times their kernels' sides, for each 1000 values that all layers make, on images of "
        f"32 pixels: above {number(MOST)} `precision: auto` is `fp32`. The machine's load average was {start} when it started "
        f"and {end} when it ended."
    )


def methods_table(found: Mapping) -> str:
    """Return the table of methods: each one's step as a multiple of baseline's."""
    rows = []
    for row in found["methods"]:
        shown = {
            "method": row["method"],
            "networks": row["networks"],
            **{f"x baseline, {precision}": spread(values) for precision, values in row["multiple"].items()},
        }
        least = [row[f"{arm}{row['clock']}"]["fp32"]["min"] for arm in ("", "baseline_")]
        shown["least / least, fp32"] = number(least[0] / least[1])
        elsewhere = None if found["machine"]["gpu"] else PUBLIC_CODE_MS.get(row["method"])  # it ran on a CPU
        shown["plain, fp32"] = spread(row["plain_multiple"]) if row.get("plain_multiple") else ""
        shown["public code, fp32"] = number(elsewhere / PUBLIC_CODE_MS["baseline"]) if elsewhere else ""
        for precision in row["multiple"]:
            share = row["networks"] * own_multiple(row, found["methods"], precision) / row["multiple"][precision]["median"]
            shown[f"own share, {precision}"] = percent(share) if row["objective"].keys() - WITHOUT_OWN else ""
        shown |= {f"ms, {precision}": number(1000 * values["median"]) for precision, values in row[row["clock"]].items()}
        shown["public code, ms"] = str(elsewhere or "")
        rows.append(shown)
    return table(rows)


def methods_text(found: Mapping) -> str:
    """Return what the table of methods shows, and how busy the machine was."""
    rows, run = found["methods"], found["runs"]["methods"]
    taught = next((row["teacher"] for row in rows if row["teacher"]), None)
    unit = {"seconds": "seconds", "cpu_seconds": "CPU-seconds"}[rows[0]["clock"]]
    start, end = run["load"]
    return (
        f"A training step of the whole method, all networks of its group, as a multiple of one of baseline's, in {unit}; "
        f"{rows[0]['model']}{f' ← {taught}' if taught else ''}, batch {rows[0]['batch_size']}, {rows[0]['repeats']} repeats of "
        f"{rows[0]['steps']} steps. The machine's load average was {start} when it started and {end} when it ended."
    )


def data_text(found: Mapping) -> str:
    """Return a sentence with the loader's time, and its share of a step of the headline's model."""
    seconds, row = found["data"]["seconds_per_batch"], headline(found)
    shares = [
        f"{percent(seconds['median'] / step_seconds(other))} of a {other['method']} step of {other['model']}"
        for other in found.get("steps", ())
        if row and other["model"] == row["model"] and other["method"] in ("kd", "baseline")
    ]
    taken = {key: 1000 * value for key, value in seconds.items()}
    text = f"A batch of {found['data']['batch_size']} with its augmentation takes {spread(taken)} ms"
    return f"{text}: {' and '.join(shares)}." if shares else f"{text}."


def exchange_table(found: Mapping) -> str:
    """Return the table of exchanges: every model and number of networks."""
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


def exchange_text(found: Mapping) -> str:
    """Return a sentence about the least favourable rows of the exchange."""
    slowest = min(row["speedup"]["median"] for row in found["exchange"])
    known = [share for share in shares_of_epoch(found) if share is not None]
    networks = sorted({row["networks"] for row in found["exchange"]})
    among = f"{networks[0]} to {networks[-1]}" if len(networks) > 1 else networks[0]
    text = (
        f"An exchange among {among} networks is at least {number(slowest)} times as fast as plain loops over filters and bins"
    )
    return text + (f", and takes at most {percent(max(known))} of an epoch of {EPOCH:,} images." if known else ".")


def overhead_text(found: Mapping) -> str:
    """Return a sentence with the time to the first step, and what the pipeline adds to each cell."""
    row = found["overhead"]
    return (
        f"The first training step starts {spread(row['seconds_to_first_step'])} s after the `snakemake` command; "
        f"the harness takes {spread(row['seconds_per_cell'])} s a cell beside its epochs, most of it to start Python and torch."
    )


def accuracy_text(cells: pd.DataFrame) -> str:
    """Return whether the fast path changes accuracy: kd against kd-plain of config/fast-path.yaml."""
    top1 = {method: rows["last"].tolist() for method, rows in cells.query("network == 0").groupby("method")}
    means = {method: "{:.2f} ± {:.2f} %".format(*mean_interval(values)[:2]) for method, values in top1.items()}
    gap, low, high, _ = difference(top1["kd"], top1["kd-plain"])
    pair = cells.query("method == 'kd'").iloc[0]
    return (
        f"Accuracy, kd {pair.teacher} → {pair.student} on a part of {pair.dataset}, {len(top1['kd'])} seeds each "
        f"(config/fast-path.yaml): {means['kd']} with the fast path, {means['kd-plain']} with the plain arithmetic; the "
        f"difference is {gap:+.2f} points, 95 % interval [{low:+.2f}, {high:+.2f}]."
    )


def memory_table(found: Mapping) -> str:
    """Return the table of peak memory, measured and estimated before the group started."""
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


ARMS = {
    "plain": "plain",
    "eager": "eager",
    "captured": "replayed",
    "together": "side by side",
    "compiled": "compiled",
    "limit_eager": "limit: host",
    "limit_captured": "limit: kernels",
}
"""What a row of a GPU has -> its column."""


def gpu_table(found: Mapping) -> str:
    """Return the table of a GPU: images/s of each model and method."""
    rows = []
    for row in found["gpu"]["rows"]:
        speeds = row["images_per_second"]
        if not speeds:
            continue
        shown = {
            "model": row["model"] + (f" ← {row['teacher']}" if row.get("teacher") else ""),
            "method": row["method"] + (f", {row['networks']} networks" if row.get("networks", 1) > 1 else ""),
        }
        shown |= {column: spread(speeds[arm]) if arm in speeds else "" for arm, column in ARMS.items()}
        memory = found["machine"]["bandwidth_gb_s"] * 1e9 / row["moved_bytes"] if "moved_bytes" in row else None
        shown["limit: memory"] = number(memory) if memory else ""
        both = "captured" in speeds and "limit_captured" in speeds
        share = speeds["captured"]["median"] / speeds["limit_captured"]["median"] if both else None
        shown["replayed / limit: kernels"] = percent(share) if share else ""
        shown["start, s"] = number(row["start_seconds"]) if "start_seconds" in row else ""
        rows.append(shown)
    return table(rows) if rows else "No row could be measured."


def gpu_text(found: Mapping) -> str:
    """Return what was measured of each row, and what was not."""
    rows = found["gpu"]["rows"]
    whole = next((row for row in rows if "recipe" in row), None)
    notes = []
    if whole:
        steps, recipe = whole["steps"], whole["recipe"]
        notes.append(
            f"Images/s over all networks, batch {whole['batch_size']}, {recipe['precision']}, {whole['repeats']} repeats. "
            f"*Replayed* and *side by side* ({whole['cells']} cells) are epochs of {steps['captured']} steps, *eager* and "
            f"*compiled* of {steps['eager']}. *Start* is from the start of a process to the end of its first epoch, less "
            "what an epoch takes: imports, teachers, data, warm-up and capture."
        )
    for row in rows:
        name, how = f"{row['model']} {row['method']}", row.get("how", {}).get("captured", "")
        notes += [f"{name} ran {how}."] if how.startswith("eager") else []
        notes += [f"{name}, {part}: {error}." for part, error in row["errors"].items()]
    if left := found["gpu"]["left_out"]:
        notes.append(f"Not measured, because the time was over: {'; '.join(left)}.")
    return " ".join(notes)


def trial_section(trial: Mapping) -> list[str]:
    """Return what a trial measured on a GPU outside the project, in parts."""
    about = f"On {trial['date']}, {trial['card']}, {trial['versions']}; {trial['setting']}."
    parts = ["## A trial on a GPU: not this loop", f"**None of these is a figure of the loop that is here.** {about}"]
    for one in trial["tables"]:
        parts += [f"**{one['title']}.** {one['what'].strip()}", table(dict(zip(one["columns"], row)) for row in one["rows"])]
    return parts


def machine_section(found: Mapping) -> list[str]:
    """Return all measurements of one machine, in parts."""
    parts = [f"## {found['machine']['name']}", machine_text(found)]
    if "steps" in found:
        parts += ["### A training step", *([headline_text(found)] if headline(found) else []), steps_table(found)]
        parts += [
            f"The {part} were measured apart, {run_text(run)}: the machine's load average was {run['load'][0]} when they "
            f"started and {run['load'][1]} when they ended."
            for part, run in found["runs"].items()
            if part.startswith("steps of ")
        ]
    if "gpu" in found:
        parts += ["### On the GPU", gpu_text(found), gpu_table(found)]
    if "methods" in found:
        parts += ["### Methods", methods_text(found), methods_table(found)]
    if "arithmetic" in found:
        parts += ["### Arithmetic", arithmetic_text(found), arithmetic_table(found)]
    if "data" in found:
        parts += ["### Data", data_text(found)]
    if "exchange" in found:
        parts += ["### Exchange", exchange_text(found), exchange_table(found)]
    if "overhead" in found:
        parts += ["### Around the training", overhead_text(found)]
    if "memory" in found:
        parts += ["### Memory", memory_table(found)]
    return parts


def measurements_page(
    machines: Sequence[Mapping], growth: Sequence[Mapping], tried: Sequence[Mapping], trial: Mapping | None = None
) -> str:
    """Return all measurements of all machines, what was measured in a trial outside the project, and what was tried."""
    parts = [part for found in machines for part in machine_section(found)] or ["Nothing was measured yet: `make speed`."]
    for found in growth:
        rows = [
            {"cells": f"{row['cells']:,}"} | {f"{step}, s": number(row[f"{step}_seconds"]) for step in GROWTH}
            for row in found["scale"]
        ]
        where = f"{found['machine']['cpu']}, {found['machine']['cores']} cores"
        commit = f"{found['git']['commit'][:7]}{' and uncommitted changes' * found['git']['dirty']}"
        parts += [f"## Growth with the number of cells: {where}", f"{found['finished'][:10]}, commit {commit}.", table(rows)]
    if trial:
        parts += trial_section(trial)
    if tried:
        parts += ["## What was tried", table({key: row[key] for key in ("what", "figure", "verdict")} for row in tried)]
    return "\n\n".join(parts)


def summary_table(found: Mapping) -> str:
    """Return the table of some training steps of one machine, "" where none of them was measured."""
    rows = {(row["model"], row["method"]): row for row in found.get("steps", ())}
    shown = [rows[key] for key in SHOWN if key in rows]
    if not shown:
        return ""
    return table(
        {
            "model": row["model"] + (f" ← {row['teacher']}" if row["teacher"] else ""),
            "method": row["method"],
            "plain loop, images/s": number(row["images_per_second"]["plain"]["median"]),
            "ours, images/s": number(row["images_per_second"]["ours"]["median"]),
            "ratio": number(row["speedup"]["ours"]["median"]),
        }
        for row in shown
    )


def summary(machines: Sequence[Mapping]) -> str:
    """Return the short tables of all machines."""
    tables = [(found["machine"]["name"], summary_table(found)) for found in machines]
    return "\n\n".join(f"**{name}**, images of 32x32:\n\n{text}" for name, text in tables if text)


def between(text: str, name: str, content: str) -> str:
    """Return the text with what stands between the marks of that name replaced; unchanged where there are none."""
    start, end = f"<!-- {name}: written by `python -m speed.report` -->", f"<!-- end of {name} -->"
    before, mark, rest = text.partition(start)
    return f"{before}{start}\n\n{content}\n\n{end}{rest.partition(end)[2]}" if mark else text


def render() -> str:
    """Return speed/README.md as it should be."""
    machines, growth = read()
    tried = yaml_files.read(ROOT / "speed" / "tried.yaml")
    accuracy = accuracy_text(pd.read_csv(ROOT / "results" / "fast-path" / "cells.csv"))
    parts = [summary(machines), accuracy, measurements_page(machines, growth, tried, read_trial())]
    return between(PAGE.read_text(), "results", "\n\n".join(filter(None, parts)))


def main() -> None:
    """Write the page."""
    write_text(PAGE, render())


if __name__ == "__main__":
    sys.exit(main())
