"""review, kr and explanation: against plain arithmetic, the published composition, and gradients."""

import copy
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import dgd  # noqa: F401  registers cifar_* with timm
from dgd.objectives import TERMS, Batch, Objective, Output, Requires, Setting
from dgd.objectives.explaining import explain, explainable
from dgd.objectives.maps import pool
from dgd.objectives.review import hierarchical_context
from dgd.train.features import Reader

SETTING = Setting(network=0, networks=1, labels=torch.zeros(4, dtype=torch.int64))


def bf16():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def output(shapes, width, batch=3, grad=False, classes=4):
    """Random stages of the given (C, H, W), values before the activation that are not those after it, and a pooled feature."""
    stages = [torch.randn(batch, *shape, requires_grad=grad) for shape in shapes]
    before = [torch.randn(batch, *shape, requires_grad=grad) for shape in shapes]
    return Output(torch.randn(batch, classes), stages, before, torch.randn(batch, width, requires_grad=grad))


def as_batch(own, *teachers):
    labels = torch.arange(len(own.logits)) % own.logits.shape[1]
    return Batch({"image": torch.zeros(len(labels), 3, 8, 8)}, labels, labels, own, teachers)


def built(name, own, *teachers, autocast=nullcontext, **options):
    torch.manual_seed(1)
    term = TERMS[name](**options)
    term.autocast = autocast
    term.setup(as_batch(own.detach(), *teachers), SETTING)
    return term


def cells(length, count):
    return [range(i * length // count, math.ceil((i + 1) * length / count)) for i in range(count)]


def pooled(x, rows, columns):
    """Adaptive average pooling of an array (..., H, W) by loops."""
    out = np.zeros((*x.shape[:-2], rows, columns))
    for i, ys in enumerate(cells(x.shape[-2], rows)):
        for j, xs in enumerate(cells(x.shape[-1], columns)):
            out[..., i, j] = np.mean([x[..., y, z] for y in ys for z in xs], axis=0)
    return out


# review


@pytest.mark.parametrize(("height", "sizes"), [(8, [4, 2, 1]), (4, [2, 1]), (3, [2, 1]), (2, [1]), (1, []), (7, [4, 2, 1])])
def test_hierarchical_context_by_loops(height, sizes):
    own, theirs = torch.randn(2, 3, height, height + 1), torch.randn(2, 3, height, height + 1)
    d = (own - theirs).double().numpy()
    parts = [(1.0, np.mean(d**2)), *((2.0**-i, np.mean(pooled(d, k, k) ** 2)) for i, k in enumerate(sizes, start=1))]
    wanted = sum(w * part for w, part in parts) / sum(w for w, _ in parts)
    assert float(hierarchical_context(own, theirs)) == pytest.approx(wanted, rel=1e-5)
    assert float(hierarchical_context(own, own)) == 0


@pytest.mark.parametrize("height", [8, 7])
def test_hierarchical_context_gradient_is_the_central_difference(height):
    own, theirs = torch.randn(1, 2, height, height, requires_grad=True), torch.randn(1, 2, height, height)
    hierarchical_context(own, theirs).backward()
    for at in [(0, 0, 0, 0), (0, 1, 3, 5), (0, 0, 6, 6)]:
        step = torch.zeros_like(own)
        step[at] = 1.0  # the loss is quadratic: a central difference is exact, whatever the step
        with torch.no_grad():
            wanted = (hierarchical_context(own + step, theirs) - hierarchical_context(own - step, theirs)) / 2
        assert float(own.grad[at]) == pytest.approx(float(wanted), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (2, 1), (3, 5), (8, 7)])
def test_pool_is_adaptive_average_pooling(size):
    x = torch.randn(2, 3, 8, 7)
    torch.testing.assert_close(pool(x, size), F.adaptive_avg_pool2d(x, size))
    np.testing.assert_allclose(pool(x, size).numpy(), pooled(x.double().numpy(), *size), atol=1e-6)


def published(term, own, theirs):
    """The review as published: joined maps, adaptive pooling; levels as lists (B, C, H, W), deepest first."""
    total, carried = 0.0, None
    for fusion, x, t in zip(term.fusions, own, theirs, strict=True):
        x = F.batch_norm(F.conv2d(x, fusion.enter[0].weight), None, None, training=True)
        if carried is not None:
            y = F.interpolate(carried, x.shape[2:], mode="nearest")
            m = F.conv2d(torch.cat([x, y], 1), fusion.attention.weight, fusion.attention.bias).sigmoid()
            x = x * m[:, :1] + y * m[:, 1:]
        carried = x = F.interpolate(x, t.shape[2:], mode="nearest")
        out = F.batch_norm(F.conv2d(x, fusion.leave[0].weight, padding=1), None, None, training=True)
        loss, weights = F.mse_loss(out, t), 1.0
        for weight, size in zip((1 / 2, 1 / 4, 1 / 8), [k for k in (4, 2, 1) if k < t.shape[2]], strict=False):
            loss = loss + weight * F.mse_loss(F.adaptive_avg_pool2d(out, size), F.adaptive_avg_pool2d(t, size))
            weights += weight
        total = total + loss / weights
    return total


@pytest.mark.parametrize("sizes", [(8, 4), (12, 7), (6, 3)], ids=["same", "larger", "smaller"])
def test_review_is_the_published_composition_and_so_are_its_gradients(sizes):
    own, teacher = output([(4, 8, 8), (6, 4, 4)], 6, grad=True), output([(5, *sizes[:1] * 2), (7, *sizes[1:] * 2)], 7)
    term = built("review", own, teacher)
    wanted = published(
        term,
        [own.pooled[:, :, None, None], own.stages[1], own.stages[0]],
        [teacher.pooled[:, :, None, None], teacher.before[1], teacher.before[0]],
    )
    leaves = [*own.stages, own.pooled, *term.parameters()]
    gradients = torch.autograd.grad(wanted, leaves, allow_unused=True)
    loss = term(as_batch(own, teacher))
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    for leaf, a, b in zip(leaves, torch.autograd.grad(loss, leaves, allow_unused=True), gradients, strict=True):
        if b is None:  # batch norm's own weights, 1 and 0, which the reference leaves out
            assert leaf.ndim == 1
        else:
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)
            assert leaf.ndim == 1 or b.abs().max() > 0


def test_review_warms_up_by_whole_epochs_from_zero():
    own, teacher = output([(4, 8, 8)], 4), output([(5, 8, 8)], 5)
    term = built("review", own, teacher)
    full = float(term(as_batch(own, teacher)).detach())
    for epoch, share in {0: 0, 1: 1 / 20, 10: 0.5, 19: 0.95, 300: 1}.items():
        term.start_epoch(epoch)
        assert float(term(as_batch(own, teacher)).detach()) == pytest.approx(share * full, rel=1e-6)
    at_once = built("review", own, teacher, warmup=0)
    at_once.start_epoch(0)
    assert float(at_once(as_batch(own, teacher)).detach()) == pytest.approx(full, rel=1e-6)


def test_review_pairs_from_the_deepest_and_leaves_out_maps_of_one_pixel():
    own = output([(3, 16, 16), (4, 8, 8), (6, 4, 4), (9, 1, 1)], 9, grad=True)
    teacher = output([(5, 8, 8), (7, 2, 2)], 7)
    term = built("review", own, teacher)
    shapes = [(f.enter[0].in_channels, f.leave[0].in_channels, f.leave[0].out_channels) for f in term.fusions]
    assert shapes == [(9, 9, 7), (6, 9, 7), (4, 9, 5)]  # pooled, 4x4 with 2x2, 8x8 with 8x8; mid is the pooled width
    assert [f.attention is not None for f in term.fusions] == [False, True, True]
    term(as_batch(own, teacher)).backward()
    assert own.stages[0].grad is None
    assert own.stages[3].grad is None
    assert all(x.grad.abs().sum() > 0 for x in (own.stages[1], own.stages[2], own.pooled))
    assert built("review", own, teacher, mid=2).fusions[1].enter[0].out_channels == 2


def test_review_reads_the_features_that_its_options_name():
    own, teacher = output([(4, 8, 8)], 4, grad=True), output([(5, 8, 8)], 5)
    post, pre = built("review", own, teacher), built("review", own, teacher, student="pre")
    assert post.requires == Requires(teacher="eval", features=True, pooled=True, teacher_before=True)
    assert pre.requires == replace(post.requires, before=True)
    assert TERMS["review"](teacher="train").requires == replace(post.requires, teacher="train")
    assert len(TERMS["review"](teacher="train").deviations) == len(post.deviations) - 1
    post(as_batch(own, teacher)).backward()
    assert own.before[0].grad is None
    grad = own.stages[0].grad.clone()
    pre(as_batch(own, teacher)).backward()
    assert own.before[0].grad.abs().sum() > 0
    assert torch.equal(own.stages[0].grad, grad)
    loss = float(post(as_batch(own, teacher)).detach())
    teacher.stages[0].add_(1)  # after the teacher's activation: not read
    assert float(post(as_batch(own, teacher)).detach()) == loss
    teacher.before[0].add_(1)
    assert float(post(as_batch(own, teacher)).detach()) != loss


def test_review_refuses():
    own, teacher = output([(4, 8, 8)], 4), output([(5, 8, 8)], 5)
    for options, message in [
        ({"warmup": -1}, "review: warmup is -1; it must be 0 or more"),
        ({"mid": 0}, "review: mid is 0; it must be 1 or more"),
        ({"student": "x"}, "review: student is 'x'; it must be"),
        ({"teacher": "x"}, "review: teacher is 'x'; it must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            TERMS["review"](**options)
    with pytest.raises(ValueError, match="there are 2 teachers; it must be one"):
        built("review", own, teacher, teacher)
    with pytest.raises(ValueError, match="nothing to review"):
        built("review", own, output([(5, 1, 1)], 5))


# kr


def kr_by_loops(own, teacher, recodings, sparsity):
    """The equation of the class, on lists of arrays (B, C, H, W), deepest first; `recodings` (C_t, C_s)."""
    total, grid = 0.0, (1, 1)
    for x, y, r in zip(own, teacher, recodings, strict=True):
        for a, b in zip(pooled(x, *grid), pooled(y, *grid), strict=True):  # images
            a, b = a / np.sqrt((a**2).sum()), b / np.sqrt((b**2).sum())
            total += ((np.einsum("tc,chw->thw", r, a) - b) ** 2).sum() / len(x)
        total += sparsity * np.abs(r).sum() / len(r)
        grid = tuple(min(x.shape[i], y.shape[i]) for i in (2, 3))
    return total


def arrays(tensors):
    return [x.detach().double().numpy() for x in tensors]


@pytest.fixture
def kr_case():
    torch.manual_seed(3)
    own = output([(2, 16, 16), (3, 8, 8), (5, 4, 4)], 5, grad=True)
    teacher = output([(4, 7, 7), (6, 3, 3)], 6)
    term = built("kr", own, teacher, sparsity=0.3)
    return own, teacher, term


def test_kr_by_loops_and_its_gradient_by_differences(kr_case):
    own, teacher, term = kr_case
    maps, theirs = arrays(own.stages[:0:-1]), arrays(teacher.stages[::-1])
    recodings = arrays(r.weight[:, :, 0, 0] for r in term.recodings[0])
    loss = term(as_batch(own, teacher))
    assert float(loss.detach()) == pytest.approx(kr_by_loops(maps, theirs, recodings, 0.3), rel=1e-5)
    loss.backward()
    assert own.stages[0].grad is None  # the teacher has no stage for it
    for level, at in [(0, (1, 2, 3, 0)), (1, (2, 1, 7, 5))]:
        ends = []
        for step in (1e-4, -1e-4):
            moved = [x.copy() for x in maps]
            moved[level][at] += step
            ends.append(kr_by_loops(moved, theirs, recodings, 0.3))
        assert float(own.stages[2 - level].grad[at]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-3, abs=1e-7)


def test_kr_penalises_each_entry_alike(kr_case):
    own, teacher, term = kr_case
    free = built("kr", own, teacher, sparsity=0.0)
    for a, b in zip(term.recodings[0], free.recodings[0], strict=True):
        assert torch.equal(a.weight, b.weight)
    term(as_batch(own, teacher)).backward()
    free(as_batch(own, teacher)).backward()
    for a, b in zip(term.recodings[0], free.recodings[0], strict=True):
        torch.testing.assert_close(a.weight.grad - b.weight.grad, 0.3 / len(a.weight) * a.weight.detach().sign())


def test_kr_of_equal_networks_is_the_penalty_of_the_identity():
    own = output([(3, 8, 8), (5, 4, 4)], 5)
    term = built("kr", own, own, sparsity=0.01)
    with torch.no_grad():
        for recode in term.recodings[0]:
            recode.weight.copy_(torch.eye(len(recode.weight))[:, :, None, None])
    assert float(term(as_batch(own, own)).detach()) == pytest.approx(2 * 0.01, rel=1e-4)
    with torch.no_grad():
        for recode in term.recodings[0]:
            recode.weight.mul_(0.5)  # ||a/2 - a||^2 = 1/4 and half of the penalty: shrinking R is no way out
    assert float(term(as_batch(own, own)).detach()) == pytest.approx(2 * (0.25 + 0.005), rel=1e-4)


def test_kr_does_not_see_the_scale_of_features_and_averages_teachers(kr_case):
    own, teacher, term = kr_case
    loss = float(term(as_batch(own, teacher)).detach())
    scaled = Output(own.logits, [7 * x for x in own.stages], (), own.pooled)
    louder = Output(teacher.logits, [0.1 * x for x in teacher.stages], (), teacher.pooled)
    assert float(term(as_batch(scaled, louder)).detach()) == pytest.approx(loss, rel=1e-5)
    other = output([(3, 4, 4)], 3)
    two = built("kr", own, teacher, other)
    singles = [built("kr", own, t) for t in (teacher, other)]
    for mine, single in zip(two.recodings, singles, strict=True):
        single.recodings[0].load_state_dict(mine.state_dict())
    mean = sum(float(s(as_batch(own, t)).detach()) for s, t in zip(singles, (teacher, other), strict=True)) / 2
    assert float(two(as_batch(own, teacher, other)).detach()) == pytest.approx(mean, rel=1e-5)


def test_kr_refuses():
    with pytest.raises(ValueError, match="kr: sparsity is -1; it must be 0 or more"):
        TERMS["kr"](sparsity=-1)
    with pytest.raises(ValueError, match="has no stages"):
        built("kr", output([], 4), output([(2, 4, 4)], 2))


@pytest.mark.parametrize("name", ["review", "kr"])
def test_bf16_and_channels_last_change_little(name):
    torch.manual_seed(5)
    own, teacher = output([(8, 8, 8), (16, 4, 4)], 16, batch=8), output([(12, 8, 8), (20, 4, 4)], 20, batch=8)
    term = built(name, own, teacher)
    wanted = float(term(as_batch(own, teacher)).detach())

    def low(x):
        return x.bfloat16().contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.contiguous_format)

    def low_output(out):
        maps = [[low(x).requires_grad_() for x in part] for part in (out.stages, out.before)]
        return Output(low(out.logits), *maps, low(out.pooled).requires_grad_())

    term.autocast = bf16
    own, teacher = low_output(own), low_output(teacher).detach()
    loss = term(as_batch(own, teacher))
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(wanted, rel=0.02)
    loss.backward()
    assert all(x.grad.abs().sum() > 0 for x in own.stages)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in term.parameters())


@pytest.mark.parametrize("name", ["review", "kr"])
def test_real_networks_learn_and_the_teacher_does_not(name):
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 16, 16), torch.randint(4, (8,))
    student = timm.create_model("cifar_resnet8", num_classes=4)
    teacher = timm.create_model("cifar_vgg16_bn", num_classes=4).eval()
    objective = Objective({name: {}})
    read, teach = Reader(student, images[:2], features=True), Reader(teacher, images[:2], features=True, before=True)
    with torch.no_grad():
        example = Batch({"image": images[:2]}, labels[:2], labels[:2], read(images[:2]), [teach(images[:2])])
    objective.setup(example, SETTING)
    optimiser = torch.optim.SGD([*student.parameters(), *objective.parameters()], lr=0.1, momentum=0.9)
    losses = []
    for _ in range(12):
        with torch.no_grad():
            taught = teach(images)
        loss, _ = objective(Batch({"image": images}, labels, labels, read(images), [taught]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is None for p in teacher.parameters())
    assert student.conv1.weight.grad.abs().sum() > 0


# explanation


class Linear(nn.Module):
    """Logits that are linear in the image, so that explanations are rows of the weight."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def explained(network, images, labels, **options):
    images = images.clone().requires_grad_()
    term = TERMS["explanation"](**options)
    logits = network(images)
    return term(Batch({"image": images}, labels, labels, Output(logits))), logits


def soft_label(weight, logits, label, classes, tau):
    """q (K,) by plain arithmetic, for explanations that are the rows of `weight`."""
    others = [int(k) for k in np.argsort(-logits) if k != label][: classes - 1]
    s = {label: 1.0}
    for k in others:
        s[k] = weight[label] @ weight[k] / np.linalg.norm(weight[label]) / np.linalg.norm(weight[k])
    q = np.zeros(len(logits))
    for k in s:
        q[k] = np.exp(s[k] / tau) / sum(np.exp(v / tau) for v in s.values())
    return q


@pytest.mark.parametrize(("classes", "tau"), [(3, 0.5), (2, 1.0), (5, 0.2), (9, 0.5)])
def test_explanation_by_plain_arithmetic_and_its_gradient(classes, tau):
    torch.manual_seed(2)
    network, images, labels = Linear(torch.randn(5, 12)), torch.randn(4, 3, 2, 2), torch.tensor([0, 4, 2, 2])
    loss, logits = explained(network, images, labels, classes=classes, tau=tau)
    weight, z = network.weight.detach().double().numpy(), logits.detach().double().numpy()
    q = np.stack([soft_label(weight, z[i], int(labels[i]), classes, tau) for i in range(4)])
    assert q.sum(1) == pytest.approx(1)
    assert ((q > 0).sum(1) == min(classes, 5)).all()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    wanted = np.mean([sum(q[i, k] * np.log(q[i, k] / p[i, k]) for k in range(5) if q[i, k] > 0) for i in range(4)])
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    # q is a constant: the gradient is that of cross-entropy with it, with nothing from how q depends on the weight.
    np.testing.assert_allclose(network.weight.grad.numpy(), (p - q).T @ images.flatten(1).numpy() / 4, atol=1e-6)


def test_explanation_at_right_angles_is_label_smoothing_over_the_chosen():
    network, images = Linear(torch.eye(4)[:, [0, 1, 2, 3]]), torch.tensor([[3.0, 2.0, 1.0, 0.0]]).reshape(1, 1, 2, 2)
    loss, logits = explained(network, images, torch.tensor([1]))
    high = math.e**2 / (math.e**2 + 2)  # classes 1, then 0 and 2: cosines 1, 0, 0 at tau 1/2
    q = torch.tensor([(1 - high) / 2, high, (1 - high) / 2])
    wanted = (q * (q.log() - logits.detach().log_softmax(1)[0, :3])).sum()
    assert float(loss.detach()) == pytest.approx(float(wanted), rel=1e-5)
    assert high == pytest.approx(0.79, abs=0.005)  # as the docstring says


def test_explanations_of_a_network_without_batch_norm_are_each_images_own():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 16, 5))
    images, labels = torch.randn(6, 3, 6, 6), torch.randint(5, (6,))
    whole = explained(network, images, labels)[0]
    singles = torch.stack([explained(network, images[i : i + 1], labels[i : i + 1])[0] for i in range(6)])
    torch.testing.assert_close(whole, singles.mean())


class Odd(nn.Module):
    """Batch norm that follows no convolution, has no weights or no bias, is in evaluation mode, or follows a convolution that
    something else reads too, that is changed in place, that pads by name, that dilates, or that has no graph."""

    def __init__(self, num_classes):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 4, 3, dilation=2)
        self.bn, self.fixed = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.wide, self.late = nn.Conv2d(4, 4, 3, groups=2, stride=(1, 2)), nn.BatchNorm2d(4, bias=False)
        self.same, self.out = nn.Conv2d(4, 4, 3, padding="same", bias=False), nn.BatchNorm2d(4)
        self.left, self.after = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)

    def train(self, mode=True):
        super().train(mode)
        self.fixed.eval()
        return self

    def forward(self, x):
        x = self.conv(torch.tanh(self.norm(x)))
        x = x.square() + torch.tanh(self.bn(x))
        with torch.no_grad():
            left = self.left(x)
        x = self.late(F.leaky_relu(self.wide(x + self.after(left)), inplace=True))
        return self.fc(self.out(self.same(self.fixed(x))).relu().mean((2, 3)))


EXPLAINABLE = {
    "odd": Odd,
    **{
        name: partial(timm.create_model, name, in_chans=3)
        for name in ("cifar_resnet8", "cifar_mobilenetv2", "test_resnet", "test_efficientnet", "test_nfnet")
    },
    "vgg": partial(timm.create_model, "cifar_vgg16_bn"),  # its convolutions have biases
}


def network_for(name):
    torch.manual_seed(0)
    network = EXPLAINABLE[name](num_classes=5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return network.train(), torch.randn(4, 3, 32, 32)


@pytest.mark.parametrize("name", EXPLAINABLE)
def test_an_explanation_is_the_images_own_with_batch_statistics_as_constants(name):
    network, images = network_for(name)
    network, images = network.double(), images.double()
    fixed, hooks = copy.deepcopy(network), []
    for module in fixed.modules():  # running statistics that are the batch's own
        if isinstance(module, nn.BatchNorm2d) and module.training:

            def take(module, inputs):
                module.momentum = 0.0
                module.running_mean = inputs[0].detach().mean((0, 2, 3))
                module.running_var = inputs[0].detach().var((0, 2, 3), correction=0)

            hooks.append(module.register_forward_pre_hook(take))
    with torch.no_grad():
        fixed(images)
    for hook in hooks:
        hook.remove()
    fixed.eval()
    chosen = F.one_hot(torch.tensor([0, 4, 2, 2]), 5).bool()
    images.requires_grad_()
    with explainable(images):
        logits = network(images)
    got = explain(logits, images, chosen)
    torch.testing.assert_close(logits, fixed(images.detach()))
    for i in range(4):
        image = images[i : i + 1].detach().requires_grad_()
        fixed(image)[0, chosen[i].nonzero().item()].backward()
        torch.testing.assert_close(got[i], image.grad.float().flatten())
    torch.testing.assert_close(explain(logits, images, chosen), got)  # the graph is kept


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", EXPLAINABLE)
def test_what_can_be_explained_learns_as_ever(name, precision):
    network, images = network_for(name)
    plain, labels = copy.deepcopy(network), torch.tensor([0, 4, 2, 2])
    runs = []
    for net, inputs in ((plain, images), (network, images.clone().requires_grad_())):
        with bf16() if precision == "bf16" else nullcontext(), explainable(inputs):
            logits = net(inputs)
        if inputs.requires_grad:
            explain(logits, inputs, F.one_hot(labels, 5).bool())
        F.cross_entropy(logits.float(), labels).backward()
        runs.append([logits, *(p.grad for p in net.parameters() if p.grad is not None), *net.buffers()])
    for wanted, got in zip(*runs, strict=True):
        if name == "odd":  # what reads the convolution besides has a backward pass of its own
            torch.testing.assert_close(got, wanted, atol=1e-6 if precision == "fp32" else 1e-3, rtol=1e-5)
        else:
            assert torch.equal(got, wanted)


def test_shuffle_keeps_the_softness_and_loses_the_similarity():
    torch.manual_seed(4)
    network, images = Linear(torch.randn(6, 12)), torch.randn(40, 3, 2, 2)
    labels = torch.randint(6, (40,))

    def target(**options):  # q from the gradient by the logits: p - q, over the batch's size
        loss, logits = explained(network, images, labels, classes=4, **options)
        return logits.softmax(1).detach() - 40 * torch.autograd.grad(loss, logits)[0], loss.detach()

    q, loss = target()
    assert torch.equal(target()[0], q)
    torch.manual_seed(7)
    mixed, mixed_loss = target(shuffle=True)
    torch.manual_seed(7)
    assert torch.equal(target(shuffle=True)[1], mixed_loss)
    torch.testing.assert_close(mixed.sort(1).values, q.sort(1).values, atol=1e-5, rtol=0)
    true = F.one_hot(labels, 6).bool()
    torch.testing.assert_close(mixed[true], q[true], atol=1e-5, rtol=0)
    assert torch.equal(mixed > 1e-5, q > 1e-5)  # the same classes
    moved = ((mixed - q).abs() > 1e-4).any(1)
    assert 20 < int(moved.sum()) < 40  # of 6 orders, 5 change something: about 33 of 40 images, each by itself
    assert mixed_loss != loss


def test_explanation_takes_bf16_and_gradients_that_are_zero():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    images, labels = torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 3])
    wanted = float(explained(network, images, labels)[0].detach())
    with bf16():
        logits = network(images.requires_grad_())
    assert logits.dtype == torch.bfloat16
    loss = TERMS["explanation"]()(Batch({"image": images}, labels, labels, Output(logits)))
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(wanted, rel=0.05)
    loss.backward()
    assert network[1].weight.grad.abs().sum() > 0
    flat = Linear(torch.zeros(5, 12))  # a dead network: every explanation is zero
    loss, _ = explained(flat, images.detach(), labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(flat.weight.grad).all()


def test_explanation_refuses():
    for options, message in [
        ({"classes": 1}, "explanation: classes is 1; it must be 2 or more"),
        ({"tau": 0}, "explanation: tau is 0; it must be above 0"),
        ({"classes": 2, "shuffle": True}, "with shuffle it must be 3 or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            TERMS["explanation"](**options)
    own = output([(2, 4, 4)], 2, classes=2)
    with pytest.raises(ValueError, match="has 2 classes; it must have 3 or more"):
        built("explanation", own, shuffle=True)
    built("explanation", own)
    with pytest.raises(ValueError, match="the images have no gradient"):
        TERMS["explanation"]()(as_batch(own))


def test_reconstructions_say_so():
    for name in ("kr", "explanation"):
        assert TERMS[name].status == "reconstruction"
        assert "not the paper's method" in TERMS[name].__doc__
