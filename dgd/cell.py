"""What a cell is: dataset x model x method x seed, with every key of its recipe, data, method and exchange defined once.

Nothing here needs torch: a launcher reads configs and plans cells without it. `dgd.config` makes cells of a benchmark's YAML,
`dgd.train` trains them, `dgd.identity` says whether a result is still theirs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from dgd import keys, precision
from dgd.keys import key
from dgd.metrics import METRICS

SCHEDULES = ("slr", "dlr", "difflr", "cosine")
PRECISIONS = ("auto", "bf16", "fp32", "tf32")
DEVICES = ("auto", "cpu", "cuda")
TASKS = METRICS.keys()
IMAGE = "image"  # the input that every data set has
PROTOCOL_NAMES = ("paper", "reference-code")
SUBNET_PARTS = ("own", "shared")
SUBNET_BATCH_NORM = "Whether a sub-net has batch norms of its `own`, or those of the full net, statistics included."
SUBNET_CLASSIFIER = "Whether a sub-net has a classifier of its `own`, or the full net's."
MEAN = "Mean of the images that it was trained on, for each channel in 0..1; where left out, that of timm's `pretrained_cfg`."
STD = "Their standard deviation."
OPTIONS = "Options of the model itself, by its signature in timm, such as `drop_path_rate`."
OUT_INDICES = (
    "Which of the maps that the network gives, from 0, terms read as its stages; where left out, the last of each resolution."
)
LAST_SEED = 2**32 - 1  # the largest that numpy takes
PER_PROCESS = ("device", "threads", "deterministic", "precision")  # keys of the recipe that hold for a whole process


def _rising(value: Any, where: str) -> list[str]:
    """Check that milestones rise: the learning rate steps once at each."""
    return [] if list(value) == sorted(value) else [f"{where} is {list(value)}; epochs must rise"]


def _as_many(value: Any, where: str) -> list[str]:
    """Check that there is a mean and a standard deviation for each channel."""
    mean, std = value["mean"], value["std"]
    if len(mean) == len(std):
        return []
    return [f"{where}.std has {len(std)} numbers and {where}.mean {len(mean)}; give one of each for each channel"]


@dataclass(frozen=True)
class Normalise:
    """The constants that images are normalised by, in units of 0..1: (image - mean) / std."""

    mean: tuple[float, ...] = key(says="Mean of each channel.", least=0, most=1, nonempty=True, repeats=True)
    std: tuple[float, ...] = key(says="Standard deviation of each channel.", above=0, most=1, nonempty=True, repeats=True)


@dataclass(frozen=True)
class Augment:
    """How training images are augmented: padded and cropped to their size, and mirrored left to right half of the time."""

    pad: int | None = key(
        None,
        "Pixels that are added on each side before the crop; 0 does not crop. `null` is the data set's own number "
        "(docs/extending.md).",
        least=0,
    )
    mode: str = key(
        "zeros", "What is added: `zeros`, or the image itself, mirrored at its edge (`reflect`).", choices=("zeros", "reflect")
    )
    flip: bool | None = key(
        None, "Mirror images; false where a mirrored one means something else (letters, signs). `null` is the data set's own."
    )

    def of(self, dataset: str) -> "Augment":
        """Return what this is for a data set: with its own values for those that are `null`, as far as they are known here."""
        pad, flip = OWN_AUGMENTATION.get(dataset.partition(":")[0], (None, None))
        return Augment(pad if self.pad is None else self.pad, self.mode, flip if self.flip is None else self.flip)


OWN_AUGMENTATION: dict[str, tuple[int | None, bool]] = {
    **{"digits": (1, False), "digits-rotation": (1, False), "digits-angle": (1, False), "digits-spoken": (1, False)},
    **{"cifar10": (4, True), "cifar100": (4, True), "fashion_mnist": (4, True), "imagefolder": (None, True)},
}
"""Data set -> the padding of its training images (None: an eighth of their side), and whether they are mirrored. That of a data
set that a plugin adds is not known here."""


@dataclass(frozen=True)
class Recipe:
    """How every network of a cell is trained."""

    epochs: int = key(200, "Passes over the training images.", least=1, condition=True)
    batch_size: int = key(128, "Images of a step.", least=1, condition=True)
    optimiser: str = key(
        "sgd", "`sgd`, or `adam`, which exchanges of weights do not know.", choices=("sgd", "adam"), condition=True
    )
    lr: float = key(0.1, "Learning rate at the start.", above=0, condition=True)
    momentum: float = key(0.9, "Momentum of SGD.", least=0, below=1, condition=True)
    nesterov: bool = key(False, "Use Nesterov's form of momentum.", condition=True)
    beta1: float = key(0.9, "What Adam keeps of its mean of gradients in a step.", least=0, below=1)
    beta2: float = key(0.999, "What Adam keeps of its mean of squared gradients in a step.", least=0, below=1)
    weight_decay: float = key(5e-4, "Weight decay, on every parameter.", least=0, condition=True)
    schedule: str = key(
        "slr",
        "`slr`: same learning rate, steps; `cosine`: same learning rate, cosine; `dlr`: a learning rate for each network, "
        "cosine; `difflr`: a learning rate for each network, steps. Of N networks that differ, number i starts at "
        "lr (1 + cos(pi (N - i) / N)) / 2: the first, reported one has the lowest.",
        choices=SCHEDULES,
        condition=True,
    )
    step_epochs: int = key(60, "Epochs between two steps of the learning rate.", least=1, condition=True)
    milestones: tuple[int, ...] = key(
        (),
        "Epochs at which the learning rate steps, instead of every `step_epochs`; for the schedules `slr` and `difflr`.",
        least=1,
        condition=True,
        check=_rising,
    )
    gamma: float = key(0.1, "Factor of the learning rate at a step.", above=0, condition=True)
    precision: str = key(
        "auto",
        "`auto`: `fp32` for a student that bf16 makes slower, `bf16` for any other, by a written rule (docs/cost.md); a cell "
        "has the one that it is. `bf16`: autocast, weights and batch statistics stay float32; it wants a processor with bf16 "
        "instructions. `fp32`: the papers' arithmetic. `tf32`: as torch rounds convolutions on CUDA by default.",
        choices=PRECISIONS,
        condition=True,
    )
    channels_last: bool = key(True, "Keep images and weights in channels-last memory order.")
    compile: bool = key(
        False,
        "Compile the networks with torch.compile. Methods that read features (`dgd-bench list` says which) run as they are.",
    )
    fused_norm: bool = key(
        False,
        "On CUDA, compute a batch norm, the sum and the ReLU after it of our own CIFAR networks by two Triton kernels forward "
        "and two backward. Results differ by roundings; other networks run as they are.",
    )
    fold_teacher: bool = key(
        True,
        "Fold a teacher's batch norms into its convolutions, cast its weights once and, on a CPU, fuse the blocks of CIFAR "
        "ResNets. Its logits move by rounding only.",
    )
    graphs: bool = key(
        True,
        "On CUDA, capture a training step once as a CUDA graph and replay it, with the same bits; a step that cannot be "
        "captured runs as it is, and metrics.json says why.",
        decides=False,
    )
    ranks_per_network: int = key(
        0,
        "Processes for each network of a cell. 0 trains all networks of a cell in one process; 1 gives each network a process, "
        "and a GPU where there are GPUs; with more, that many share each network's batches (data parallel).",
        least=0,
    )
    deterministic: bool = key(
        True,
        "Same seed, same machine, same bytes. Slower on CUDA, where a few models (timm's `vgg11_bn` with its own head) have no "
        "deterministic backward pass and say so.",
    )
    device: str = key("auto", "`auto` is CUDA where there is a device, else the CPU.", choices=DEVICES, decides=False)
    threads: int = key(
        1, "CPU threads of one cell; `snakemake --cores N` runs N / threads cells at once.", least=1, decides=False
    )
    evaluate_every: int = key(1, "Epochs between two evaluations; the last epoch is always evaluated.", least=1)
    filters_every: int = key(
        10, "Epochs between two records of all filter norms and layer entropies; the last epoch is always recorded.", least=1
    )
    weight_average: str = key(
        "none",
        "Evaluate and save an average of a network's weights over epochs instead of its last ones: `ema` an exponential one, "
        "`swa` the mean. Batch norm's statistics are estimated for it from 50 training batches.",
        choices=("none", "ema", "swa"),
        condition=True,
    )
    average_decay: float = key(0.9, "What `ema` keeps of the average each time.", least=0, below=1)
    average_every: str = key(
        "epoch",
        "The average takes the weights in after every `epoch` or, `ema` only, after every `step`.",
        choices=("epoch", "step"),
    )
    average_from: int = key(1, "First epoch, from 1, that the average takes in.", least=1)
    normalise: Normalise | None = key(
        None,
        "Constants that all images of the input `image` are normalised by, `{mean: [...], std: [...]}` with a number for each "
        "channel, in 0..1; `null` measures them of the training images (a streamed folder's are ImageNet's). A teacher has "
        "those of its cells.",
        condition=True,
        check=_as_many,
        later=True,
    )
    augment: Augment = key(
        Augment(),
        "How training images of the input `image` are augmented, `{pad: ..., mode: ..., flip: ...}`. The `stream` loader crops "
        "at random sizes instead and knows `flip` only.",
        condition=True,
        later=True,
    )


@dataclass(frozen=True)
class Data:
    """Where the data set is and how it is prepared."""

    dir: str = key(
        "data",
        "Folder that holds the archives or the extracted files; prepared data go to `prepared/` in it.",
        decides=False,
        check=keys.folder,
    )
    train_images: int | None = key(
        None,
        "Train on a fixed, stratified part of this many images; `null` takes all. Other inputs than `image` are taken whole.",
        least=1,
        condition=True,
    )
    validation_images: int = key(
        0,
        "Images carved from the training part, stratified, to select an epoch by; 0 makes no split.",
        least=0,
        condition=True,
    )
    image_size: int | None = key(
        None,
        "Side in pixels that a folder's images are brought to; `null` for the other data sets, whose size is fixed.",
        least=1,
    )
    loader: str = key(
        "auto",
        "`memory` holds the images as uint8 on the training device, `stream` reads a folder's files anew each epoch, `auto` is "
        "memory up to 2 GiB.",
        choices=("auto", "memory", "stream"),
    )
    workers: int = key(2, "Processes that read images, for the `stream` loader only.", least=0, decides=False)


@dataclass(frozen=True)
class Generator:
    """The cells that training images are generated by: a conditional GAN and a density ratio, one of each for a data set."""

    network: str = key("gan_generator", "The GAN's generator, a network that takes a latent vector.", names=True)
    discriminator: str = key(
        "gan_discriminator",
        "The GAN's discriminator: any network of images.",
        names=True,
    )
    steps: int = key(1, "Steps of the discriminator for each step of the generator.", least=1)
    ratio: str = key("ratio_mlp5", "Network of the density ratio, on the teacher's features.", names=True)
    seed: int = key(0, "Seed of both cells.", least=0, most=LAST_SEED)
    adversarial: Mapping = key({}, "Options of the term `adversarial`, which the GAN minimises.")
    density: Mapping = key({}, "Options of the term `ratio`, which the density ratio minimises.")
    recipe: Mapping = key({}, "Keys of the recipe that the GAN's cell overrides.", of=Recipe)
    ratio_recipe: Mapping = key({}, "Keys of the recipe that the density ratio's cell overrides.", of=Recipe)


@dataclass(frozen=True)
class Generated:
    """Training images that a generator makes, beside the real ones or instead of them."""

    images: int = key(says="Generated images that are taken.", least=1)
    real: bool = key(True, "The real training images are there too.")
    subsample: bool = key(False, "Take images by rejection sampling with the density ratio.")
    burn_in: int = key(1000, "Images of a label from which rejection takes its first maximum.", least=1)
    filter: float | None = key(
        None,
        "Take images of which the teacher's error is below this quantile, by class, or over all labels that are numbers; "
        "`null` takes all.",
        above=0,
        most=1,
    )
    filter_burn_in: int = key(1000, "Images of a class whose errors give the quantile.", least=2)
    relabel: bool = key(False, "The label is the teacher's prediction instead of the one that an image was made for.")
    labels: int = key(100, "Evenly spaced labels that images are made for, where labels are numbers.", least=2)
    seed: int = key(0, "Seed of the images.", least=0, most=LAST_SEED)


@dataclass(frozen=True)
class TeacherFile:
    """A teacher's weights in a file, in place of a cell that is trained here."""

    path: str = key(says="The file.", decides=False)
    sha256: str = key(says="SHA-256 of its content.")
    mean: tuple[float, ...] = key((), MEAN, repeats=True)
    std: tuple[float, ...] = key((), STD, above=0, repeats=True)


# ------------------------------------------------------------------------------------------------------- exchanges


@dataclass(frozen=True)
class Exchange:
    """What the networks of a group do to their weights at an epoch's end, with every option written out.

    Attributes:
        name: What a config calls it.
        networks: Networks that it takes at least.
        own_time: It says by itself in which epochs it does something.
    """

    name: ClassVar[str]
    networks: ClassVar[int] = 1
    own_time: ClassVar[bool] = False

    every: int = key(1, "Epochs between two exchanges.", least=1, condition=True)
    start: int = key(1, "First epoch, from 1, after which it takes place.", least=1, spelled="from", condition=True)
    until: int | None = key(None, "Last epoch after which it does; `null` is the end.", least=0, condition=True)
    evaluate: str = key(
        "before",
        "Evaluate `before` an exchange, as the published script does (the last epoch's exchange is then left out), or `after` "
        "it.",
        choices=("before", "after"),
        condition=True,
    )


@dataclass(frozen=True)
class Ring(Exchange):
    """An exchange in which each network takes in the weights of the one before it in a ring."""

    networks = 2

    momentum: str = key(
        "keep",
        "The optimiser's momentum at an exchange: `keep` it (as published), `reset` it to zero, or `graft` it with the shares "
        "of its parameters.",
        choices=("keep", "reset", "graft"),
        condition=True,
    )
    batch_norm: str = key(
        "blend",
        "Batch norm's statistics at an exchange: `blend` them as any other tensor, or `reestimate` them from 50 training "
        "batches. The next epoch's training overwrites most of that again: it shows with `evaluate: after`.",
        choices=("blend", "reestimate"),
        condition=True,
    )


@dataclass(frozen=True)
class Graft(Ring):
    """Filter grafting: the neighbour's filters are the source of information."""

    name = "graft"

    a: float = key(0.4, "Amplitude A of the adaptive share; 0 averages.", least=0, most=1, condition=True)
    c: float = key(500.0, "Slope c of the adaptive share, per unit of the criterion.", condition=True)
    criterion: str = key(
        "entropy",
        "What a layer holds: `entropy` of its weights, their `l1` norm, or `bn-gamma`, the sum of |gamma| of the batch norm "
        "after it.",
        choices=("entropy", "l1", "bn-gamma"),
        condition=True,
    )
    level: str = key(
        "layer",
        "One share for each `layer` or for each `filter`. By filter, `protocol: paper` gives a filter and its batch norm "
        "entries that share; `reference-code` does what the published filter-level script does (it wants bn-gamma and ratio), "
        "which leaves the neighbour's batch norm.",
        choices=("layer", "filter"),
        condition=True,
    )
    rule: str = key(
        "arctan",
        "`arctan`: the papers' formula; `ratio`: own / (own + neighbour's), as the published filter-level script.",
        choices=("arctan", "ratio"),
        condition=True,
    )
    share: float | None = key(
        None,
        "A fixed share that a network keeps of itself, instead of an adaptive one (`null`).",
        least=0,
        most=1,
        condition=True,
    )
    # Where the papers' text and the published script differ. Either stands for a published number.
    protocol: str = key(
        "paper",
        "Sets the five keys below where they are not given.",
        choices=PROTOCOL_NAMES,
        filled="the benchmark's protocol",
    )
    layers: str = key(
        "dimension",
        "What has a share of its own: every filter by `dimension` (paper), or every key with 'conv' in its `name` "
        "(reference-code).",
        choices=("dimension", "name"),
        filled="by protocol",
    )
    non_conv: str | float = key(
        "last",
        "The share of all other tensors: that of the `last` convolution before them (both protocols), their `own` from their "
        "own values, `none` (they stay), or a number. `norms`: batch norms have that of the last convolution, and biases, "
        "classifier and counters stay, as in the published script for VGG (with `layers: dimension`).",
        choices=("last", "own", "none", "norms"),
        least=0,
        most=1,
        filled="by protocol",
    )
    include_max: bool = key(
        True, "The largest weight is in the entropy's last bin (paper: true; reference-code: false).", filled="by protocol"
    )
    digits: int | None = key(
        None,
        "Decimals that an adaptive share is rounded to (paper: null, reference-code: 2).",
        least=0,
        most=15,
        filled="by protocol",
    )
    counters: str = key(
        "keep",
        "Batch norm's counters: `keep` (paper) or `blend` and truncate (reference-code).",
        choices=("keep", "blend"),
        filled="by protocol",
    )


@dataclass(frozen=True)
class Average(Ring):
    """Half own, half the neighbour's: grafting with A = 0."""

    name = "average"


@dataclass(frozen=True)
class Swap(Ring):
    """The neighbour's weights, as the released DGD code does."""

    name = "swap"


class Within(Exchange):
    """An exchange that each network makes with itself, at an epoch's end."""


class Surgery(Exchange):
    """A change of single networks that keeps a state between epochs and acts after every step."""


@dataclass(frozen=True)
class OnInvalid(Within):
    """An exchange that changes the invalid filters of a network."""

    gamma: float = key(0.1, "L1 norm below which a filter is invalid.", least=0, condition=True)
    # Where the paper's text and the published script differ. Either stands for a published number.
    protocol: str = key(
        "paper",
        "Sets the keys below where they are not given.",
        choices=PROTOCOL_NAMES,
        filled="the benchmark's protocol",
    )
    layers: str = key(
        "dimension",
        "Whose filters: every weight of `dimension` 4 (paper), or those with 'conv' in their `name` (reference-code), which "
        "leaves shortcuts.",
        choices=("dimension", "name"),
        filled="by protocol",
    )


@dataclass(frozen=True)
class Noise(OnInvalid):
    """Gaussian noise on the filters whose L1 norm is below `gamma`, within each network."""

    name = "noise"

    base: float = key(0.975, "The noise's standard deviation after epoch t is base^(t - 1).", above=0, most=1, condition=True)


@dataclass(frozen=True)
class Internal(OnInvalid):
    """A layer's large filters, added to its filters whose L1 norm is below `gamma`, within each network."""

    name = "internal"

    in_place: bool = key(
        False,
        "Add to one filter after another (reference-code), so that where more than half of a layer's filters are invalid, some "
        "that are added have been added to; otherwise all that are added are as they were (paper).",
        filled="by protocol",
    )


@dataclass(frozen=True)
class RePr(Surgery):
    """Filters that overlap most are dropped for some epochs and come back orthogonal to the others, within each network."""

    name = "repr"
    own_time = True

    share: float = key(0.3, "The share of filters that is dropped.", above=0, below=1, condition=True)
    normal: int = key(20, "Epochs that all filters are trained before some are dropped.", least=1, condition=True)
    pruned: int = key(10, "Epochs without them.", least=1, condition=True)
    cycles: int = key(3, "How often.", least=1, condition=True)
    skip_first: bool = key(True, "The convolution that reads the image keeps its filters.", condition=True)

    @property
    def epochs(self) -> int:
        """Return the number of epochs until all filters are back."""
        return self.cycles * (self.normal + self.pruned)


EXCHANGES: dict[str, type[Exchange]] = {kind.name: kind for kind in (Graft, Average, Swap, Noise, Internal, RePr)}

PROTOCOLS: dict[str, dict[str, Any]] = {
    "paper": {
        **{"layers": "dimension", "non_conv": "last", "include_max": True, "digits": None, "counters": "keep"},
        "in_place": False,
    },
    "reference-code": {
        **{"layers": "name", "non_conv": "last", "include_max": False, "digits": 2, "counters": "blend"},
        "in_place": True,
    },
}
"""Where the papers' text and the published CIFAR script differ in an exchange; each is an option of the exchanges that have
it."""


def exchange_problems(given: Any, where: str, protocol: str = "paper") -> list[str]:
    """Say what is wrong with an exchange of a config: `{name: ..., <option>: ...}`, or null for none.

    Args:
        given: What YAML or JSON holds.
        where: The name of the place, such as `methods.x.exchange`.
        protocol: What the exchange follows where it does not say.
    """
    if given is None:
        return []
    if not isinstance(given, Mapping) or not given:
        return [f"{where} is {keys.short(given)}; write {{name: ..., <option>: ...}}, or null for none"]
    if "name" not in given:
        return [f"{where} has no name; known: {', '.join(EXCHANGES)}"]
    name = given["name"]
    if not isinstance(name, str) or name not in EXCHANGES:
        return [f"{where}.name is {keys.short(name)}; it is no exchange{keys.nearest(name, EXCHANGES)}"]
    kind = EXCHANGES[name]
    options = {option: value for option, value in given.items() if option != "name"}
    if kind.own_time:
        timed = [option for option in keys.specs(Exchange) if options.get(option, value := _default(option)) != value]
        if timed:
            own = [option for option in keys.specs(kind) if option not in keys.specs(Exchange)]
            return [f"{where}.{timed[0]}: {name} keeps its own time: {', '.join(own)}"]
    if lines := keys.problems(kind, options, where):
        return lines
    found = exchange(given, protocol)
    if found.until is not None and found.until < found.start:
        return [f"{where}.until is {found.until}, before from, {found.start}: it would never take place"]
    return [f"{where}.{line}" for line in _together(found)] if isinstance(found, Graft) else []


def _default(option: str) -> Any:
    return keys.specs(Exchange)[option].default


def _together(graft: Graft) -> list[str]:
    """Check options of `graft` that depend on each other."""
    if graft.non_conv == "own" and graft.criterion == "bn-gamma":
        return ["non_conv is 'own', and only filters have the criterion 'bn-gamma'; use another one"]
    if graft.level == "filter" and graft.protocol == "reference-code":
        wanted = {"criterion": "bn-gamma", "rule": "ratio", "share": None}
        return [
            f"{option} is {getattr(graft, option)!r}; the published filter-level script (level: filter, protocol: "
            f"reference-code) knows only {'null' if value is None else value}"
            for option, value in wanted.items()
            if getattr(graft, option) != value
        ][:1]
    return []


def exchange(given: Mapping | Exchange | None, protocol: str = "paper") -> Exchange | None:
    """Return an exchange with every option written out, those of the protocol included; None is none.

    Args:
        given: `{'name': ..., option: ...}` in which `exchange_problems` found nothing wrong, or an `Exchange`.
        protocol: What the exchange follows where it does not say.
    """
    if not given or isinstance(given, Exchange):
        return given or None
    options = {option: value for option, value in given.items() if option != "name"}
    kind = EXCHANGES[given["name"]]
    if "protocol" in (known := keys.specs(kind)):
        protocol = options.get("protocol", protocol)
        filled = {"protocol": protocol, **{name: value for name, value in PROTOCOLS[protocol].items() if name in known}}
        if options.get("level") == "filter":
            filled["layers"] = "dimension"  # the published filter-level script goes by the kind of module, not by name
        options = filled | options
    return keys.build(kind, options)


# ---------------------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Method:
    """A row of the table of methods: how many networks learn together, what each step minimises, what they exchange."""

    objective: Mapping = key(
        {"ce": 1.0},
        "What a step minimises: `term: weight`, or `term: {weight: ..., <option>: ...}` (docs/methods.md has the terms).",
        nonempty=True,
    )
    exchange: Mapping | None = key(
        None,
        "What the networks of a group do to their weights at an epoch's end: `{name: ..., <option>: ...}`.",
    )
    networks: int = key(1, "Networks that learn together; the first one is reported.", least=1, most=1000)
    teachers: int = key(0, "Teachers, finished networks that the terms may look at.", least=0, most=1000)
    subnets: bool = key(False, "The networks contain sub-nets, those of the pair, which learn with them and are reported too.")
    subnet_batch_norm: str = key("own", SUBNET_BATCH_NORM, choices=SUBNET_PARTS)
    subnet_classifier: str = key("shared", SUBNET_CLASSIFIER, choices=SUBNET_PARTS)
    recipe: Mapping = key({}, "Keys of the recipe that this method overrides.", of=Recipe)
    generated: str | None = key(
        None, "Name of the benchmark's `generated` whose images it trains on; `null` is the real ones.", names=True
    )
    baseline: str | None = key(
        None,
        "Row of `methods` that its gain is over, of a network trained alone, such as one with this row's recipe. `null` is "
        "`baseline`; a row that others name has no gain itself.",
        names=True,
    )
    taught_by: str | None = key(
        None,
        "Row of `methods` that its teachers are cells of, of a network trained alone. `null` is `baseline` with the "
        "benchmark's `teacher_recipe`.",
        names=True,
    )


# ------------------------------------------------------------------------------------------------------------ cells


@dataclass(frozen=True)
class Cell:
    """One training: everything that it needs to know, and its labels.

    The labels `benchmark`, `model` and `method` name its folder and decide nothing else.
    """

    benchmark: str = key(says="Name of the benchmark.", decides=False)
    dataset: str = key(says="Data set: `digits`, `cifar10`, ..., or `imagefolder:<path>`.", condition=True)
    model: str = key(says="Name of the model's folder: the student, or `<student>-by-<teacher>`.", decides=False)
    method: str = key(says="Name of the row of methods.", decides=False)
    seed: int = key(says="Seed of all random numbers.", least=0, most=LAST_SEED)
    student: str = key(says="Network that is trained, by its name in timm.", condition=True)
    teacher: str | None = key(None, "Network that it learns from, by its name in timm.", condition=True)
    networks: int = key(1, "Networks that learn together.", least=1, condition=True)
    partners: tuple[str, ...] = key((), "Networks of the last members, which only help to train the others.", names=True)
    partner_steps: int = key(1, "Steps of the partners for each step of the others.", least=1)
    baseline: str = key("baseline", "Name of the row that its gain is over.", decides=False, names=True)
    teachers: tuple[str, ...] = key((), "Paths of the cells that it learns from, below the root of the results.", decides=False)
    subnets: tuple[str, ...] = key((), "Sub-nets that each network contains, by their names in timm.")
    subnet_batch_norm: str = key("own", SUBNET_BATCH_NORM, choices=SUBNET_PARTS)
    subnet_classifier: str = key("shared", SUBNET_CLASSIFIER, choices=SUBNET_PARTS)
    generated: Generated | None = key(None, "Training images that were generated.", condition=True)
    images: str | None = key(None, "Name of the generated images.", decides=False)
    makers: tuple[str, ...] = key((), "Paths of the cells that generated the images.", decides=False)
    objective: Mapping = key({"ce": {"weight": 1.0}}, "Term -> {weight: ..., <option>: ...}.", condition=True)
    exchange: Exchange | None = key(None, "What the networks exchange.", condition=True)
    protocol: str = key("paper", "`paper` or `reference-code`.", choices=PROTOCOL_NAMES, decides=False)
    task: str = key("classification", "What the labels are.", choices=TASKS)
    input: str = key(IMAGE, "Input of the data set that the student takes.")
    teacher_input: str = key(IMAGE, "Input that the teacher takes.")
    adapt_stem: bool = key(False, "Fit an ImageNet stem to small images.")
    options: Mapping = key({}, OPTIONS, later=True)
    out_indices: tuple[int, ...] = key((), OUT_INDICES, later=True)
    teacher_options: Mapping = key({}, "Options of the teacher's model.", later=True)
    teacher_out_indices: tuple[int, ...] = key((), "The same of the teacher.", later=True)
    teacher_file: TeacherFile | None = key(None, "Where the teacher's weights are, if it is no cell.", later=True)
    data: Data = key(Data(), "Where the data set is and how it is prepared.")
    recipe: Recipe = key(Recipe(), "How every network is trained.")
    plugins: tuple[str, ...] = key((), "Plugins that it uses, as the benchmark gives them.", decides=False)

    def __post_init__(self) -> None:
        # One order of the terms, however a config gives them: sums and random draws of a step follow it.
        object.__setattr__(self, "objective", dict(sorted(self.objective.items())))
        # A cell says how it is computed: its identity and its config.yaml never hold `auto`.
        if self.recipe.precision == "auto":
            object.__setattr__(self, "recipe", replace(self.recipe, precision=precision.auto(self.student)))

    @property
    def slug(self) -> str:
        """Return the folder name of the data set."""
        return slug(self.dataset)

    @property
    def paired(self) -> bool:
        """Return whether the teachers take another input than the student, so that each example has a partner."""
        return self.taught > 0 and self.teacher_input != self.input

    @property
    def taught(self) -> int:
        """Return the number of its teachers: cells, or one from a file."""
        return len(self.teachers) or bool(self.teacher_file) + 0

    @property
    def data_slug(self) -> str:
        """Return the name of the folder of its prepared data: of the data set, and of the generated images if there are any."""
        return f"{self.slug}+{self.images}" if self.generated else self.slug

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the paths of all cells that it depends on: its teachers, and those that generated its images."""
        return tuple(dict.fromkeys((*self.teachers, *self.makers)))

    @property
    def evaluated(self) -> int:
        """Return the number of networks that are evaluated and saved: all but the partners."""
        return self.networks - len(self.partners)

    @property
    def path(self) -> str:
        """Return the path of the cell's folder below the root of the results."""
        return f"{self.benchmark}/{self.slug}/{self.model}/{self.method}/seed{self.seed}"

    @property
    def processes(self) -> int:
        """Return the number of processes that the cell is spread over."""
        return self.networks * self.recipe.ranks_per_network or 1

    def plain(self) -> dict:
        """Return the cell as config.yaml holds it; `from_plain` reads it back."""
        found = keys.plain(self)
        if self.exchange:
            found["exchange"] = {"name": self.exchange.name, **found["exchange"]}
        return found | {"path": self.path, "slug": self.slug}

    @classmethod
    def from_plain(cls, given: Mapping) -> "Cell":
        """Return the cell of a config.yaml, also of an older version: what it lacks has its default, which changes nothing.

        Raises:
            ValueError: Something in it cannot be.
        """
        if not isinstance(given, Mapping):
            raise ValueError(f"it holds {keys.short(given)}; it must be a mapping of keys")
        wanted = {name: value for name, value in given.items() if name not in ("path", "slug", "exchange")}
        lines = exchange_problems(given.get("exchange"), "exchange") + keys.problems(cls, wanted)
        if lines and given.get("plugins"):
            lines = [f"{line} (it uses plugins: {keys.short(given['plugins'])}; give them by --plugin)" for line in lines]
        if lines:
            raise ValueError("\n".join(lines))
        return replace(keys.build(cls, wanted), exchange=exchange(given.get("exchange")))


def slug(dataset: str) -> str:
    """Return the folder name of a data set: its name, or `imagefolder-<name of the folder>`."""
    kind, _, path = dataset.partition(":")
    return f"{kind}-" + re.sub(r"[^\w.-]", "-", Path(path).name) if path else kind


def flat(instance: Any, prefix: str = "") -> dict[str, Any]:
    """Return the keys of a kind and of the kinds in it as `recipe.lr` -> value."""
    found: dict[str, Any] = {}
    for f in fields(instance):
        spelled = f.metadata["key"].spelled or f.name
        value = getattr(instance, f.name)
        if isinstance(value, Recipe | Data):
            found |= flat(value, f"{prefix}{spelled}.")
        else:
            found[prefix + spelled] = value
    return found
