"""Draw the figures of a benchmark from its finished cells, as SVG, PDF or PNG with the same bytes every time.

A line is the mean over seeds and its band runs from the lowest seed to the highest; network 0 of a group is shown. What a cell
did not leave (traces, pruning curves) is left out.

A further figure is one module beside these: a function that takes a `Material` and returns {name: figure}, and its line in
`FIGURES`.
"""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from matplotlib.figure import Figure

from dgd.cell import slug
from dgd.read.figures import curves, entropy, norms, overlaps, pruned, sets, shares, sheets, style
from dgd.read.figures.material import Material, Source, gather
from dgd.read.files import read_cells

FIGURES: tuple[Callable[[Material], dict[str, Figure]], ...] = (
    curves.draw,
    norms.draw,
    overlaps.draw,
    entropy.draw,
    sets.draw,
    shares.draw,
    pruned.draw,
    sheets.draw,
)
"""What is drawn of each student, in this order; each returns {name: figure}, empty where its cells left nothing for it."""


def from_cells(
    folder: str | Path,
    out: str | Path,
    only: Collection[str] | None = None,
    processes: int = 1,
    formats: Sequence[str] = ("svg",),
) -> list[Path]:
    """Draw all figures for each data set and model of a benchmark from its finished cells.

    Methods with a teacher share the figures with those of the same student without one. Where a student has several
    teachers (`student-by-teacher` folders), each pair has its own figures.

    Args:
        folder: `results/<benchmark>`; reads metrics.json, config.yaml, history.csv, filters.npz and pruning.csv of its cells,
            network 0, and predictions.npz of generators.
        out: Folder of the figures, `<figure>-<dataset>-<model>`.
        only: Cells to draw, as the column `folder` of cells.csv names them; None draws all that are there.
        processes: Models drawn at once.
        formats: Of `style.FORMATS`.

    Returns:
        The paths written; none if no cell finished.
    """
    cells: dict[tuple[str, str, str], list[Source]] = {}
    for path, metrics in read_cells(folder):
        if metrics["status"] == "finished" and (only is None or path.relative_to(folder).as_posix() in only):
            cell = metrics["cell"]
            source = Source(cell["method"], cell["seed"], path, metrics)
            cells.setdefault((cell["dataset"], cell["student"], cell["model"]), []).append(source)
    jobs = []
    for dataset, student, model in cells:
        pairs = [key for key in cells if key[:2] == (dataset, student) and key[2] != student]
        if model == student and pairs:
            continue  # its cells are drawn with each pair
        alone = cells.get((dataset, student, student), []) if model != student else []
        name, title = f"{slug(dataset)}-{model}", f"{slug(dataset)}, {model.replace('-by-', ' by ')}"
        jobs.append(([*alone, *cells[dataset, student, model]], Path(out), name, title, formats))
    if processes == 1 or len(jobs) < 2:
        written = [_draw_all(*job) for job in jobs]
    else:
        with ProcessPoolExecutor(min(processes, len(jobs))) as pool:
            written = list(pool.map(_draw_all, *zip(*jobs)))
    return [path for paths in written for path in paths]


def _draw_all(sources: list[Source], out: Path, name: str, title: str, formats: Sequence[str]) -> list[Path]:
    """Draw every figure of one student for which its cells left something."""
    material = gather(sources, title)
    return [
        path
        for draw in FIGURES
        for figure, made in draw(material).items()
        for path in style.save(made, out / f"{figure}-{name}", formats)
    ]
