"""Say what a benchmark cost: seconds, images a second, hours of processors and of GPUs, memory."""

import numpy as np
import pandas as pd

from dgd.read.report.found import Benchmark, Found
from dgd.read.table import PAIR, Table, number, pair

COLUMNS = ("dataset", "student", "teacher", "method", "n", "seconds", "seconds_min", "seconds_max", "images_per_second")
COLUMNS += ("peak_memory_mib", "core_hours", "gpu_hours", "device")

HEADERS = ("data set", PAIR, "method", "seconds", "images/s", "peak memory, MiB", "core-hours", "GPU-hours", "device", "n")

FOOTNOTES = (
    "Seconds: of one training with its evaluations, the median over finished seeds [least, most]; images/s: of training alone, "
    "every network of a group counted, the median. Both are of the machine that stands beside them, which may have done other "
    "work too.",
    "Core-hours: seconds × threads, and GPU-hours: seconds × GPUs of all finished seeds together, where they had one. Cells "
    "that failed are not counted, nor is what a benchmark took over from another one trained twice.",
)


def cost_table(benchmark: Benchmark) -> Table:
    """Return what each method cost, a row for each data set, student, teacher and method with a finished cell."""
    groups: dict[tuple, list[Found]] = {}
    for found in benchmark.cells.values():
        cell = found.cell
        if found.finished:
            groups.setdefault((cell.slug, cell.student, cell.teacher if cell.taught else "", cell.method), []).append(found)
    rows = [dict(zip(COLUMNS, (*key, *_cost(cells)), strict=True)) for key, cells in groups.items()]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    text = pd.DataFrame([_text(row) for row in frame.itertuples()], columns=list(HEADERS))
    return Table(frame, text, FOOTNOTES)


def hours(benchmark: Benchmark) -> tuple[float, float]:
    """Return the core-hours and the GPU-hours of all finished cells."""
    done = [found for found in benchmark.cells.values() if found.finished]
    return sum(map(_core_hours, done)), sum(map(_gpu_hours, done))


def _core_hours(found: Found) -> float:
    return found.seconds * found.provenance["machine"]["threads"] / 3600


def _gpu_hours(found: Found) -> float:
    return found.seconds * found.cell.processes / 3600 if found.gpu else 0.0


def _cost(cells: list[Found]) -> tuple:
    seconds = [found.seconds for found in cells]
    timings = [found.metrics["timings"] for found in cells]

    def median(name: str) -> float:
        values = [timing[name] for timing in timings if timing.get(name)]
        return float(np.median(values)) if values else float("nan")

    devices = dict.fromkeys(found.gpu or found.provenance["machine"]["cpu"] for found in cells)
    return (
        *(len(cells), float(np.median(seconds)), min(seconds), max(seconds)),
        *(median("images_per_second"), median("peak_memory_mib")),
        *(sum(map(_core_hours, cells)), sum(map(_gpu_hours, cells)), ", ".join(devices)),
    )


def _text(row) -> dict[str, str]:
    several = f" [{row.seconds_min:,.0f}, {row.seconds_max:,.0f}]" if row.n > 1 else ""
    values = (
        *(row.dataset, pair(row.student, row.teacher), row.method, f"{row.seconds:,.0f}{several}"),
        *(number(row.images_per_second, ",.0f", "–"), number(row.peak_memory_mib, ",.0f", "–"), f"{row.core_hours:.2f}"),
        *(f"{row.gpu_hours:.2f}" if row.gpu_hours else "–", row.device, str(row.n)),
    )
    return dict(zip(HEADERS, values, strict=True))
