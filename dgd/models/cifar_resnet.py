"""CIFAR ResNets of He et al. 2015 (arXiv 1512.03385, section 4.2), and the base class of all CIFAR networks here."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from dgd.models.fused_norm import norm_act

__all__ = ["CifarNet", "CifarResNet"]


def cifar_cfg() -> dict:
    """Return timm's description of a CIFAR network: no weights to download, 32x32 images, CIFAR-10 mean and deviation."""
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
        "first_conv": "conv1",
        "classifier": "linear",
        "license": "apache-2.0",
    }


class CifarNet(nn.Module):
    """A base class that gives a stem, stages, a tail and a linear classifier the interface of timm's models.

    A subclass sets `conv1`, `bn1` and `act1` (or defines its own `stem`), `feature_info` and `num_features`, defines
    `stages` and `drop_stages`, then calls `reset_classifier`. Activations are modules and never in place, so a hook on a
    batch norm or a block's last activation sees the values before the activation. Images may have any size of which the
    strides leave at least one pixel.

    Tap 0 of `forward_intermediates` is the stem's output, tap k the output of stage k, both after their activation
    where they have one.
    """

    def __init__(self, in_chans: int, drop_rate: float, global_pool: str) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.drop = nn.Dropout(drop_rate)
        self._pool_type = global_pool

    def stages(self) -> Sequence[nn.Module]:
        """Return the stages in the order in which they run, one for each row of `feature_info` after the stem's."""
        raise NotImplementedError

    def drop_stages(self, keep: int) -> None:
        """Remove the stages after the first `keep`."""
        raise NotImplementedError

    def tail(self, x: Tensor) -> Tensor:
        """Apply what is between the last stage and the classifier head: nothing, unless a subclass overrides this."""
        return x

    def drop_tail(self) -> None:
        """Remove the tail."""

    def init_layer(self, layer: nn.Module) -> None:
        """Initialise one layer: as PyTorch has done already, unless a subclass overrides this."""

    def stem(self, x: Tensor) -> Tensor:
        """Return the stem's activations of images (n, in_chans, h, w)."""
        return norm_act(self.bn1, self.conv1(x), self.act1)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (n, num_features, h', w') of images (n, in_chans, h, w)."""
        x = self.stem(x)
        for stage in self.stages():
            x = stage(x)
        return self.tail(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (n, num_classes), or pooled features (n, head_hidden_size), of the last feature map."""
        x = self.drop(self.global_pool(x))
        return x if pre_logits else self.linear(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of images (n, in_chans, h, w)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return features and intermediate features from one pass, with the interface of timm's models.

        Args:
            x: Images (n, in_chans, h, w).
            indices: Taps to return: all if None, the last n if an integer, else those listed (negative from the end).
            norm: Without effect, because there is no final norm.
            stop_early: Stop at the last requested tap; the features are then that tap.
            output_fmt: Only "NCHW".
            intermediates_only: Return the taps only, without running the tail.

        Raises:
            ValueError: `output_fmt` is not "NCHW".
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', not {output_fmt!r}")
        take, last = feature_take_indices(len(self.feature_info), indices)
        stages = self.stages()
        stages_run = min(last, len(stages)) if stop_early else len(stages)
        x = self.stem(x)
        taps = [x] if 0 in take else []
        for number, stage in enumerate(stages[:stages_run], start=1):
            x = stage(x)
            if number in take:
                taps.append(x)
        if intermediates_only:
            return taps
        return (self.tail(x) if stages_run == len(self.feature_info) - 1 else x), taps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the taps `indices` do not need; return their numbers, counted from the stem."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        cut = last < len(self.feature_info) - 1
        if cut:
            self.drop_stages(last)
        if cut or prune_norm:
            self.drop_tail()
            self.num_features = self.feature_info[last]["num_chs"]
        if cut or prune_norm or prune_head:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        """Return the linear classifier."""
        return self.linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, by none if `num_classes` is 0; `global_pool` None keeps the pooling."""
        self._pool_type = self._pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool, linear = create_classifier(self.num_features, num_classes, pool_type=self._pool_type)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        linear.apply(self.init_layer)
        self.linear = linear.to(next(self.parameters()))  # the model may have been moved since it was built

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuse checkpointing, because a second forward pass would update batch norm's statistics twice."""
        if enable:
            raise NotImplementedError(f"{type(self).__name__} has no gradient checkpointing")

    def group_matcher(self, coarse: bool = False) -> dict:
        """Return timm's groups for layer-wise learning rates: the stem, then the blocks."""
        return {"stem": r"^(conv1|bn1)\.", "blocks": r"^layer(\d+)" if coarse else r"^layers?(\d*)\.(\d+)"}


class PadShortcut(nn.Module):
    """A shortcut of option A, without parameters: every second row and column, and zero channels on both sides."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c, h, w) to (n, c + new_channels, ceil(h / 2), ceil(w / 2))."""
        # A pooling over one pixel gives the same values as x[:, :, ::2, ::2], and its gradient keeps the layout of x.
        return F.pad(F.avg_pool2d(x, 1, 2), (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """A block of two 3x3 convolutions and a shortcut; the last activation follows the sum."""

    def __init__(self, in_channels: int, channels: int, stride: int, act_layer: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = act_layer()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity() if stride == 1 else PadShortcut(channels - in_channels)
        self.act2 = act_layer()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, channels, ceil(h / stride), ceil(w / stride))."""
        out = norm_act(self.bn1, self.conv1(x), self.act1)
        return norm_act(self.bn2, self.conv2(out), self.act2, residual=self.shortcut(x))

    def fused(self) -> nn.Module:
        """Return the block in fused form, for inference on a CPU.

        A block whose batch norms are not folded, or whose activations are not ReLU, is returned as it is.
        """
        folded = isinstance(self.bn1, nn.Identity) and isinstance(self.bn2, nn.Identity)
        plain = type(self.act1) is nn.ReLU and type(self.act2) is nn.ReLU
        return FusedBlock(self) if folded and plain else self


class FusedBlock(nn.Module):
    """A folded `BasicBlock` whose activations and sum are computed inside its convolutions, by oneDNN.

    The operators are those that torch's compiler emits for such a block. They are not part of torch's public interface, so
    `dgd.models.folding.freeze` tries them and keeps the unfused block if they fail.
    """

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1, self.conv2, self.shortcut = block.conv1, block.conv2, block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Compute the same as `BasicBlock.forward`."""
        x = x.to(self.conv1.weight.dtype)
        out = torch.ops.mkldnn._convolution_pointwise(x, *_arguments(self.conv1), "relu", [], "")
        return torch.ops.mkldnn._convolution_pointwise.binary(
            out, self.shortcut(x), *_arguments(self.conv2), "add", 1.0, "relu", [], ""
        )


def _arguments(conv: nn.Conv2d) -> tuple:
    return conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups


class CifarResNet(CifarNet):
    """A CIFAR ResNet of depth 6n + 2: a 3x3 stem and three stages of n blocks with 16, 32 and 64 channels.

    Convolutions and the classifier are initialised by `kaiming_normal_` (fan in, gain sqrt 2) for every activation, as in the
    reference code of filter grafting (arXiv 2001.05868); the classifier's bias is PyTorch's. That code's rule 'conv' in key
    matches every convolution's weight, and nothing else.

    Args:
        depth: 6n + 2 with n >= 1.
        num_classes: Width of the classifier; 0 leaves it out.
        in_chans: Channels of an image.
        global_pool: A pooling of timm, "" for none.
        drop_rate: Dropout before the classifier.
        act_layer: Makes an activation; it must not work in place.

    Raises:
        ValueError: `depth` is not 6n + 2.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        act_layer: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(in_chans, drop_rate, global_pool)
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth of a CIFAR ResNet must be 6n + 2 with n >= 1, not {depth}")
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = act_layer()
        self.feature_info = [{"num_chs": 16, "reduction": 1, "module": "act1"}]
        before = 16
        for stage, (channels, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
            first = BasicBlock(before, channels, stride, act_layer)
            rest_of_stage = [BasicBlock(channels, channels, 1, act_layer) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest_of_stage))
            reduction = self.feature_info[-1]["reduction"] * stride
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"layer{stage}"})
            before = channels
        self.num_features = before
        self.apply(self.init_layer)
        self.reset_classifier(num_classes)

    @torch.no_grad()
    def init_layer(self, layer: nn.Module) -> None:
        """Initialise a convolution or a linear layer by `kaiming_normal_`."""
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)

    def stages(self) -> Sequence[nn.Module]:
        """Return `layer1`, `layer2` and `layer3`."""
        return [self.layer1, self.layer2, self.layer3]

    def drop_stages(self, keep: int) -> None:
        """Empty the stages after the first `keep`."""
        for stage in range(keep + 1, 4):
            setattr(self, f"layer{stage}", nn.Sequential())


DEPTHS = {"": (8, 14, 20, 32, 44, 56, 110), "_leaky": (8, 20, 32, 56, 110)}
SLOPE = 0.01  # negative slope of the leaky ReLU: torch's default, which the reference code does not change


def _create(name: str, pretrained: bool, **kwargs) -> CifarResNet:
    depth, _, leaky = name.removeprefix("cifar_resnet").partition("_")
    if leaky:
        kwargs.setdefault("act_layer", partial(nn.LeakyReLU, SLOPE))
    features = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
    return build_model_with_cfg(CifarResNet, name, pretrained, depth=int(depth), feature_cfg=features, **kwargs)


default_cfgs = generate_default_cfgs({f"cifar_resnet{depth}{end}": cifar_cfg() for end in DEPTHS for depth in DEPTHS[end]})


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs) -> CifarResNet:
    """Build ResNet-8, with one block in each stage; for tests and quick runs, not in the paper."""
    return _create("cifar_resnet8", pretrained, **kwargs)


@register_model
def cifar_resnet14(pretrained: bool = False, **kwargs) -> CifarResNet:
    """Build ResNet-14, with two blocks in each stage; a sub-net of ResNet-20, not in the paper."""
    return _create("cifar_resnet14", pretrained, **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs) -> CifarResNet:
    """Build ResNet-20, 688 conv filters."""
    return _create("cifar_resnet20", pretrained, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs) -> CifarResNet:
    """Build ResNet-32, 1136 conv filters."""
    return _create("cifar_resnet32", pretrained, **kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs) -> CifarResNet:
    """Build ResNet-44, 1584 conv filters."""
    return _create("cifar_resnet44", pretrained, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs) -> CifarResNet:
    """Build ResNet-56, 2032 conv filters."""
    return _create("cifar_resnet56", pretrained, **kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs) -> CifarResNet:
    """Build ResNet-110, 4048 conv filters."""
    return _create("cifar_resnet110", pretrained, **kwargs)


@register_model
def cifar_resnet8_leaky(pretrained: bool = False, **kwargs) -> CifarResNet:
    """Build `cifar_resnet8` with leaky ReLUs; for tests and quick runs, not in the paper."""
    return _create("cifar_resnet8_leaky", pretrained, **kwargs)


@register_model
def cifar_resnet20_leaky(pretrained: bool = False, **kwargs) -> CifarResNet:
    """Build `cifar_resnet20` with leaky ReLUs; not in the paper."""
    return _create("cifar_resnet20_leaky", pretrained, **kwargs)


@register_model
def cifar_resnet32_leaky(pretrained: bool = False, **kwargs) -> CifarResNet:
    """Build `cifar_resnet32` with leaky ReLUs (slope 0.01)."""
    return _create("cifar_resnet32_leaky", pretrained, **kwargs)


@register_model
def cifar_resnet56_leaky(pretrained: bool = False, **kwargs) -> CifarResNet:
    """Build `cifar_resnet56` with leaky ReLUs (slope 0.01)."""
    return _create("cifar_resnet56_leaky", pretrained, **kwargs)


@register_model
def cifar_resnet110_leaky(pretrained: bool = False, **kwargs) -> CifarResNet:
    """Build `cifar_resnet110` with leaky ReLUs (slope 0.01)."""
    return _create("cifar_resnet110_leaky", pretrained, **kwargs)
