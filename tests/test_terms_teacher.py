"""Attention transfer, hints, similarity, relational and decoupled distillation, against plain float64 arithmetic."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dgd.objectives import TERMS, Batch, Objective, Output, Setting
from dgd.objectives.maps import attention, pool, unit

SETTING = Setting(0, 1, torch.zeros(4, dtype=torch.int64))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(own, teachers, labels=None):
    labels = torch.zeros(len(own.logits), dtype=torch.int64) if labels is None else torch.as_tensor(labels)
    return Batch({}, labels, torch.arange(len(labels)), own, teachers)


def maps(*stages, dtype=torch.float32):
    stages = [stage.to(dtype) for stage in stages]
    return Output(torch.zeros(len(stages[-1]), 3), stages, pooled=stages[-1].mean((2, 3)))


def features(x):
    return Output(torch.zeros(len(x), 3), pooled=x)


def logits(x):
    return Output(x)


def assert_is(term, batch_of, x, reference):
    """The term's value and gradient at x are those of a float64 function, whose gradient is taken by differences."""
    variable = x.clone().requires_grad_()
    loss = term(batch_of(variable))
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss, variable)
    point, step = x.double().numpy(), 1e-5
    expected = np.zeros_like(point)
    for at in np.ndindex(point.shape):
        up, down = point.copy(), point.copy()
        up[at] += step
        down[at] -= step
        expected[at] = (reference(up) - reference(down)) / (2 * step)
    assert np.abs(expected).max() > 0
    assert float(loss.detach()) == pytest.approx(reference(point), rel=1e-4)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def mean_of_two(name, one, two, own, **options):
    """That the loss with two teachers is the mean of the losses with each."""
    values = []
    for teachers in ([one], [two], [one, two]):
        batch = make(own, teachers, [1, 0, 2])
        torch.manual_seed(0)
        term = TERMS[name](**options)
        term.setup(batch, SETTING)
        values.append(float(term(batch).detach()))
    assert abs(values[0] - values[1]) > 1e-6
    assert values[2] == pytest.approx((values[0] + values[1]) / 2, rel=1e-5)


# attention transfer


def attention_of(x):
    q = (x**2).mean(1).reshape(len(x), -1)
    return q / np.sqrt((q**2).sum(1, keepdims=True))


def test_attention_by_hand():
    # Two channels, two positions: means of squares (9 + 1) / 2 = 5 and (0 + 24) / 2 = 12.
    x = torch.tensor([[[[3.0, 0.0]], [[1.0, -math.sqrt(24)]]]])
    torch.testing.assert_close(attention(x), torch.tensor([[[5.0, 12.0]]]))
    torch.testing.assert_close(unit(attention(-7 * x)), torch.tensor([[[5 / 13, 12 / 13]]]))
    assert attention(x.bfloat16()).dtype == torch.float32
    assert not unit(attention(torch.zeros(1, 2, 3, 3))).any()


@pytest.mark.parametrize(("size", "target"), [((8, 8), (4, 4)), ((7, 5), (3, 4)), ((4, 6), (4, 6)), ((5, 3), (1, 3))])
def test_pool_is_adaptive_average_pooling(size, target):
    x = draw(2, 3, *size)
    torch.testing.assert_close(pool(x, target), F.adaptive_avg_pool2d(x, target))
    torch.testing.assert_close(pool(x.to(memory_format=torch.channels_last), target), F.adaptive_avg_pool2d(x, target))


def test_at_is_the_sum_over_stages_paired_from_the_deepest():
    # The teacher has a stage more, at its shallow end; of the first pair its map is the larger, of the second the smaller.
    theirs = [draw(2, 3, 8, 8, seed=1), draw(2, 3, 4, 4, seed=2), draw(2, 6, 1, 2, seed=3)]
    second = draw(2, 5, 2, 2, seed=4)

    def reference(x):
        pooled = theirs[1].double().numpy().reshape(2, 3, 2, 2, 2, 2).mean((3, 5))  # 4x4 -> 2x2, before it is squared
        first = ((attention_of(x) - attention_of(pooled)) ** 2).mean()
        own = second.double().numpy().mean(2, keepdims=True)  # 2x2 -> 1x2
        return first + ((attention_of(own) - attention_of(theirs[2].double().numpy())) ** 2).mean()

    assert_is(TERMS["at"](), lambda x: make(maps(x, second), [maps(*theirs)]), draw(2, 4, 2, 2), reference)


def test_at_sees_where_but_not_how_much_or_in_which_channel():
    x = draw(3, 4, 5, 5)
    term = TERMS["at"]()
    assert float(term(make(maps(x), [maps(-3 * x[:, [2, 0, 3, 1]])]))) < 1e-12
    assert float(term(make(maps(x), [maps(x.flip(3))]))) > 1e-3


def test_at_pools_half_precision_maps_in_float32():
    own, theirs = draw(2, 4, 8, 8).bfloat16(), draw(2, 3, 4, 4, seed=1).bfloat16()
    got = TERMS["at"]()(make(maps(own, dtype=torch.bfloat16), [maps(theirs, dtype=torch.bfloat16)]))
    torch.testing.assert_close(got, TERMS["at"]()(make(maps(own.float()), [maps(theirs.float())])), rtol=1e-6, atol=0)


def test_at_averages_teachers():
    own, one, two = (maps(draw(3, 2, 4, 4, seed=s), draw(3, 2, 2, 2, seed=s + 9)) for s in range(3))
    mean_of_two("at", one, two, own)


# hints


@pytest.mark.parametrize(
    ("size", "target", "kind", "kernel", "stride"),
    [
        ((8, 8), (8, 8), nn.Conv2d, (1, 1), (1, 1)),
        ((8, 8), (4, 4), nn.Conv2d, (3, 3), (2, 2)),
        ((4, 4), (8, 8), nn.ConvTranspose2d, (4, 4), (2, 2)),
        ((8, 7), (6, 7), nn.Conv2d, (3, 1), (1, 1)),
        ((3, 3), (8, 8), nn.Conv2d, (1, 1), (1, 1)),  # as large as the student's, and the teacher's is pooled
        ((8, 4), (4, 8), nn.Conv2d, (5, 1), (1, 1)),
    ],
)
def test_fitnet_regressor_bridges_sizes(size, target, kind, kernel, stride):
    batch = make(maps(draw(2, 3, *size), draw(2, 4, 1, 1)), [maps(draw(2, 6, *target, seed=1), draw(2, 5, 1, 1))])
    term = TERMS["fitnet"](stage=1)
    term.setup(batch, SETTING)
    conv, norm, relu = term.regressors[0]
    assert (type(conv), conv.kernel_size, conv.stride) == (kind, kernel, stride)
    assert (type(norm), norm.num_features, type(relu)) == (nn.BatchNorm2d, 6, nn.ReLU)
    assert conv(batch.own.stages[0]).shape[2:] in (torch.Size(target), torch.Size(min(p) for p in zip(size, target)))
    term(batch).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in term.parameters())


def test_fitnet_is_the_squared_error_of_convolution_norm_and_relu():
    theirs = draw(3, 2, 2, 2, seed=1).abs()
    rest = [draw(3, 2, 4, 4, seed=2), draw(3, 2, 1, 1, seed=3)]

    def batch_of(x):
        return make(maps(rest[0], x, rest[1]), [maps(rest[0], theirs, rest[1])])

    x = draw(3, 4, 2, 2)
    torch.manual_seed(1)
    term = TERMS["fitnet"]()
    term.setup(batch_of(x), SETTING)
    with torch.no_grad():
        term.regressors[0][1].weight.copy_(torch.tensor([2.0, 0.5]))
        term.regressors[0][1].bias.copy_(torch.tensor([0.3, -0.2]))
    weight, bias = (p.detach().double().numpy() for p in term.regressors[0][0].parameters())

    def reference(x):
        y = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x) + bias[:, None, None]
        y = (y - y.mean((0, 2, 3), keepdims=True)) / np.sqrt(y.var((0, 2, 3), keepdims=True) + 1e-5)
        y = np.maximum(y * np.array([2, 0.5])[:, None, None] + np.array([0.3, -0.2])[:, None, None], 0)
        return ((y - theirs.double().numpy()) ** 2).mean()

    assert_is(term, batch_of, x, reference)


def test_fitnet_takes_the_stage_as_far_from_the_deepest():
    own = maps(draw(2, 2, 16, 16), draw(2, 3, 8, 8), draw(2, 4, 4, 4))
    teacher = maps(*(draw(2, c, s, s) for c, s in ((5, 32), (6, 16), (7, 8), (8, 4))))
    for stage, channels in ((1, (2, 6)), (2, (3, 7)), (3, (4, 8))):
        term = TERMS["fitnet"](stage=stage)
        term.setup(make(own, [teacher]), SETTING)
        conv = term.regressors[0][0]
        assert (conv.in_channels, conv.out_channels) == channels
    with pytest.raises(ValueError, match="fitnet: stage is 4; it must be at most 3"):
        TERMS["fitnet"](stage=4).setup(make(own, [teacher]), SETTING)
    with pytest.raises(ValueError, match="fitnet: stage is 2; it must be at least 4"):
        TERMS["fitnet"](stage=2).setup(make(teacher, [maps(draw(2, 3, 8, 8))]), SETTING)


def test_fitnet_has_a_regressor_for_each_teacher():
    own, one, two = (maps(draw(3, 2, 4, 4, seed=s), draw(3, 2, 2, 2, seed=s + 9)) for s in range(3))
    batch = make(own, [one, two])
    term = TERMS["fitnet"](stage=1)
    term.setup(batch, SETTING)
    expected = [F.mse_loss(m(own.stages[0]), t.stages[0]).item() for m, t in zip(term.regressors, (one, two))]
    assert expected[0] != expected[1]
    assert term(batch).item() == pytest.approx(sum(expected) / 2, rel=1e-6)


# similarity preserving


def test_sp_is_the_distance_of_row_normalised_gram_matrices():
    shallow, theirs = draw(3, 1, 4, 4, seed=2), draw(3, 5, 1, 3, seed=1)

    def similarities(x):
        x = x.reshape(len(x), -1)
        gram = np.array([[sum(p * q for p, q in zip(a, b)) for b in x] for a in x])
        return np.array([row / math.sqrt(sum(row**2)) for row in gram])

    def reference(x):
        return ((similarities(x) - similarities(theirs.double().numpy())) ** 2).sum() / 9

    assert_is(TERMS["sp"](), lambda x: make(maps(shallow, x), [maps(shallow, theirs)]), draw(3, 2, 2, 2), reference)


def test_sp_ignores_rotations_and_scale():
    x = draw(4, 6, 1, 1)
    rotation = torch.linalg.qr(draw(6, 6, seed=1)).Q
    turned = 2.5 * torch.einsum("oc,bchw->bohw", rotation, x)
    term = TERMS["sp"]()
    assert float(term(make(maps(x), [maps(turned)]))) < 1e-11
    assert float(term(make(maps(x), [maps(turned.flip(0))]))) > 1e-3


def test_sp_averages_teachers():
    mean_of_two("sp", *(maps(draw(3, 2, 2, 2, seed=s)) for s in range(3)))


# relational


def huber(a, b):
    error = abs(a - b)
    return error**2 / 2 if error < 1 else error - 0.5


def relational(x, theirs, distance, angle):
    """By loops over pairs and triples."""
    n, loss = len(x), 0.0
    lengths = [[[np.linalg.norm(p - q) for q in z] for p in z] for z in (x, theirs)]
    own, other = (np.array(d) / (np.sum(d) / (n * (n - 1))) for d in lengths)
    for i, j in itertools.product(range(n), repeat=2):
        loss += distance * huber(own[i, j], other[i, j]) / n**2
    for i, j, k in itertools.product(range(n), repeat=3):
        if i not in (j, k):  # an image and itself: no direction, cosine 0
            cosines = [(z[j] - z[i]) @ (z[k] - z[i]) / (d[i][j] * d[i][k]) for z, d in zip((x, theirs), lengths)]
            loss += angle * huber(*cosines) / n**3
    return loss


@pytest.mark.parametrize(("distance", "angle"), [(25, 50), (1, 0), (0, 1)])
def test_rkd_is_the_huber_loss_of_distances_and_angles(distance, angle):
    theirs = draw(4, 2, seed=8)
    theirs[0] *= 6  # far off, so that some errors exceed 1, where the Huber loss turns linear
    term = TERMS["rkd"](distance=distance, angle=angle)

    def reference(x):
        return relational(x, theirs.double().numpy(), distance, angle)

    assert_is(term, lambda x: make(features(x), [features(theirs)]), draw(4, 3), reference)


def test_rkd_defaults_are_the_benchmarks():
    x, theirs = draw(5, 3), draw(5, 4, seed=1)
    expected = relational(x.double().numpy(), theirs.double().numpy(), 25, 50)
    assert float(TERMS["rkd"]()(make(features(x), [features(theirs)]))) == pytest.approx(expected, rel=1e-5)


def test_rkd_ignores_rotation_scale_and_shift():
    x, rotation = draw(5, 4), torch.linalg.qr(draw(4, 4, seed=1)).Q
    assert float(TERMS["rkd"]()(make(features(x), [features(3 * x @ rotation + 7)]))) < 1e-8
    assert float(TERMS["rkd"]()(make(features(x), [features((x @ rotation).flip(0))]))) > 0.1


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_rkd_is_finite_where_images_coincide(count):
    x = draw(4, 3)
    x[:count] = x[0]
    x.requires_grad_()
    loss = TERMS["rkd"]()(make(features(x), [features(draw(4, 2, seed=1))]))
    loss.backward()
    assert loss.isfinite()
    assert float(x.grad.abs().max()) < 1e3


def test_rkd_of_one_image_is_zero():
    x = draw(1, 3).requires_grad_()
    loss = TERMS["rkd"]()(make(features(x), [features(draw(1, 2))]))
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


def test_rkd_averages_teachers():
    mean_of_two("rkd", *(features(draw(3, 2, seed=s)) for s in range(3)))


def test_rkd_knows_its_memory():
    term = TERMS["rkd"]()
    term.setup(make(features(draw(2, 8)), [features(draw(2, 16))]), SETTING)
    assert term.memory(10, 1000) >= 4 * (2 * 10**3 + 10**2 * (8 + 16))


# decoupled


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q) if a)


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def decoupled(x, theirs, labels, alpha, beta, tau):
    loss = 0.0
    for z, t, y in zip(x, theirs, labels):
        q, p = softmax(z / tau), softmax(t / tau)
        loss += alpha * divergence((p[y], 1 - p[y]), (q[y], 1 - q[y]))
        loss += beta * divergence(np.delete(p, y) / (1 - p[y]), np.delete(q, y) / (1 - q[y]))
    return tau**2 * loss / len(x)


@pytest.mark.parametrize(("alpha", "beta", "tau"), [(1, 8, 4), (1, 0, 2), (0, 1, 1)])
def test_dkd_is_the_two_divergences(alpha, beta, tau):
    theirs, labels = 3 * draw(3, 5, seed=1), [4, 0, 2]
    term = TERMS["dkd"](alpha=alpha, beta=beta, tau=tau, warmup=0)

    def reference(x):
        return decoupled(x, theirs.double().numpy(), labels, alpha, beta, tau)

    assert_is(term, lambda x: make(logits(x), [logits(theirs)], labels), 2 * draw(3, 5), reference)


def test_dkd_defaults_are_the_codes():
    x, theirs, labels = draw(3, 5), 3 * draw(3, 5, seed=1), [4, 0, 2]
    expected = decoupled(x.double().numpy(), theirs.double().numpy(), labels, 1, 8, 4)
    assert float(TERMS["dkd"]()(make(logits(x), [logits(theirs)], labels))) == pytest.approx(expected, rel=1e-5)


def test_dkd_with_the_teachers_doubt_as_beta_is_plain_distillation():
    own, theirs, label = draw(1, 6), 3 * draw(1, 6, seed=1), 2
    doubt = 1 - float((theirs / 4).softmax(1)[0, label])
    plain = 16 * F.kl_div((own / 4).log_softmax(1), (theirs / 4).softmax(1), reduction="batchmean")
    term = TERMS["dkd"](alpha=1, beta=doubt, tau=4, warmup=0)
    assert float(term(make(logits(own), [logits(theirs)], [label]))) == pytest.approx(float(plain), rel=1e-5)


def test_dkd_parts_see_what_they_should():
    own, theirs, labels = draw(3, 5), 3 * draw(3, 5, seed=1), [4, 0, 2]
    raised, scaled = theirs.clone(), theirs.clone()
    raised[range(3), labels] += 2.0  # other odds of the true class, the same probabilities among the others
    target, others = (TERMS["dkd"](alpha=a, beta=1 - a, warmup=0) for a in (1, 0))

    def value(term, teacher):
        return float(term(make(logits(own), [logits(teacher)], labels)))

    assert value(others, raised) == pytest.approx(value(others, theirs), rel=1e-5)
    assert abs(value(target, raised) - value(target, theirs)) > 0.01
    for i, y in enumerate(labels):  # two others swapped: the odds of the true class stay
        one, two = [k for k in range(5) if k != y][:2]
        scaled[i, [one, two]] = theirs[i, [two, one]]
    assert value(target, scaled) == pytest.approx(value(target, theirs), rel=1e-5)
    assert abs(value(others, scaled) - value(others, theirs)) > 0.01


def test_dkd_is_zero_for_the_teachers_own_logits_and_finite_for_extreme_ones():
    x, labels = draw(3, 5), [4, 0, 2]
    assert abs(float(TERMS["dkd"](warmup=0)(make(logits(x + 3), [logits(x)], labels)))) < 1e-5
    sure = torch.zeros(3, 5).index_put((torch.arange(3), torch.tensor(labels)), torch.tensor(4e3)).requires_grad_()
    for own, theirs in ((sure, -sure.detach()), (-sure, sure.detach()), (sure, sure.detach())):
        loss = TERMS["dkd"](warmup=0)(make(Output(own), [Output(theirs)], labels))
        (gradient,) = torch.autograd.grad(loss, sure)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_dkd_warms_up_by_whole_epochs_from_the_first():
    own, theirs = draw(3, 5), 3 * draw(3, 5, seed=1)
    full = float(TERMS["dkd"](warmup=0)(make(logits(own), [logits(theirs)])))
    term = TERMS["dkd"]()
    assert float(term(make(logits(own), [logits(theirs)]))) == full  # in a loop that tells of no epochs
    # mdistiller counts epochs from 1: epoch k, here k - 1, has k / 20.
    for epoch, factor in ((0, 1 / 20), (1, 2 / 20), (18, 19 / 20), (19, 1), (20, 1), (239, 1)):
        term.start_epoch(epoch)
        assert float(term(make(logits(own), [logits(theirs)]))) == pytest.approx(factor * full, rel=1e-5)


def test_dkd_averages_teachers():
    mean_of_two("dkd", *(logits(draw(3, 4, seed=s)) for s in range(3)))


# all


@pytest.mark.parametrize("name", ["at", "dkd", "fitnet", "rkd", "sp"])
def test_bfloat16_is_computed_in_float32(name):
    outputs = []
    for seed in range(2):
        stages = [draw(4, 3, 8, 8, seed=seed).abs(), draw(4, 5, 4, 4, seed=seed + 5).abs()]
        output = maps(*(x.to(memory_format=torch.channels_last) for x in stages), dtype=torch.bfloat16)
        output.logits = draw(4, 6, seed=seed + 9).bfloat16()
        outputs.append(output)
    own, theirs = outputs
    values = []
    for cast in (torch.Tensor.bfloat16, torch.Tensor.float):
        torch.manual_seed(0)
        term = TERMS[name]()
        parts = [Output(cast(o.logits), [cast(x) for x in o.stages], pooled=cast(o.pooled)) for o in (own, theirs)]
        parts[0].stages = [x.requires_grad_() for x in parts[0].stages]
        half = parts[0].logits.dtype == torch.bfloat16
        batch = make(parts[0], parts[1:], [0, 5, 3, 1])
        term.setup(batch, SETTING)
        if half:
            term.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
        before = [x.detach().clone() for x in parts[0].stages]
        loss = term(batch)
        assert loss.dtype == torch.float32
        assert loss.shape == ()
        assert all(torch.equal(x, y) for x, y in zip(before, parts[0].stages))
        values.append(float(loss.detach()))
    # The same numbers come in: only the regressor's convolution may round.
    assert values[0] == pytest.approx(values[1], rel=1e-2 if name == "fitnet" else 1e-5)


@pytest.mark.parametrize("name", [name for name, term in TERMS.items() if term.requires.teacher])
def test_no_teacher_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}: there is no teacher"):
        Objective({name: {}}).setup(make(maps(draw(2, 3, 8, 8), draw(2, 3, 4, 4)), []), SETTING)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fitnet", {"stage": 0}, "fitnet: stage is 0; it must be"),
        ("fitnet", {"stage": 1.5}, "fitnet: stage is 1.5; it must be"),
        ("rkd", {"distance": -1}, "rkd: distance is -1; it must be"),
        ("rkd", {"angle": math.nan}, "rkd: angle is nan; it must be"),
        ("rkd", {"distance": 0, "angle": 0}, "rkd: angle is 0; it must be"),
        ("dkd", {"alpha": -1}, "dkd: alpha is -1; it must be"),
        ("dkd", {"beta": -1}, "dkd: beta is -1; it must be"),
        ("dkd", {"tau": 0}, "dkd: tau is 0; it must be"),
        ("dkd", {"warmup": -1}, "dkd: warmup is -1; it must be"),
    ],
)
def test_options_are_checked(name, options, message):
    with pytest.raises(ValueError, match=message):
        TERMS[name](**options)
