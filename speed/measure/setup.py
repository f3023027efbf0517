"""Say what is measured, how often and how long: `FULL`, and `QUICK`, which only shows that everything runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dgd import methods
from speed.images import BATCH
from speed.plain_process import PlainProcess

METHODS = {
    "baseline": ("baseline", 1),
    "kd": ("kd", 1),
    "grafting": ("grafting", 2),
    "grafting-4": ("grafting", 4),
    "dgd": ("dgd", 2),
}
"""The rows of a model's training steps: a method of the library and the number of networks."""
VARIANTS = {
    "hkd-512": {"base": "hkd", "objective": {"ce": 1.0, "hkd": {"weight": 3.0, "negatives": 512}}},
    "hkd-4096": {"base": "hkd", "objective": {"ce": 1.0, "hkd": {"weight": 3.0, "negatives": 4096}}},
    "dml-turns": {"base": "dml", "objective": {"ce": 1.0, "mutual": {"weight": 1.0, "batches": "turns"}}},
    "dml-own": {"base": "dml", "objective": {"ce": 1.0, "mutual": {"weight": 1.0, "batches": "own", "reduce": "sum"}}},
    "self-explanation-10": {
        "base": "self-explanation",
        "objective": {"ce": 1.0, "explanation": {"weight": 1.0, "classes": 10}},
    },
}
"""Rows whose options change what a step takes: times of them were measured elsewhere, or config/zoo.yaml trains them."""


@dataclass(frozen=True)
class Gpu:
    """How much is measured of each row of `gpu`.

    Attributes:
        models: Student -> teacher, the most important first.
        methods: Rows of `METHODS`.
        batch_size: Images of a step.
        steps: Steps of an epoch whose steps are replayed: those of 50,000 images, because what is done once in an epoch counts.
        eager_steps: Steps of an epoch whose steps are launched one by one, and of the limit's.
        plain_steps: Steps of a repeat of the plain loop.
        together: Cells side by side.
        epochs: Epochs that these train in a repeat.
        repeats: Repeats of everything.
        warm_up: Seconds that the plain loop trains before it is timed, but at least one step.
    """

    models: Mapping[str, str]
    methods: Sequence[str]
    batch_size: int
    steps: int
    eager_steps: int
    plain_steps: int
    together: int
    epochs: int
    repeats: int
    warm_up: float


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        models: Student -> teacher of the training steps.
        methods: Rows of `METHODS` that each model's steps are timed with.
        images: Number of images of the plain loop's data set.
        warm_up: Seconds that the plain loop trains before it is timed, but at least one step.
        seconds: What a repeat of the plain loop should last; it is at least two steps.
        repeats: Repeats of a row.
        headline: The row that is measured with `headline_steps` and `headline_repeats`, and in float32 as well.
        headline_steps: Steps of a repeat of it, at least.
        headline_repeats: Repeats of it.
        rows: Methods of the library, or of `VARIANTS`, whose step is timed as a multiple of baseline's; the headline's model.
        row_steps: Steps of a repeat of these; on CUDA 25 times as many, or the work at an epoch's end would show.
        row_repeats: Repeats of these.
        arithmetic: Model, side of its images, batch and `adapt_stem` of the networks that run in each precision and layout.
        arithmetic_repeats: Repeats of these.
        exchange: Models whose exchange is timed.
        groups: Numbers of networks that it is timed with.
        memory: Model, method and number of networks of the groups whose memory is measured.
        matrix: Side of the matrices that are multiplied; four times that on CUDA.
        copied: Bytes of the block that is copied; four times that on CUDA.
        runs: Runs of a small benchmark by the `snakemake` command.
        seeds: Cells of that benchmark.
        gpu: The rows of a GPU.
    """

    models: Mapping[str, str]
    methods: Sequence[str]
    images: int
    warm_up: float
    seconds: float
    repeats: int
    headline: tuple[str, str]
    headline_steps: int
    headline_repeats: int
    rows: Sequence[str]
    row_steps: int
    row_repeats: int
    arithmetic: Sequence[tuple[str, int, int, bool]]
    arithmetic_repeats: int
    exchange: Sequence[str]
    groups: Sequence[int]
    memory: Sequence[tuple[str, str, int]]
    matrix: int
    copied: int
    runs: int
    seeds: int
    gpu: Gpu


@dataclass(frozen=True)
class Setup:
    """What every measurement is given.

    Attributes:
        size: How much is measured.
        threads: CPU threads of torch, in each process.
        plain: The plain code, in its process.
        seconds: When these are over, the part `gpu` begins no further row.
        before: What the part found before, by the file that it is written to.
    """

    size: Size
    threads: int
    plain: PlainProcess
    seconds: float = math.inf
    before: Mapping | Sequence = field(default_factory=dict)


FULL = Size(
    models={
        "cifar_resnet20": "cifar_resnet56",
        "cifar_resnet32": "cifar_resnet56",
        "cifar_resnet56": "cifar_resnet110",
        "cifar_resnet110": "cifar_resnet56",
        "cifar_mobilenetv2": "cifar_resnet56",
        "mobilenetv3_small_100": "cifar_resnet56",
        "resnet18": "cifar_resnet56",
    },
    methods=tuple(METHODS),
    images=50_000,
    warm_up=1.0,
    seconds=1.5,
    repeats=3,
    headline=("cifar_resnet20", "kd"),
    headline_steps=20,
    headline_repeats=5,
    rows=(*methods.METHODS, *VARIANTS),
    row_steps=2,
    row_repeats=9,
    arithmetic=(
        *((name, 32, BATCH, False) for name in ("cifar_resnet20", "cifar_vgg16_bn", "cifar_mobilenetv2", "crd_shufflenetv1")),
        *((name, 32, BATCH, False) for name in ("crd_shufflenetv2", "crd_mobilenetv2_half")),
        *((name, 32, BATCH, True) for name in ("resnet18", "convnext_atto", "mobilenetv1_100", "rexnet_100")),
        *((name, 32, BATCH, True) for name in ("mobilenetv2_100", "efficientnet_b0", "mobilenetv3_small_100")),
        *((name, 224, 4, False) for name in ("resnet18", "convnext_atto", "mobilenetv1_100", "mobilenetv2_100")),
        *((name, 224, 4, False) for name in ("efficientnet_b0", "mobilenetv3_small_100")),
    ),
    arithmetic_repeats=5,
    exchange=("cifar_resnet20", "cifar_resnet56", "cifar_resnet110", "cifar_mobilenetv2"),
    groups=(2, 4, 8),
    memory=(
        *(("cifar_resnet20", "baseline" if n == 1 else "grafting", n) for n in (1, 2, 4, 8)),
        ("cifar_resnet56", "dgd", 2),
        ("cifar_resnet110", "baseline", 1),
        ("cifar_mobilenetv2", "dgd", 2),
        ("resnet18", "baseline", 1),
        ("resnet18", "grafting", 4),
    ),
    matrix=2048,
    copied=1 << 28,
    runs=3,
    seeds=4,
    gpu=Gpu(
        models={
            "cifar_resnet32": "cifar_resnet56",
            "cifar_resnet56": "cifar_resnet110",
            "cifar_mobilenetv2": "cifar_resnet110",
            "cifar_resnet20": "cifar_resnet56",
            "cifar_resnet110": "cifar_resnet110",
            "resnet18": "cifar_resnet110",
        },
        methods=("baseline", "kd", "grafting", "dgd"),
        batch_size=128,
        steps=390,
        eager_steps=50,
        plain_steps=25,
        together=5,
        epochs=2,
        repeats=3,
        warm_up=1.0,
    ),
)
QUICK = Size(
    models={"cifar_resnet8": "cifar_resnet8"},
    methods=("kd", "grafting"),
    images=4 * BATCH,
    warm_up=0.0,
    seconds=0.0,
    repeats=1,
    headline=("cifar_resnet8", "kd"),
    headline_steps=2,
    headline_repeats=2,
    rows=("baseline", "kd", "crd", "dml-turns", "ffsd", "repr"),
    row_steps=1,
    row_repeats=1,
    arithmetic=(("cifar_resnet8", 32, 2, False),),
    arithmetic_repeats=1,
    exchange=("cifar_resnet8",),
    groups=(2,),
    memory=(("cifar_resnet8", "grafting", 2),),
    matrix=256,
    copied=1 << 20,
    runs=1,
    seeds=1,
    gpu=Gpu(
        models={"cifar_resnet8": "cifar_resnet8"},
        methods=("baseline", "dgd"),
        batch_size=16,
        steps=2,
        eager_steps=2,
        plain_steps=1,
        together=2,
        epochs=2,
        repeats=1,
        warm_up=0.0,
    ),
)
