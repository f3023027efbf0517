"""Compare a cell with what a published number was measured under: one typed `Departure` a condition that differs."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import pandas as pd

from dgd import keys
from dgd.cell import Augment, Normalise
from dgd.read import immaterial
from dgd.read.papers import Conditions

PUBLISHED = "as published"
"""What a cell without any departure reads."""

STEPS = ("step_epochs", "milestones", "gamma")
"""Conditions that a schedule without steps does not have."""
STEPLESS = ("dlr", "cosine")

ABSENT = {"train_images": None, "milestones": (), "normalise": None}
"""What an empty field of cells.csv stands for, where it is a value of its own; any other empty field is not recorded."""


@dataclass(frozen=True)
class Departure:
    """One condition in which a cell differs from a published number.

    Attributes:
        key: The condition: a key of the recipe or of the data, `network`, `reported`, `copied_from` or `counts`.
        ours: The cell's value; None where it has none or did not record it.
        theirs: The published one, or the tuple of those that stand for it.
        whose: Whose cell it is: "" the row's own, "baseline" or "teacher".
        shown: What is said of it where data have shown it to be immaterial; see `dgd.read.immaterial`.
        least_gain: The smallest published gain to which it is immaterial.
    """

    key: str
    ours: Any
    theirs: Any
    whose: str = ""
    shown: str = ""
    least_gain: float = math.inf


def departures(row: Mapping, published: Mapping[str, tuple], whose: str = "") -> tuple[Departure, ...]:
    """Return in which conditions a cell departs from a published number; none if it is as published.

    Args:
        row: A row of cells.csv.
        published: Condition -> the values that it may have, as in `dgd.read.papers.Conditions`. A condition that is not there
            is not compared.
        whose: Whose cell `row` is; see `Departure`.
    """
    wanted = dict(published)
    if set(wanted.get("schedule", ())) & set(STEPLESS):
        wanted = {key: allowed for key, allowed in wanted.items() if key not in STEPS}
    if "augment" in wanted:  # as it is for this data set, whichever side leaves it to that
        wanted["augment"] = tuple(one.of(row["dataset"]) for one in wanted["augment"])
    ours = {key: _ours(row, key) for key in (*wanted, *STEPS, "epochs")}
    if "milestones" in wanted or ("step_epochs" in wanted and ours["milestones"]):
        # When the rate drops is compared, in whichever of the two ways a side says it.
        allowed = wanted.pop("milestones", None) or _drops(wanted)
        wanted.pop("step_epochs", None)
        wanted |= {"milestones": allowed} if allowed else {}
        ours["milestones"] = _milestones(ours)
    found = [Departure(key, ours[key], _theirs(allowed), whose) for key, allowed in wanted.items() if ours[key] not in allowed]
    return tuple(found)


def with_evidence(found: Iterable[Departure], row: Mapping) -> tuple[Departure, ...]:
    """Return departures of a cell in its result, a row of cells.csv, with what data have shown of them."""
    return tuple(
        replace(one, **dict(zip(("shown", "least_gain"), immaterial.shown(one.key, one.ours, one.theirs, row))))
        for one in found
    )


def size_counts(found: Iterable[Departure], gain: float) -> bool:
    """Return whether a published gain of this size is held against cells that depart so: in nothing that may change it."""
    return all(abs(gain) >= one.least_gain for one in found)


def of_cells(
    group: pd.DataFrame, base: pd.DataFrame, taught: pd.DataFrame, wanted: Conditions, evidence: bool = False
) -> tuple[Departure, ...]:
    """Return how finished cells depart from a published number.

    Args:
        group: Rows of cells.csv of a method.
        base: Of the baseline that it is held against.
        taught: Of its teacher.
        wanted: What the published number was measured under.
        evidence: The number is a result, of which data may have shown that it does not depend on a condition.
    """

    def found(cells: pd.DataFrame, wanted: Mapping[str, tuple], whose: str) -> list[Departure]:
        first = cells[(cells["status"] == "finished") & (cells["network"] == 0)]
        pairs = [(cell, departures(cell, wanted, whose)) for cell in first.to_dict("records")]
        return [one for cell, own in pairs for one in (with_evidence(own, cell) if evidence else own)]

    return together(
        [*found(group, wanted.own, ""), *found(base, wanted.baseline, "baseline"), *found(taught, wanted.teacher, "teacher")]
    )


def together(found: Iterable[Departure]) -> tuple[Departure, ...]:
    """Return departures once each; a baseline or teacher that departs as the row's own cells do is not named again."""
    found = dict.fromkeys(found)
    own = {(one.key, one.ours, one.theirs) for one in found if not one.whose}
    return tuple(one for one in found if not one.whose or (one.key, one.ours, one.theirs) not in own)


def render(found: Iterable[Departure]) -> str:
    """Return departures in words, `PUBLISHED` where there is none."""
    parts = [(f"{one.whose}: " if one.whose else "") + _words(one) + (f" ({one.shown})" if one.shown else "") for one in found]
    return ", ".join(dict.fromkeys(parts)) or PUBLISHED


def _ours(row: Mapping, key: str) -> Any:
    """Return the value that a row of cells.csv has for a condition; None where it has none."""
    if key == "reported":  # a teacher's weights are those of its last epoch
        return "last"
    value = row.get("student" if key == "network" else key)
    if key == "augment":
        return _kind(Augment, "{}" if value is None or pd.isna(value) else value).of(row["dataset"])
    if value is None or (not isinstance(value, tuple | list) and pd.isna(value)):
        return ABSENT.get(key)
    if key == "normalise":
        return _kind(Normalise, value)
    return milestones(value) if key == "milestones" else value


def _kind(kind: type, text: str) -> Any:
    """Return the kind of a condition that cells.csv holds as JSON."""
    return keys.build(kind, json.loads(text))


def milestones(value: Any) -> tuple[int, ...]:
    """Return the epochs of a list, or of cells.csv's text, of which pandas makes a number where all cells name one epoch."""
    if isinstance(value, list | tuple):
        return tuple(value)
    return () if value == "" or pd.isna(value) else tuple(int(float(epoch)) for epoch in str(value).split("/"))


def _milestones(ours: Mapping) -> tuple[int, ...] | None:
    """Return the epochs after which a cell's rate dropped; None where it does not say."""
    if ours["milestones"]:
        return ours["milestones"]
    step, epochs = ours["step_epochs"], ours["epochs"]
    return tuple(range(int(step), int(epochs), int(step))) if step and epochs else None


def _drops(wanted: Mapping[str, tuple]) -> tuple:
    """Return the epochs after which the published rate dropped, for each length and step that it may have."""
    lengths, steps = (wanted.get(key, ()) for key in ("epochs", "step_epochs"))
    return tuple(tuple(range(step, epochs, step)) for epochs in lengths for step in steps)


def _theirs(allowed: tuple) -> Any:
    return allowed[0] if len(allowed) == 1 else allowed


def _words(one: Departure) -> str:
    """Return one departure in words, without whose it is."""
    if one.key in WORDS:
        return WORDS[one.key](one.ours, one.theirs)
    name = NAMES.get(one.key, one.key.replace("_", " "))
    if one.ours is None:
        return f"{name} not recorded"
    return f"{name} {one.ours:g}" if isinstance(one.ours, Real) else f"{name} {one.ours}"


def _epochs(ours: float | None, theirs: Any) -> str:
    if ours is None:
        return "epochs not recorded"
    shorter = not isinstance(theirs, tuple) and ours < theirs
    return f"{ours:.0f}" + (f" of {theirs}" if shorter else "") + " epochs"


def _nesterov(ours: bool | None, theirs: Any) -> str:
    if ours is None:
        return "Nesterov momentum not recorded"
    return f"{'with' if ours else 'without'} Nesterov momentum"


def _steps(ours: tuple | None, theirs: Any) -> str:
    return "milestones not recorded" if ours is None else "milestones " + ("/".join(map(str, ours)) or "none")


def _training(ours: float | None, theirs: Any) -> str:
    return "all training images" if ours is None else f"{ours:,.0f} training images"


def _validation(ours: float | None, theirs: Any) -> str:
    return "validation images not recorded" if ours is None else f"{ours:,.0f} images held out for validation"


def _normalised(ours: Normalise | None, theirs: Any) -> str:
    if ours is None:
        return "images normalised by the mean and deviation of the data set itself"
    mean, std = ("/".join(f"{value:.4g}" for value in values) for values in (ours.mean, ours.std))
    return f"images normalised by mean {mean} and deviation {std}"


def _augmented(ours: Augment, theirs: Any) -> str:
    pad = "padding not recorded" if ours.pad is None else f"{ours.pad} pixels of {MODES[ours.mode]}" if ours.pad else "no crop"
    flip = "flips not recorded" if ours.flip is None else "flips" if ours.flip else "no flips"
    return f"augmentation: {pad}, {flip}"


MODES = {"zeros": "zeros", "reflect": "reflection"}
NAMES = {"batch_size": "batch"}
WORDS = {
    "epochs": _epochs,
    "nesterov": _nesterov,
    "milestones": _steps,
    "train_images": _training,
    "validation_images": _validation,
    "normalise": _normalised,
    "augment": _augmented,
    "network": lambda ours, theirs: f"network {ours}, published with {theirs}",
    "reported": lambda ours, theirs: f"{ours} epoch, published with the {theirs}",
    "copied_from": lambda ours, theirs: f"the published number is that of {theirs}",
    "counts": lambda ours, theirs: f"the published number counts {theirs} filters only",
    "epoch": lambda ours, theirs: f"epoch {ours} stands for {theirs}",
}
