"""The examples of docs/examples, run as they are: dgd in loops that are not ours."""

import runpy
from itertools import pairwise

import pytest
import timm
import torch
import torchvision
from torch.utils.data import TensorDataset

from dgd import models
from dgd.exchange import GraftingError
from dgd.train.features import Reader
from tests.helpers import ROOT


def example(name: str) -> dict:
    return runpy.run_path(str(ROOT / f"docs/examples/{name}.py"))


def networks(count: int = 2) -> list:
    torch.manual_seed(0)
    return [timm.create_model("cifar_resnet8", num_classes=4) for _ in range(count)]


def images(count: int = 32):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(count) % 4


def assert_grafted(nets, shares):
    """Both keep a share between 0.3 and 0.7 of themselves, that of one being what the other gives away."""
    for key in nets[0].state_dict():
        if shares[0][key] is not None:
            assert 0.3 <= shares[0][key] <= 0.7
            assert shares[0][key] + shares[1][key] == pytest.approx(1)
    own, other = (net.state_dict() for net in nets)
    blended = [key for key, share in shares[0].items() if share not in (None, 0.5)]
    assert any(not torch.equal(own[key], other[key]) for key in blended)


def test_a_plain_loop_with_mixed_precision():
    nets, teacher = networks(), timm.create_model("cifar_resnet14", num_classes=4)
    means = example("amp_loop")["train"](nets, teacher, [(x, int(y), k) for k, (x, y) in enumerate(zip(*images()))], epochs=4)
    assert means[-1] < means[0]
    assert not any(value.requires_grad for value in teacher.parameters())


def test_a_task_of_timm():
    found, (x, y) = example("timm_task"), images()
    (student,), teacher = networks(1), timm.create_model("cifar_resnet14", num_classes=4)
    task = found["TermsTask"](student, teacher, {"ce": {}, "fitnet": {"weight": 10.0}}, x, 4).train()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    optimiser = torch.optim.SGD(task.get_trainable_module().parameters(), lr=0.01)
    values = []
    for _ in range(5):
        result = task(x, y)
        assert result.keys() == {"loss", "output", "ce", "fitnet"}
        optimiser.zero_grad()
        result["loss"].backward()
        optimiser.step()
        values.append(float(result["loss"]))
    assert values[-1] < values[0]
    moved = {name.split(".")[0] for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    assert "trainable_module" in moved
    assert all(torch.equal(value, before[f"teacher.{name}"]) for name, value in task.teacher.named_parameters())
    with pytest.raises(ValueError, match="crd: a task has no indices of images and no peers; take other terms"):
        found["TermsTask"](student, teacher, {"crd": {}}, x, 4)


def test_a_callback_of_lightning():
    pytest.importorskip("lightning")
    found, nets = example("lightning_callback"), networks()
    graft = found["train"](nets, TensorDataset(*images()))
    assert_grafted(nets, graft.shares)
    with pytest.raises(GraftingError, match="graft.a is 2"):
        found["train"](nets, TensorDataset(*images()), a=2)


def test_a_callback_of_hugging_faces_trainer():
    pytest.importorskip("transformers")
    found, nets = example("trainer_callback"), networks()
    graft = found["train"](nets, [{"images": x, "labels": int(y)} for x, y in zip(*images())])
    assert_grafted(nets, graft.shares)
    with pytest.raises(GraftingError, match="grafting takes at least two networks, 1 given"):
        found["Graft"](nets[:1])


TORCHVISIONS = {
    "resnet18": ([64, 64, 128, 256, 512], 512),
    "vgg11_bn": ([64, 128, 256, 512, 512, 512], 4096),
    "mobilenet_v3_small": ([16, 16, 24, 48, 576], 1024),
    "convnext_tiny": ([96, 192, 384, 768], 768),
}


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_features_of_torchvisions_networks_are_read(name):
    network, x = getattr(torchvision.models, name)(num_classes=10), torch.randn(2, 3, 64, 64)
    read = Reader(network, x, features=True, before=True)
    assert network.training
    output = read(x)
    assert [stage.shape[1] for stage in output.stages] == TORCHVISIONS[name][0]
    assert all(one.shape[2] > other.shape[2] for one, other in pairwise(output.stages))
    assert output.pooled.shape == (2, TORCHVISIONS[name][1])
    output.stages[-1].sum().backward()
    assert any(value.grad is not None for value in network.parameters())
    network.eval()
    assert torch.equal(read(x).logits, network(x))


def test_what_has_no_maps_or_no_classifier_says_so():
    x = torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match="SqueezeNet has no single classifier, whose input is the pooled feature"):
        Reader(torchvision.models.squeezenet1_1(), x, features=True, pooled=True)
    assert Reader(torchvision.models.squeezenet1_1(), x, features=True)(x).pooled is None
    with pytest.raises(ValueError, match=r"has no forward_intermediates, and no part of it returns maps \(B, C, H, W\)"):
        Reader(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 10)), x, features=True)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("test_resnet", ["module"] * 5),
        ("inception_v3", ["module", "module", "activated", "activated", "activated"]),  # of concatenated branches
        ("hgnetv2_b0", ["activated"] * 4),  # scaled by a learnable affine
        ("cifar_wrn10_1", ["not activated"] * 3),  # sums
    ],
)
def test_how_stages_end(name, ends):
    torch.manual_seed(0)
    network = models.create(name, num_classes=10, image_size=96)
    assert Reader(network, torch.randn(2, 3, 96, 96), features=True, before=True).ends == ends


def test_two_classifiers_have_no_pooled_feature():
    """Terms that read stages alone need none."""
    network, x = models.create("levit_128s", num_classes=10), torch.randn(2, 3, 32, 32)
    output = Reader(network, x, features=True)(x)
    assert (len(output.stages), output.pooled) == (2, None)
    with pytest.raises(ValueError, match="LevitDistilled has no single classifier, whose input is the pooled feature"):
        Reader(network, x, features=True, pooled=True)
