"""Models by name: the CIFAR networks of the papers and two for sounds, registered with timm, and every other model of timm.

Importing this package imports its files that use timm's `@register_model`, and so registers `cifar_resnet8/14/20/32/44/56/110`,
`cifar_resnet8/20/32/56/110_leaky`, `cifar_mobilenetv2`, `cifar_vgg16_bn`, `cifar_wrn28_10`, `cifar_wrn10_1`, the 22 networks
`crd_*` of the CRD benchmark (docs/models.md), and `audio_resnet8/20`. `gan_generator`, `gan_discriminator`, `ratio_mlp3` and
`ratio_mlp5` make training images. A new file needs no entry here. Weights are never downloaded.
"""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import timm
import torch
from timm.layers import ClassifierHead
from timm.models import get_pretrained_cfg
from timm.models.vgg import VGG
from torch import nn

from dgd.keys import nearest
from dgd.models.nested import nest

__all__ = [
    "CannotBuild",
    "constants",
    "create",
    "example",
    "feature_width",
    "is_known",
    "nesting_problem",
    "options_problem",
    "registered",
    "suggest",
    "takes",
]

for _path in sorted(Path(__file__).parent.glob("*.py")):
    if "\n@register_model\n" in _path.read_text(encoding="utf-8"):
        import_module(f"{__name__}.{_path.stem}")

# Names in timm's models of the modules that reduce the resolution between the stem's convolution and the first stage.
STEM_POOLS = ("maxpool", "stem.pad", "stem.pool", "features.pool0", "features.conv1_pool")
SET = ("num_classes", "in_chans", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "features_only")
"""Options of timm's models that are not a user's: data, task and `create` decide them."""


class CannotBuild(ValueError):
    """An error for a model that cannot be built for the images that are asked for; the message says why."""


def registered(pattern: str | Sequence[str] = "") -> list[str]:
    """Return the names that timm knows, ours included; `pattern` has wildcards as in a shell."""
    return timm.list_models(pattern)


def is_known(name: str) -> bool:
    """Return whether `create` knows the name: a model registered with timm, without a tag of pretrained weights."""
    return name in timm.list_models()


def suggest(name: str) -> str:
    """Return a one-line message that says why a name is unknown and suggests known ones."""
    plain = str(name).split(".")[0]
    if plain != name and is_known(plain):
        return f"unknown model {name!r}: a tag names pretrained weights, which are never loaded; write {plain!r}"
    close = difflib.get_close_matches(str(name), timm.list_models(), n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() and `dgd-bench list` give the names"
    return f"unknown model {name!r}: {hint}"


def create(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    image_size: int = 32,
    adapt_stem: bool = False,
    options: Mapping | None = None,
) -> nn.Module:
    """Build a model with fresh weights, drawn from torch's global generator alone, and try it on one image.

    Models of a fixed image size (ViT, Swin, Mixer, ...) are built for `image_size`. `adapt_stem` removes what only images of
    ImageNet's size need:

    * a convolutional stem keeps the image's resolution: stride 1, no pooling after it; a kernel that is even (the
      patches of ConvNeXt) or 7 and larger becomes 3x3 with padding 1. Only the first convolution changes, so a stem
      with a second strided convolution still halves the image. `feature_info` is updated;
    * a model of a fixed image size gets patches of about an eighth of the image, the nearest size that tiles it:
      4 pixels for 32 and 28, 1 for 8. Where several convolutions make its patches (LeViT, CoAtNet, Visformer), the first one
      keeps the resolution as above, and the model is built for the size at which the rest sees as many pixels;
    * a VGG loses the two wide layers before its classifier, as is usual for CIFAR. Otherwise 120 of vgg11_bn's 129 million
      parameters would process a 7x7 map that timm upsamples from a 1x1 one.

    A stem that keeps the resolution already is left unchanged.

    Args:
        name: A name of `timm.list_models()`.
        num_classes: Width of the classifier.
        in_chans: Channels of an image.
        image_size: Height and width of an image in pixels.
        adapt_stem: Turn an ImageNet stem into one for small images.
        options: Options of the model itself, such as `drop_path_rate`, which come before those that are chosen here.

    Raises:
        ValueError: The name is unknown, or the model has no such option.
        CannotBuild: The model cannot be built for such images or run on them, or its stem cannot be adapted.
    """
    if not is_known(name):
        raise ValueError(suggest(name))
    arguments = dict(options or {})
    if arguments and (problem := options_problem(name, arguments)):
        raise ValueError(f"model {name!r}: {problem}")
    cfg = get_pretrained_cfg(name)
    fixed_size = cfg is not None and cfg.fixed_input_size
    convolutional = not fixed_size  # its stem is adapted by its convolutions
    shape = {"num_classes": num_classes, "in_chans": in_chans}
    try:
        if fixed_size:
            arguments = {"img_size": image_size} | arguments
        if fixed_size and adapt_stem:
            patches = {"patch_size": _patch_size(image_size)} | arguments
            stride = _stem_stride(name, shape, patches)
            convolutional = stride > 0
            arguments = arguments | {"img_size": image_size * stride} if convolutional else patches
        elif adapt_stem and name in timm.list_models(module="vgg"):
            arguments = {"mlp_ratio": 1 / 4096} | arguments  # one feature, not 4096: the layer is replaced below
        model = timm.create_model(name, **shape, **arguments)
        if adapt_stem and convolutional:
            _adapt_stem(model, in_chans)
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", None) if fixed_size else None
        if isinstance(patch, tuple) and image_size % patch[0]:
            raise ValueError(f"patches of {patch[0]} pixels would leave some out; adapt_stem takes a size that fits")
        _try(model, num_classes, in_chans, image_size)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        how = f"adapt_stem={adapt_stem}" + (f", patch_size={arguments['patch_size']}" if "patch_size" in arguments else "")
        raise CannotBuild(
            f"model {name!r} does not work on {in_chans}x{image_size}x{image_size} images ({how}): {reason}"
        ) from error
    return model


def options_problem(name: str, options: Mapping) -> str:
    """Return what is wrong with options of a model, by its own signature; "" if nothing is."""
    if kept := sorted(options.keys() & set(SET)):
        return f"the option {kept[0]!r} is decided by the data and the task; leave it out"
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            timm.create_model(name, **options)
    except Exception as error:  # only a name that is refused is a mistake of every size and data set
        odd = [key for key in options if f"'{key}'" in str(error)] if isinstance(error, TypeError) else []
        return f"{name} has no option {odd[0]!r}{_known_options(name, odd[0])}" if odd else ""
    return ""


def _known_options(name: str, odd: str) -> str:
    """End a message about an option that a model does not take: the nearest that its class has."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        known = inspect.signature(type(timm.create_model(name))).parameters
    return "; its name fixes it" if odd in known else nearest(odd, [key for key in known if key not in SET])


def _stem_stride(name: str, shape: Mapping, patches: Mapping) -> int:
    """Return the stride of the convolution that a model of fixed size reads the image by; 0 if it can be built with patches.

    Args:
        name: The model.
        shape: Its classes and channels.
        patches: Its arguments with the patches that are wanted.

    Raises:
        ValueError: Neither its patches can be chosen nor does a convolutional stem make them.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        try:
            timm.create_model(name, **shape, **patches)
            return 0
        except Exception:  # each model refuses in its own way
            given = {key: value for key, value in patches.items() if key not in ("img_size", "patch_size")}
            first = _first_convs(timm.create_model(name, **shape, **given), shape["in_chans"])[0]
    if first.kernel_size[0] <= first.stride[0] > 1:
        raise ValueError("its patch size cannot be chosen; leave adapt_stem out")
    return first.stride[0]


def constants(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the images that a model's published weights were trained on, by timm."""
    cfg = get_pretrained_cfg(name)
    return tuple(cfg.mean), tuple(cfg.std)


def takes(network: nn.Module, input: str = "image") -> str:
    """Return the name of the input that a network takes: the given one, unless it says otherwise."""
    return getattr(network, "takes", input)


def example(network: nn.Module, images: int, in_chans: int, image_size: int) -> torch.Tensor:
    """Return an input of zeros for a network: images, unless it makes its own example."""
    made = getattr(network, "example", None)
    return made(images) if made else torch.zeros(images, in_chans, image_size, image_size)


@lru_cache(None)
def nesting_problem(full: str, name: str, image_size: int, adapt_stem: bool) -> str:
    """Return why a network cannot be a sub-net of another (`dgd.models.nested`); "" if it can."""
    shape = {"num_classes": 10, "image_size": image_size, "adapt_stem": adapt_stem}
    try:
        with torch.device("meta"):
            nest(create(full, **shape), {name: create(name, **shape)})
    except ValueError as error:
        return str(error)
    return ""


@lru_cache(None)
def feature_width(name: str, in_chans: int, image_size: int, adapt_stem: bool) -> int:
    """Return the width of a network's pooled features, which its classifier takes."""
    with torch.device("meta"):
        network = create(name, num_classes=2, in_chans=in_chans, image_size=image_size, adapt_stem=adapt_stem)
    return network.get_classifier().in_features


def _patch_size(image_size: int) -> int:
    """Return the divisor of the image size that is nearest to an eighth of it."""
    divisors = [size for size in range(1, image_size + 1) if image_size % size == 0]
    return min(divisors, key=lambda size: abs(size - image_size / 8))


def _adapt_stem(model: nn.Module, in_chans: int) -> None:
    """Make the stem keep the image's resolution, in place; see `create`."""
    removed = 1
    for conv in _first_convs(model, in_chans):
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        removed = stride
        conv.stride = (1, 1)
        if stride > 1 and (kernel >= 7 or kernel % 2 == 0):
            _make_3x3(conv, patches=kernel == stride)
    modules = dict(model.named_modules())
    for path in STEM_POOLS if removed > 1 else ():  # a stem without stride has no pooling of its own (VGG)
        if path in modules and not isinstance(modules[path], nn.Identity):
            pads = path.endswith("pad")
            stride = getattr(modules[path], "stride", 1 if pads else 2)
            stride = stride[0] if isinstance(stride, tuple) else stride
            if stride == 1 and not pads:  # a branch of the stem, beside convolutions (PP-HGNetV2)
                continue
            removed *= stride
            model.set_submodule(path, nn.Identity())
    if isinstance(getattr(model, "feature_info", None), list):
        for row in model.feature_info:
            row["reduction"] = max(1, row["reduction"] // removed)
    if isinstance(model, VGG):
        model.pre_logits = nn.Identity()
        model.head = ClassifierHead(model.num_features, model.num_classes, pool_type="avg", drop_rate=model.drop_rate)
        model.head_hidden_size = model.num_features
        nn.init.normal_(model.head.fc.weight, std=0.01)  # timm's rule for the layer that this one replaces
        nn.init.zeros_(model.head.fc.bias)


def _first_convs(model: nn.Module, in_chans: int) -> list[nn.Conv2d]:
    """Return the convolutions that read the image: those timm names (several for parallel branches), else the first one.

    Raises:
        ValueError: There is none, or what it reads is not the image.
    """
    names = model.pretrained_cfg.get("first_conv") or ()
    modules = dict(model.named_modules())
    named = [modules.get(name) for name in ([names] if isinstance(names, str) else names)]
    convs = [module for module in named if isinstance(module, nn.Conv2d)]
    convs = convs or [module for module in modules.values() if isinstance(module, nn.Conv2d)][:1]
    if not convs:
        raise ValueError("it has no convolution to adapt; leave adapt_stem out")
    if takes(model) == "image" and convs[0].in_channels != in_chans:
        raise ValueError(
            f"its first convolution reads {convs[0].in_channels} channels: pixels are moved into channels before it, which "
            "adapt_stem cannot change; leave adapt_stem out"
        )
    return convs


def _make_3x3(conv: nn.Conv2d, *, patches: bool) -> None:
    """Turn a convolution into a fresh 3x3 one, in place, with ConvNeXt's initialisation for patches, else ResNet's."""
    if hasattr(conv, "scale"):  # timm's scaled weight standardisation keeps a factor of the old kernel's size
        raise ValueError(f"its stem is a {type(conv).__name__}, which cannot change its kernel; leave adapt_stem out")
    conv.kernel_size, conv.padding = (3, 3), (1, 1)
    conv.weight = nn.Parameter(conv.weight.new_empty(*conv.weight.shape[:2], 3, 3))
    if patches:
        nn.init.trunc_normal_(conv.weight, std=0.02)
    else:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _try(model: nn.Module, num_classes: int, in_chans: int, image_size: int) -> None:
    """Run the model on one image, in evaluation mode and with a forked random generator, so that no state changes."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        logits = model.eval()(example(model, 1, in_chans, image_size))
    model.train()
    wanted = (1, *getattr(model, "makes", (num_classes,)))
    if tuple(getattr(logits, "shape", ())) != wanted:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"its output is {found} and should be {wanted}")
