"""Make the generated table: how the training images of a benchmark were generated and chosen, and how a teacher judges them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from dgd import json_files
from dgd.json_files import Null, Value
from dgd.read.files import AGAIN, as_written, read_config
from dgd.read.table import NOT_RUN, Table, number

COLUMNS = (
    *("dataset", "images", "generated", "real", "subsample", "filter", "relabel", "accepted", "filter_kept"),
    *("cutoff_low", "cutoff_high", "teacher_agreement", "teacher_error", "feature_distance", "cells", "failed"),
)

HEADERS = ["data set", "images", "number", "beside real ones", "rejection accepts", "filter keeps", "cut-off of the loss"]
HEADERS += ["label", "teacher agrees", "teacher's error", "feature distance", "trained on by"]

_SHARE = Value(float | None, least=0, most=1)
MADE = {
    **{"accepted?": _SHARE, "filter_kept?": _SHARE, "teacher_agreement?": Value(float | None, least=0, most=100)},
    **{"teacher_error?": Value(float | None, least=0), "feature_distance?": Value(float | None)},
    "cutoffs?": Null([Value(float)]),
}
"""The form of what is read here of a provenance.json."""

FOOTNOTES = (
    "Images that a conditional GAN generated, chosen by the steps that a row names. Rejection accepts: share of the drawn "
    "images that rejection sampling by the density ratio accepts. Filter keeps: share of the images seen by the filter whose "
    "loss under the teacher is below the cut-off, which is set for each class, or once for all labels that are numbers.",
    "Teacher agrees: images in percent for which the teacher predicts the label that they were made for. Teacher's error: root "
    "mean square difference of its prediction and that label. Feature distance: squared Fréchet distance between our own "
    "teacher's pooled features of these images and of the real test images. It is no FID; rows of one teacher compare.",
)


def generated_table(cells: pd.DataFrame, folder: str | Path) -> Table:
    """Return a row for each set of generated images that cells of a benchmark train on.

    Args:
        cells: From `dgd.read.cells.collect`, or its CSV.
        folder: `results/<benchmark>`; reads config.yaml and provenance.json of a cell for each set.

    Raises:
        ValueError: A file is damaged.
    """
    rows: list[dict[str, Any]] = []
    cells = cells if "generated" in cells else cells.assign(generated=None)  # of an older version
    there = cells[cells["generated"].notna() & (cells["network"] == 0) & cells["folder"].notna() & (cells["folder"] != "")]
    for (dataset, given), group in there.groupby(["dataset", "generated"], sort=False):
        options, first = json.loads(given), Path(folder) / group["folder"].iloc[0]
        provenance = first / "provenance.json"
        record = json_files.read(as_written(provenance), AGAIN)
        for line in json_files.problems(record, {"generated?": Null(MADE)}):
            raise ValueError(f"{provenance}: {line}; {AGAIN}")
        made = record.get("generated") or {}
        cutoffs = made.get("cutoffs") or (None, None)
        if len(cutoffs) != 2:
            raise ValueError(f"{provenance}: generated.cutoffs has {len(cutoffs)} numbers, not 2; {AGAIN}")
        low, high = cutoffs
        row = {"dataset": dataset, "images": read_config(first / "config.yaml").images, "generated": options["images"]}
        row |= {name: options[name] for name in ("real", "subsample", "filter", "relabel")}
        row |= {name: made.get(name) for name in COLUMNS if name in made} | {"cutoff_low": low, "cutoff_high": high}
        rows.append(row | {"cells": len(group), "failed": ", ".join(sorted({*group["status"]} - {"finished"}))})
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    text = pd.DataFrame([_text(row) for row in frame.to_dict("records")], columns=HEADERS)
    return Table(frame, text, FOOTNOTES)


def _text(row: dict[str, Any]) -> dict[str, str]:
    """Return the readable form of one row."""

    def share(value) -> str:
        return "–" if pd.isna(value) else f"{100 * value:.1f} %"

    low, high = row["cutoff_low"], row["cutoff_high"]
    cutoff = "–" if pd.isna(low) else f"{low:.3g}" + (f" to {high:.3g}" if high != low else "")
    values = (
        *(row["dataset"], row["images"], f"{row['generated']:,}", "yes" if row["real"] else "no"),
        *(share(row["accepted"]), share(row["filter_kept"])),
        *(cutoff, "the teacher's" if row["relabel"] else "the intended"),
        *(number(row["teacher_agreement"], ".1f", "–"), number(row["teacher_error"], ".3f", "–")),
        *(
            number(row["feature_distance"], ".3g", NOT_RUN),
            f"{row['cells']} cells" + (f" ({row['failed']})" * bool(row["failed"])),
        ),
    )
    return dict(zip(HEADERS, values, strict=True))
