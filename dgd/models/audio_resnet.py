"""Small networks for spectrograms: CIFAR ResNets whose stem halves the map, registered with timm."""

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from dgd.models.cifar_resnet import CifarResNet, cifar_cfg

__all__ = ["AudioResNet"]


class AudioResNet(CifarResNet):
    """A CIFAR ResNet for spectrograms of one channel: its stem has stride 2, so that it costs a quarter of a CIFAR ResNet.

    Neighbouring bands and frames of a spectrogram overlap, so that little is lost at half the resolution.

    Args:
        depth: 6n + 2 with n >= 1.
        **options: Of `CifarResNet`.
    """

    def __init__(self, depth: int, **options) -> None:
        super().__init__(depth, **options)
        self.conv1.stride = (2, 2)
        for stage in self.feature_info:
            stage["reduction"] *= 2


def _create(name: str, pretrained: bool, **kwargs) -> AudioResNet:
    features = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
    depth = int(name.removeprefix("audio_resnet"))
    return build_model_with_cfg(AudioResNet, name, pretrained, depth=depth, feature_cfg=features, **kwargs)


default_cfgs = generate_default_cfgs({f"audio_resnet{depth}": cifar_cfg() | {"input_size": (1, 32, 32)} for depth in (8, 20)})


@register_model
def audio_resnet8(pretrained: bool = False, **kwargs) -> AudioResNet:
    """Build a ResNet-8 for spectrograms, with one block in each stage."""
    return _create("audio_resnet8", pretrained, **kwargs)


@register_model
def audio_resnet20(pretrained: bool = False, **kwargs) -> AudioResNet:
    """Build a ResNet-20 for spectrograms."""
    return _create("audio_resnet20", pretrained, **kwargs)
