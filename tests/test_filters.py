"""Filters: what counts as one, entropy against plain loops and closed forms, valid and invalid sets by both readings."""

import math

import pytest
import timm
import torch
from torch import nn

from dgd import filters
from dgd.train.device import Arithmetic


def plain_entropy(x, bins, include_max):
    """One Python loop over bins, in the order of the published formula."""
    x = x.reshape(-1)
    width = (x.max() - x.min()) / bins
    total = 0.0
    for i in range(bins):
        inside = (x >= x.min() + i * width) & (x < x.min() + (i + 1) * width)
        if include_max and i == bins - 1:
            inside = x >= x.min() + i * width
        p = inside.float().sum() / len(x)
        if p != 0:
            total -= p * torch.log(p)
    return float(total)


@pytest.mark.parametrize("include_max", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_entropy_is_the_plain_loop_to_the_bit(seed, include_max):
    g = torch.Generator().manual_seed(seed)
    shape = [(16, 3, 3, 3), (64, 64, 3, 3), (32, 1, 3, 3), (7,)][seed % 4]
    x = torch.randn(shape, generator=g) * 10 ** (seed % 5 - 3)
    assert float(filters.entropy(x, include_max=include_max)) == plain_entropy(x, 10, include_max)


def test_entropy_of_equal_bins_is_the_log_of_their_number():
    x = torch.arange(10).float().repeat(7)
    assert float(filters.entropy(x)) == pytest.approx(math.log(10), abs=1e-6)


def test_the_strict_bound_drops_the_maximum():
    x = torch.tensor([0.0, 1.0])  # one weight at each end: with the maximum both bins hold a half, without it only one does
    assert float(filters.entropy(x)) == pytest.approx(math.log(2))
    assert float(filters.entropy(x, include_max=False)) == pytest.approx(0.5 * math.log(2))


@pytest.mark.parametrize("include_max", [True, False])
def test_a_constant_layer_holds_nothing(include_max):
    assert float(filters.entropy(torch.full((4, 3, 3, 3), 0.5), include_max=include_max)) == 0


def test_entropy_does_not_see_scale():
    x = torch.randn(64, 16, 3, 3)
    assert float(filters.entropy(x)) == pytest.approx(float(filters.entropy(x * 4)), abs=1e-6)


def test_entropy_runs_under_deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        assert filters.entropy(torch.randn(8, 3, 3, 3)).ndim == 0
    finally:
        torch.use_deterministic_algorithms(False)


def test_every_convolution_counts_and_nothing_else():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4, 2)
    )
    norms = filters.l1_norms(net)
    assert {key: len(n) for key, n in norms.items()} == {"0.weight": 8, "2.weight": 8, "3.weight": 4}
    assert torch.allclose(norms["0.weight"][3], net[0].weight[3].abs().sum())
    assert filters.l1_norms(net.state_dict()).keys() == norms.keys()
    assert filters.summary(net)["count"] == 20


def test_readings_differ_where_the_invalid_filters_move():
    reference = torch.tensor([0.0, 0.05, 2.0, 3.0])
    norms = torch.tensor([5.0, 0.0, 0.0, 4.0])
    assert filters.mean_l1(norms, reference, 0.1, "rank") == (4.5, 0.0)
    assert filters.mean_l1(norms, reference, 0.1, "position") == (2.0, 2.5)
    assert filters.invalid_ratio(norms, 0.1) == 0.5
    assert math.isnan(filters.mean_l1(norms, reference + 1, 0.1)[1])  # nothing is invalid in the reference


def test_layers_are_matched_by_name_not_by_order():
    norms = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}
    reference = {"b": torch.tensor([0.0]), "a": torch.tensor([5.0, 5.0])}
    assert filters.invalid(norms, reference, 0.1, "position").tolist() == [False, False, True]
    assert filters.invalid(norms, reference, 0.1, "rank").tolist() == [True, False, False]
    with pytest.raises(ValueError, match="has the layer 'c': not the same model"):
        filters.invalid(norms, {**reference, "c": torch.ones(1)}, 0.1)


def test_half_precision_norms_are_summed_in_float():
    weight = torch.full((1, 64, 3, 3), 0.1, dtype=torch.bfloat16)
    assert float(filters.l1_norms({"weight": weight})["weight"]) == pytest.approx(576 * float(weight[0, 0, 0, 0]), rel=1e-5)


def counted(name):
    """Return the convolutions of a network of timm that have filters."""
    with torch.device("meta"):
        return filters.conv_weights(timm.create_model(name, num_classes=10))


@pytest.mark.parametrize(
    "name",
    [
        *("test_vit", "mixer_s16_224", "gmlp_ti16_224", "resmlp_12_224", "tnt_s_patch16_224"),  # one: of the patches
        *("crossvit_tiny_240", "vit_tiny_r_s16_p8_224", "levit_128s"),  # several before the first block
        "sequencer2d_s",  # and between stages
    ],
)
def test_convolutions_that_only_embed_have_no_filters(name):
    assert counted(name) == {}


@pytest.mark.parametrize(
    ("name", "number"),
    [("twins_svt_small", 15), ("test_convnext", 13), ("xcit_nano_12_p8_224", 28), ("vit_small_r26_s32_224", 30), ("vgg11", 10)],
)
def test_convolutions_among_matrices_have_filters(name, number):
    assert len(counted(name)) == number


def test_a_convolution_of_three_dimensions_counts():
    found = counted("lambda_resnet26t")
    assert [value.ndim for value in found.values()].count(5) == 3
    assert len(found) == 34


def test_convolutions_that_are_mixed_for_each_image_have_no_filters():
    """CondConv holds its convolutions in the rows of a matrix. Linear layers before a batch norm are none, of any width."""
    assert counted("efficientnet_cc_b0_4e") == {}
    linear = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 8, bias=False))
    assert len(filters.conv_weights(linear)) == 1
    assert len(filters.conv_weights(nn.Sequential(*linear, nn.BatchNorm1d(8)))) == 1


def test_a_norm_at_the_threshold_is_invalid():
    assert filters.invalid_ratio(torch.tensor([1.0, 1.1]), 1.0) == 0.5


def test_bad_readings_and_models_are_named():
    with pytest.raises(ValueError, match="'rank' or 'position'"):
        filters.mean_l1(torch.ones(3), torch.ones(3), 0.1, "both")
    with pytest.raises(ValueError, match="3 filters and the reference 4"):
        filters.mean_l1(torch.ones(3), torch.ones(4), 0.1)


def test_the_tables_use_the_same_law():
    """The read side computes the sets with numpy alone, so that its environment needs no torch."""
    from dgd.read.thresholds import filter_sets

    g = torch.Generator().manual_seed(0)
    norms, reference = (torch.rand(200, generator=g) * 3 for _ in range(2))
    for threshold in (1.0, 0.1):
        row = filter_sets(norms.numpy(), reference.numpy(), threshold)
        for reading in ("rank", "position"):
            valid, invalid = filters.mean_l1(norms, reference, threshold, reading)
            assert row[f"mean_l1_valid_{reading}"] == pytest.approx(valid)
            assert row[f"mean_l1_invalid_{reading}"] == pytest.approx(invalid)


def test_channels_last_leaves_convolutions_of_three_dimensions():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(1, 2, 3))
    placed = Arithmetic(torch.device("cpu"), channels_last=True).place(net)
    assert placed[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert placed[1].weight.is_contiguous()
