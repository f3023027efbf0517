"""Conditions in which a cell departs from a published number: typed values, put into words last."""

import math
from pathlib import Path

import pytest
from made_up import cell_of

from dgd.read.cells import conditions
from dgd.read.departures import PUBLISHED, Departure, departures, milestones, render, together
from dgd.read.papers import read_papers

PAPERS = read_papers([Path(__file__).parent.parent / "papers" / f"{name}.yaml" for name in ("dgd", "filter-grafting")])
TRAINED = conditions(cell_of(recipe={"epochs": 200, "precision": "fp32"})) | {"student": "cifar_resnet56"}


def said(cell: dict, **published) -> str:
    """Return in words how a cell that was trained for 200 epochs departs from 200 published ones."""
    wanted = {key: value if isinstance(value, tuple) else (value,) for key, value in published.items()}
    return render(departures(TRAINED | cell, {"epochs": (200,), "schedule": ("slr",)} | wanted))


@pytest.mark.parametrize(
    ("cell", "published", "expected"),
    [
        # Milestones of both are one whole.
        ({"milestones": "150/180/210"}, {"milestones": ((150, 180, 210),)}, PUBLISHED),
        ({"milestones": [150, 180, 210]}, {"milestones": ((150, 180, 210),)}, PUBLISHED),
        ({"milestones": "150/180"}, {"milestones": ((150, 180, 210),)}, "milestones 150/180"),
        ({"milestones": "150"}, {"milestones": ((150, 180, 210),)}, "milestones 150"),
        ({"milestones": 150.0}, {"milestones": ((150,),)}, PUBLISHED),  # what pandas makes of a column of one epoch each
        # Of two kinds: at the same epochs or not.
        ({"milestones": "60/120/180"}, {"step_epochs": 60}, PUBLISHED),
        ({"milestones": "60/120"}, {"step_epochs": 60}, "milestones 60/120"),
        ({"milestones": "60/120/180", "step_epochs": 30}, {"step_epochs": 60}, PUBLISHED),  # its step does not count
        ({}, {"milestones": ((60, 120, 180),)}, PUBLISHED),
        ({"milestones": math.nan, "step_epochs": 50}, {"milestones": ((150, 180),)}, "milestones 50/100/150"),
        ({"step_epochs": 300}, {"milestones": ((150, 180),)}, "milestones none"),
        ({"step_epochs": None}, {"milestones": ((150, 180),)}, "milestones not recorded"),
        ({"step_epochs": None, "milestones": "150/180"}, {"milestones": ((150, 180),)}, PUBLISHED),
        ({"step_epochs": 30}, {"step_epochs": 60}, "step epochs 30"),
        ({"schedule": "cosine"}, {"milestones": ((150, 180),), "schedule": "cosine"}, PUBLISHED),  # has no steps
        ({"milestones": "150/180"}, {}, PUBLISHED),  # nothing to compare it with
        ({}, {"nesterov": False}, PUBLISHED),
        ({"nesterov": True}, {"nesterov": True}, PUBLISHED),
        ({"nesterov": True}, {"nesterov": False}, "with Nesterov momentum"),
        ({}, {"nesterov": True}, "without Nesterov momentum"),
        ({"nesterov": True}, {}, PUBLISHED),
        ({"nesterov": None}, {"nesterov": False}, "Nesterov momentum not recorded"),
        # Of several that may be, any.
        ({"batch_size": 256.0}, {"batch_size": (128, 256)}, PUBLISHED),
        ({"batch_size": 64}, {"batch_size": (128, 256)}, "batch 64"),
        ({"batch_size": 64.0}, {"batch_size": (128, 256)}, "batch 64"),  # as pandas reads a column with an empty field
        ({"epochs": 300}, {}, "300 epochs"),
        ({"epochs": math.nan}, {}, "epochs not recorded"),
        ({"epochs": 20}, {}, "20 of 200 epochs"),
        ({"epochs": 20}, {"epochs": (200, 300)}, "20 epochs"),
        ({"lr": math.nan}, {"lr": 0.1}, "lr not recorded"),
        ({}, {"precision": "fp32"}, PUBLISHED),
        ({"precision": "bf16"}, {"precision": "fp32"}, "precision bf16"),
        ({"train_images": math.nan}, {"train_images": None}, PUBLISHED),
        ({"train_images": 5000.0}, {"train_images": None}, "5,000 training images"),
        ({"train_images": None}, {"train_images": 5000}, "all training images"),
        ({}, {"validation_images": 0}, PUBLISHED),
        ({"validation_images": 1000}, {"validation_images": 0}, "1,000 images held out for validation"),
        ({"validation_images": math.nan}, {"validation_images": 0}, "validation images not recorded"),
        ({}, {"network": "cifar_resnet56"}, PUBLISHED),
        ({}, {"network": "crd_resnet56"}, "network cifar_resnet56, published with crd_resnet56"),
        ({}, {"copied_from": "the DML paper"}, "the published number is that of the DML paper"),
        ({}, {"counts": "conv3"}, "the published number counts conv3 filters only"),
        ({"lr": 0.05, "precision": "bf16"}, {"lr": 0.1, "precision": "fp32"}, "lr 0.05, precision bf16"),
    ],
)
def test_a_departure_in_words(cell, published, expected):
    assert said(cell, **published) == expected


def test_departures_are_typed():
    found = departures(
        TRAINED | {"batch_size": 64, "milestones": "5/7"}, {"batch_size": (128, 256), "milestones": ((9,),)}, "baseline"
    )
    assert found == (
        Departure("batch_size", 64, (128, 256), "baseline"),
        Departure("milestones", (5, 7), (9,), "baseline"),
    )
    assert departures(TRAINED, {"batch_size": (128, 256)}) == ()
    assert render(()) == PUBLISHED == "as published"


def test_drops_of_the_rate_are_compared_as_far_as_they_were_published():
    assert departures(TRAINED, {"milestones": ((60, 120, 180),)}) == ()  # the cell's own length says when it drops
    both = {"epochs": (200,), "milestones": ((150, 180),), "step_epochs": (60,)}
    assert departures(TRAINED | {"milestones": "150/180"}, both) == ()
    assert departures(TRAINED, both) == (Departure("milestones", (60, 120, 180), (150, 180)),)
    # A step without a length names no epochs.
    assert departures(TRAINED | {"milestones": "60/120"}, {"step_epochs": (60,)}) == ()
    several = {"epochs": (200, 100), "step_epochs": (60, 30)}
    for drops in ("60/120/180", "60", "30/60/90", "30/60/90/120/150/180"):
        assert departures(TRAINED | {"milestones": drops}, several) == (), drops
    assert departures(TRAINED | {"milestones": "30/60"}, several) != ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", ()), (math.nan, ()), (150.0, (150,)), ("150.0", (150,)), ("150/180", (150, 180)), ([150, 180], (150, 180)), ((), ())],
)
def test_milestones_of_a_list_or_of_the_text_of_a_field(value, expected):
    assert milestones(value) == expected


def test_what_a_baseline_shares_with_the_method_is_said_once():
    own, base = Departure("lr", 0.05, 0.1), Departure("lr", 0.05, 0.1, "baseline")
    other, taught = Departure("lr", 0.02, 0.1, "teacher"), Departure("epochs", 9, 200, "teacher")
    assert together([own, base, own, other, taught]) == (own, other, taught)
    assert together([base, base]) == (base,)
    assert render([own, other, taught]) == "lr 0.05, teacher: lr 0.02, teacher: 9 of 200 epochs"


def test_the_schedule_that_a_method_is_published_with():
    (dlr,) = PAPERS[PAPERS["id"] == "fg-dlr-c100-r32-grafting-dlr"]["conditions"]
    (slr,) = PAPERS[PAPERS["id"] == "dgd-t8-c100-r32-grafting"]["conditions"]
    constants = '{"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}'
    cell = TRAINED | {"schedule": "dlr", "student": "cifar_resnet32", "dataset": "cifar100", "normalise": constants}
    assert departures(cell, dlr.own) == ()
    assert departures(cell | {"step_epochs": 30}, dlr.own) == ()  # a cosine has no steps
    assert departures(cell | {"schedule": "slr"}, dlr.own) == (Departure("schedule", "slr", "dlr"),)
    assert departures(cell, slr.own) == (Departure("schedule", "dlr", "slr"),)
    # The baseline that it is held against has the paper's own schedule.
    assert departures(cell | {"schedule": "slr"}, dlr.baseline) == ()
    assert render(departures(cell | {"epochs": 300}, dlr.own)) == "300 epochs"
