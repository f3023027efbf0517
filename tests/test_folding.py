"""A frozen teacher is the network it was made from: logits held to it, on any network, with statistics that are not trivial."""

import pytest
import torch
from timm.layers import StdConv2d
from torch import nn

from dgd import models
from dgd.models.cifar_resnet import BasicBlock, FusedBlock
from dgd.models.folding import freeze


def trained(name):
    """A network with batch statistics and weights as training leaves them: none is 0 or 1."""
    torch.manual_seed(0)
    net = models.create(name, num_classes=10, in_chans=3, image_size=32, adapt_stem=True)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                tensor.uniform_(low, high)
    return net.eval()


def norms(net):
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


NAMES = {
    "cifar_resnet20": 0,
    "cifar_resnet8_leaky": 0,
    "cifar_mobilenetv2": 0,
    "cifar_vgg16_bn": 0,
    "cifar_wrn10_1": 4,  # what follows a sum stays, and the first, whose convolution a shortcut reads too
    "resnetv2_18": 9,  # norms before their blocks
    "crd_resnet8": 0,
    "crd_wrn_16_2": 6,  # what follows a sum stays
    "crd_vgg8": 0,
    "crd_mobilenetv2_half": 0,
    "crd_shufflenetv1": 0,
    "crd_shufflenetv2": 0,
    "resnet18": 0,
    "mobilenetv3_small_100": 0,
    "test_efficientnet": 0,
    "densenet121": 62,  # norms before their convolutions stay
    "test_vit": 0,
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_frozen_logits_are_the_networks(name, channels_last):
    net = trained(name)
    images = torch.randn(5, 3, 32, 32)
    if channels_last:
        net, images = net.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    frozen = freeze(net, images[:2])
    wanted = net(images)
    assert (frozen(images) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert norms(frozen) == NAMES[name]
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_bf16_is_as_near_to_float32_as_autocast_is(layout, batch):
    net = trained("cifar_resnet20").to(memory_format=layout)
    images = torch.randn(batch, 3, 32, 32).to(memory_format=layout)
    frozen = freeze(net, torch.randn(2, 3, 32, 32), "bf16")
    exact = net(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        errors = [(other(images).float() - exact).square().mean().sqrt() for other in (frozen, net)]
    assert errors[0] < 1.5 * errors[1]


@torch.no_grad()
def test_blocks_are_fused_where_that_is_fast():
    """In channels-last. Without oneDNN's operators (another processor, another torch) they are not, and that is no error."""
    net = trained("cifar_resnet20").to(memory_format=torch.channels_last)
    frozen = freeze(net, torch.randn(2, 3, 32, 32), "bf16")
    found = sum(isinstance(module, FusedBlock) for module in frozen.modules())
    assert found == (9 if torch.backends.mkldnn.is_available() else 0)


@torch.no_grad()
def test_leaky_blocks_keep_their_slope():
    net = trained("cifar_resnet8_leaky").to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    frozen = freeze(net, images[:2])
    blocks = [module for module in frozen.modules() if isinstance(module, BasicBlock)]
    assert len(blocks) == 3
    assert all(block.fused() is block for block in blocks)
    assert norms(frozen) == 0
    assert torch.allclose(frozen(images), net(images), atol=1e-4)


class Twice(nn.Module):
    """Something else reads the convolution than its norm alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return (self.norm(x) + x).mean((2, 3))


class Broken(nn.Conv2d):
    """Has a fused form that cannot run."""

    def fused(self):
        return nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("net", "left"),
    [
        (Twice(), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3), StdConv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), 1),
        (nn.Sequential(Broken(3, 4, 3), nn.Flatten()), 0),
    ],
)
@torch.no_grad()
def test_what_cannot_be_folded_is_left_as_it_is(net, left):
    images = torch.randn(3, 3, 8, 8)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
    frozen = freeze(net, images)
    assert torch.allclose(frozen(images), net.eval()(images), atol=1e-5)
    assert norms(frozen) == left
