"""Terms that learn from the group's other networks, against plain arithmetic, and what their gradients reach."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dgd.objectives import TERMS, Batch, Objective, Output, Requires, Setting
from dgd.objectives.fusion import Chain, Fusion, flip, map_distance, mixer
from dgd.objectives.maps import attention, distance

SHAPES = [(4, 8, 8), (8, 4, 4), (16, 2, 2)]
CLASSES, IMAGES = 5, 6


def output(seed, shapes=SHAPES, images=IMAGES, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    stages = [torch.randn(images, *shape, generator=draw).relu().to(dtype) for shape in shapes]
    return Output(torch.randn(images, CLASSES, generator=draw).to(dtype), stages, [], stages[-1].mean((2, 3)))


def batch(network, networks=3, **kwargs):
    """The batch of one network of a group; its own output can be differentiated."""
    outputs = {k: output(10 + k, **kwargs) for k in range(networks)}
    own = outputs.pop(network)
    for tensor in (own.logits, *own.stages):
        tensor.requires_grad_()
    labels = torch.arange(len(own.logits)) % CLASSES
    return Batch({"image": torch.zeros(len(labels), 3, 8, 8)}, labels, labels, own, peers=outputs)


def logits_batch(own, *peers):
    own = Output(torch.as_tensor(own))
    return Batch({}, None, None, own, peers={i + 1: Output(torch.as_tensor(p)) for i, p in enumerate(peers)})


def ffsd(network, networks=3, b=None, **options):
    torch.manual_seed(network)
    term = TERMS["ffsd"](**options)
    b = b or batch(network, networks)
    term.setup(b, Setting(network, networks, b.labels))
    return term.train()


# --- mutual ---------------------------------------------------------------------------------------------------------


def test_mutual_golden_value_mean_and_sum():
    # own even; peers (3/4, 1/4) and (1/8, 7/8). KL(p || even) = ln 2 - entropy of p.
    b = logits_batch([[0.0, 0.0]], [[math.log(3), 0.0]], [[0.0, math.log(7)]])
    one = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    two = 0.125 * math.log(0.25) + 0.875 * math.log(1.75)
    assert float(TERMS["mutual"]()(b)) == pytest.approx((one + two) / 2, rel=1e-5)
    assert float(TERMS["mutual"](reduce="sum")(b)) == pytest.approx(one + two, rel=1e-5)
    # The other direction is another number: own (3/4, 1/4), peer even.
    b = logits_batch([[math.log(3), 0.0]], [[0.0, 0.0]])
    assert float(TERMS["mutual"]()(b)) == pytest.approx(-0.5 * math.log(0.75), rel=1e-5)


@pytest.mark.parametrize(("reduce", "factor"), [("mean", 1), ("sum", 2)])
def test_mutual_gradient_is_tau_times_the_difference_of_probabilities(reduce, factor):
    z = torch.randn(4, 5, requires_grad=True)
    peers = [torch.randn(4, 5, requires_grad=True) for _ in range(2)]
    TERMS["mutual"](tau=3, reduce=reduce)(logits_batch(z, *peers)).backward()
    p = torch.stack([(x / 3).softmax(1) for x in peers]).mean(0)
    assert torch.allclose(z.grad, factor * 3 * ((z / 3).softmax(1) - p).detach() / 4, atol=1e-6)
    assert all(x.grad is None for x in peers)


def test_mutual_is_zero_for_equal_answers_and_knows_no_order_or_shift():
    z, one, two = (torch.randn(4, 5) for _ in range(3))
    assert float(TERMS["mutual"]()(logits_batch(z, z.clone(), z + 7))) == pytest.approx(0, abs=1e-6)
    value = float(TERMS["mutual"]()(logits_batch(z, one, two)))
    assert value > 0.01
    assert float(TERMS["mutual"]()(logits_batch(z, two, one))) == pytest.approx(value, rel=1e-6)
    # tau scales logits and loss
    assert float(TERMS["mutual"](tau=2)(logits_batch(2 * z, 2 * one, 2 * two))) == pytest.approx(4 * value, rel=1e-5)


def test_mutual_in_bfloat16_is_a_float32_number_of_the_same_logits():
    z, peer = torch.randn(4, 5).bfloat16(), (40 * torch.randn(4, 5)).bfloat16()
    value = TERMS["mutual"]()(logits_batch(z, peer))
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float(TERMS["mutual"]()(logits_batch(z.float(), peer.float()))), rel=1e-6)


def test_mutual_asks_for_what_its_batches_need():
    for batches, peers in (("same", "together"), ("turns", "turns"), ("own", "own")):
        assert TERMS["mutual"](batches=batches).requires == Requires(peers=peers, task="classification")
    assert TERMS["mutual"]().requires.peers == "together"
    assert Objective({"ce": {}, "mutual": {"batches": "own"}}).requires.peers == "own"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mutual", {"tau": 0}, "mutual: tau is 0; it must be above 0"),
        ("mutual", {"reduce": "max"}, "mutual: reduce is 'max'; it must be 'mean' or 'sum'"),
        ("mutual", {"batches": "all"}, "mutual: batches is 'all'; it must be 'same', 'turns' or 'own'"),
        ("ffsd", {"tau": -1}, "ffsd: tau is -1; it must be above 0"),
        ("ffsd", {"lam_f": -1}, "ffsd: lam_f is -1; it must be 0 or more"),
        ("ffsd", {"ramp": -2}, "ffsd: ramp is -2; it must be 0 or more"),
        ("ffsd", {"self_distillation": "none"}, "ffsd: self_distillation is 'none'; it must be 'code' or 'meant'"),
    ],
)
def test_options_are_checked(name, options, message):
    with pytest.raises(ValueError, match=message):
        TERMS[name](**options)


def test_mutual_refuses_a_network_alone():
    with pytest.raises(ValueError, match="at least 2"):
        TERMS["mutual"]().setup(None, Setting(0, 1, None))
    with pytest.raises(ValueError, match="no peers"):
        TERMS["mutual"]()(logits_batch([[0.0, 1.0]]))


# --- the parts of ffsd ----------------------------------------------------------------------------------------------


def plain_unit(x):
    n = math.sqrt(float((x**2).sum()))
    return x / n if n else x


def plain_distance(x, y):
    return float(np.mean([((plain_unit(u) - plain_unit(v)) ** 2).mean() for u, v in zip(x, y)]))


def plain_flip(a):
    """One image's attention, flattened."""
    n = math.sqrt(float((a**2).sum()))
    y = a / n
    edge = sorted(y)[len(y) // 3 - 1]
    return np.array([v if v < edge else (n / 2 if v == edge else n - v) for v in y]), y, n


def test_distance_golden_value_and_what_it_does_not_see():
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])  # units (0.6, 0.8) and (0, 1)
    assert float(distance(x, y)) == pytest.approx((0.36 + 0.04) / 2, rel=1e-6)
    # each image has its own length, and a zero map stays zero
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    y = torch.tensor([[30.0, 40.0], [0.0, 0.0], [0.0, 5.0]])
    assert float(distance(x, y)) == pytest.approx(2 / 6, rel=1e-6)
    x = torch.randn(3, 2, 4, 4)
    assert float(distance(x, x * 5)) == pytest.approx(0, abs=1e-7)
    assert float(distance(x, -x)) == pytest.approx(4 / 32, rel=1e-6)


def test_distance_gradient():
    x, y = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: distance(x, y), x)
    zero = torch.zeros(2, 3, requires_grad=True)  # a dead map must not spoil the step
    distance(zero, torch.randn(2, 3)).backward()
    assert zero.grad.isfinite().all()
    maps = torch.randn(2, 3, 4, 4)
    for call in (lambda: distance(y, x), lambda: map_distance(maps, maps, attention(maps.clone().requires_grad_()))):
        with pytest.raises(ValueError, match="detach it"):  # else it would learn nothing from it, without a word
            call()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_map_distance_is_two_distances(dtype):
    x, y = torch.randn(3, 4, 2, 5).to(dtype).requires_grad_(), torch.randn(3, 4, 2, 5).to(dtype)
    with torch.no_grad():
        x[1, :, 0, 0] = 0
    got = map_distance(x, y, attention(y))
    wide = x.detach().double().requires_grad_()
    wanted = distance(wide, y.double()) + distance(attention(wide), attention(y).double())
    (3 * got).backward()
    (3 * wanted).backward()
    close = {} if dtype == torch.float64 else {"rtol": 1e-2, "atol": 1e-4}
    torch.testing.assert_close(got.double(), wanted, **close)
    torch.testing.assert_close(x.grad.double(), wide.grad, **close)
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(lambda x: map_distance(x, y, attention(y)), x)


def test_attention_is_the_mean_square_over_channels():
    x = torch.randn(2, 3, 2, 2, requires_grad=True)
    a = attention(x)
    assert a.shape == (2, 2, 2)
    assert float(a[1, 0, 1].detach()) == pytest.approx(sum(float(v) ** 2 for v in x[1, :, 0, 1].detach()) / 3, rel=1e-6)
    a.sum().backward()
    assert torch.allclose(x.grad, 2 * x.detach() / 3)
    assert torch.autograd.gradcheck(attention, torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True))
    half = torch.randn(2, 3, 2, 2).bfloat16().requires_grad_()
    assert torch.allclose(attention(half), (half.float() ** 2).mean(1), rtol=1e-6)


def test_flip_golden_value():
    # length 5 (1 + 4 + 4 + 16 = 25), floor(4 / 3) = 1: the edge is the smallest entry
    target, move = flip(torch.tensor([[[4.0, 1.0], [2.0, 2.0]]]))
    assert torch.allclose(target, torch.tensor([[[4.2, 2.5], [4.6, 4.6]]]))
    assert torch.allclose(move, 5 * (target - torch.tensor([[[0.8, 0.2], [0.4, 0.4]]])))


@pytest.mark.parametrize("size", [(3, 3), (4, 4), (2, 5)])
def test_flip_against_loops(size):
    a = torch.rand(3, *size) + 0.1
    a[1] *= 100
    target, move = flip(a)
    for k in range(3):
        expected, y, n = plain_flip(a[k].flatten().numpy())
        assert np.allclose(target[k].flatten(), expected, rtol=1e-5)
        assert np.allclose(move[k].flatten(), (expected - y) * n, rtol=1e-4, atol=1e-5)
        kept = int((np.abs(target[k].flatten().numpy() - y) < 1e-6).sum())
        assert kept == math.prod(size) // 3 - 1


@pytest.mark.parametrize(
    "shapes",
    [
        [(16, 32, 32), (32, 16, 16), (64, 8, 8)],
        [(5, 11, 9), (7, 6, 5), (12, 3, 3)],  # odd sizes, channels that are not halves
        [(8, 8, 8), (8, 2, 2)],  # four times
        [(8, 7, 6), (8, 7, 3)],  # one side stays
        [(4, 7, 7), (8, 4, 4), (8, 4, 4)],  # the same size
    ],
)
def test_chain_makes_the_shapes_of_the_stages(shapes):
    maps = Chain(shapes)(torch.randn(2, *shapes[-1]))
    assert [tuple(m.shape[1:]) for m in maps] == shapes[:-1]
    assert all((m >= 0).all() for m in maps)


def test_chain_has_the_published_steps_and_refuses_sizes_out_of_reach():
    chain = Chain([(16, 32, 32), (32, 16, 16), (64, 8, 8)])
    for deconv in chain.deconvs:
        assert (deconv.kernel_size, deconv.stride, deconv.padding) == ((3, 3), (2, 2), (1, 1))
        assert deconv.output_padding == (1, 1)
        assert deconv.bias is None
    assert Chain([(4, 5, 5), (4, 5, 5)]).deconvs[0].stride == (1, 1)
    with pytest.raises(ValueError, match="no stride leads from a map of \\[4, 4\\] to one of \\[5, 5\\]"):
        Chain([(4, 5, 5), (4, 4, 4)])


def test_frozen_chain_is_evaluation_mode_and_leaves_the_statistics():
    chain = Chain(SHAPES)
    for _ in range(3):
        chain(torch.randn(4, 16, 2, 2))
    before = {k: v.clone() for k, v in chain.state_dict().items()}
    x = torch.randn(5, 16, 2, 2)
    frozen = chain(x, frozen=True)
    assert all(torch.equal(v, before[k]) for k, v in chain.state_dict().items())
    assert chain.training
    assert all(norm.training for norm in chain.norms)
    assert not torch.allclose(frozen[0], chain(x)[0], atol=1e-2)
    chain.load_state_dict(before)
    for m, expected, alone in zip(frozen, chain.eval()(x), chain(x[:1], frozen=True)):
        assert torch.allclose(m, expected, atol=1e-6)
        assert torch.allclose(m[:1], alone, atol=1e-5)


def test_fusion_and_mixer_shapes_and_initialisation():
    torch.manual_seed(0)
    fused, logits = Fusion(64, 3, 7)(torch.randn(2, 192, 4, 4))
    assert fused.shape == (2, 64, 4, 4)
    assert logits.shape == (2, 7)
    layers = mixer(64, 128)
    assert layers(torch.randn(2, 64, 3, 3)).shape == (2, 128, 3, 3)
    assert float(layers[0].weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.15)
    assert float(layers[3].weight.detach().std()) == pytest.approx(math.sqrt(2 / 128), rel=0.05)


# --- ffsd -----------------------------------------------------------------------------------------------------------


def norm(x, layer, training):
    """Batch norm by its definition."""
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    else:
        mean, var = layer.running_mean, layer.running_var
    x = (x - mean[:, None, None]) / (var[:, None, None] + layer.eps).sqrt()
    return (x * layer.weight[:, None, None] + layer.bias[:, None, None]).clamp_min(0)


def run_chain(chain, x, training):
    maps = []
    for deconv, layer in zip(chain.deconvs, chain.norms):
        x = norm(F.conv_transpose2d(x, deconv.weight, stride=2, padding=1, output_padding=1), layer, training)
        maps.insert(0, x)
    return maps


def run_mixer(layers, x):
    x = norm(F.conv2d(x, layers[0].weight, padding=1, groups=x.shape[1]), layers[1], True)
    return norm(F.conv2d(x, layers[3].weight), layers[4], True)


def square_mean(x):
    return (x.detach().numpy().astype(np.float64) ** 2).mean(1).reshape(len(x), -1)


def plain_a(x, y):
    """A of the attentions of two maps."""
    return plain_distance(square_mean(x), square_mean(y))


def plain_kl(own, target, tau):
    total = 0.0
    for q, p in zip(own.detach().numpy().astype(np.float64), target.detach().numpy().astype(np.float64)):
        q, p = np.exp(q / tau), np.exp(p / tau)
        q, p = q / q.sum(), p / p.sum()
        total += float((p * np.log(p / q)).sum())
    return tau**2 * total / len(own)


@torch.no_grad()
def chain_loss(term, stages):
    made = run_chain(term.chain, stages[-1], True)
    flat = [(m.flatten(1).numpy(), s.detach().flatten(1).numpy()) for m, s in zip(made, stages)]
    return sum(plain_distance(*f) + plain_a(m, s) for f, m, s in zip(flat, made, stages))


@torch.no_grad()
def within(term, stages, deepest):
    return sum(plain_a(s, m) for s, m in zip(stages, run_chain(term.chain, deepest, False)))


def test_first_student_learns_from_students_only_and_owns_nothing():
    b = batch(1, 4)
    term = ffsd(1, 4, b)
    expected = (plain_kl(b.own.logits, b.peers[2].logits, 2) + plain_kl(b.own.logits, b.peers[3].logits, 2)) / 2
    assert float(term(b).detach()) == pytest.approx(expected, rel=1e-5)
    assert not list(term.parameters())
    assert term.groups() == []


@pytest.mark.parametrize("which", ["code", "meant"])
@pytest.mark.parametrize(("epoch", "ramp"), [(9, 1.0), (0, math.exp(-3.2))])
def test_student_value_is_the_sum_of_its_parts(which, epoch, ramp):
    b = batch(3, 4)
    term = ffsd(3, 4, b, self_distillation=which, lam_div=3.0, lam_sd=20.0)
    term.start_epoch(epoch)
    for _ in range(3):  # running statistics that are not the batch's
        term.chain(torch.randn(4, 16, 2, 2))
    own, before = b.own, b.peers[2].stages[-1]
    answers = (plain_kl(own.logits, b.peers[1].logits, 2) + plain_kl(own.logits, b.peers[2].logits, 2)) / 2
    flips = [plain_flip(a) for a in square_mean(before)]
    diversity = np.mean([(plain_unit(a) - t) ** 2 for a, (t, _, _) in zip(square_mean(own.stages[-1]), flips)])
    move = np.stack([(t - y) * n for t, y, n in flips]).reshape(IMAGES, 1, 2, 2) / 16
    moved = before + torch.from_numpy(move).float()
    sd = within(term, own.stages, moved)
    weight = 3.0 if which == "code" else 20.0
    expected = answers + ramp * (3.0 * diversity + weight * sd + 20.0 * chain_loss(term, own.stages))
    assert sd > 1e-3
    assert float(term(b).detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("epoch", "ramp"), [(9, 1.0), (2, math.exp(-0.8))])
def test_leader_value_is_the_sum_of_its_parts(epoch, ramp):
    b = batch(0)
    term = ffsd(0, b=b, tau=3.0, lam_f=7.0, lam_sd=20.0)
    term.start_epoch(epoch)
    own, students = b.own, [b.peers[1], b.peers[2]]
    with torch.no_grad():
        together = torch.cat([s.stages[-1] for s in students], 1)
        fused = run_mixer(term.fusion.mix, together)
        logits = fused.mean((2, 3)) @ term.fusion.fc.weight.T + term.fusion.fc.bias
        wide = run_mixer(term.trans, own.stages[-1])
        mean = (students[0].logits + students[1].logits) / 2
    label = -float(logits.log_softmax(1)[torch.arange(IMAGES), b.labels].mean())
    features = plain_a(own.stages[-1], fused) + plain_a(wide, together) + within(term, own.stages, fused)
    expected = label + plain_kl(logits, mean, 3) + plain_kl(own.logits, logits, 3)
    expected += ramp * (7.0 * features + 20.0 * chain_loss(term, own.stages))
    assert float(term(b).detach()) == pytest.approx(expected, rel=1e-4)


def test_ramp_counts_epochs_from_one():
    term = TERMS["ffsd"]()
    for epoch, exponent in [(0, 3.2), (1, 1.8), (2, 0.8), (3, 0.2), (4, 0.0), (100, 0.0)]:
        assert term.ramp(epoch) == pytest.approx(math.exp(-exponent), rel=1e-6)
    assert TERMS["ffsd"](ramp=0).ramp(0) == 1.0


def gradients(network, b=None, labels=None, peer_seed=None, **options):
    """Gradients by logits and stages of the network, and by the parameters of each module, of a term made the same way."""
    b = b or batch(network)
    if labels is not None:
        b.labels = labels
    if peer_seed is not None:
        b.own.logits = torch.randn(IMAGES, CLASSES, generator=torch.Generator().manual_seed(peer_seed)).requires_grad_()
    term = ffsd(network, b=b, **options)
    term(b).backward()
    found = {"network": [t.grad for t in (b.own.logits, *b.own.stages)]}
    for name in ("chain", "fusion", "trans"):
        if getattr(term, name) is not None:
            found[name] = [p.grad for p in getattr(term, name).parameters()]
    for peer in b.peers.values():
        assert all(not t.requires_grad for t in (peer.logits, *peer.stages))
    return found


def same(one, two, factor=1.0):
    return all((a is None and b is None) or torch.allclose(factor * a, b, rtol=1e-4, atol=1e-9) for a, b in zip(one, two))


def test_student_losses_and_chain_losses_reach_disjoint_parameters():
    plain = gradients(2)
    assert all(g is not None and g.abs().sum() > 0 for g in (*plain["network"], *plain["chain"][:2]))
    harder = gradients(2, lam_sd=2000.0)
    assert same(plain["network"], harder["network"])
    assert same(plain["chain"], harder["chain"], 0.5) is False
    assert same(plain["chain"], harder["chain"], 2.0)
    apart = gradients(2, lam_div=10.0)
    assert same(plain["chain"], apart["chain"])
    assert not same(plain["network"], apart["network"])
    meant = gradients(2, self_distillation="meant")
    assert same(plain["chain"], meant["chain"])
    assert not same(plain["network"], meant["network"])


def test_leader_losses_and_module_losses_reach_disjoint_parameters():
    plain = gradients(0)
    assert all(g is not None and g.abs().sum() > 0 for name in plain for g in plain[name][:2])
    # The labels speak to the fusion module alone, but for what it then tells the leader: its answer stays the same here.
    labels = gradients(0, labels=torch.zeros(IMAGES, dtype=torch.int64))
    assert not same(plain["fusion"], labels["fusion"])
    assert all(same(plain[name], labels[name]) for name in ("network", "chain", "trans"))
    # The leader's answer speaks to the leader alone.
    answer = gradients(0, peer_seed=99)
    assert not same(plain["network"][:1], answer["network"][:1])
    assert all(same(plain[name], answer[name]) for name in ("chain", "fusion", "trans"))
    # The leader's feature terms reach the leader and trans, in proportion for trans.
    features = gradients(0, lam_f=20.0)
    assert same(plain["trans"], features["trans"], 2.0)
    assert same(plain["network"][1:], features["network"][1:], 2.0)
    assert all(same(plain[name], features[name]) for name in ("chain", "fusion"))
    # The chain's own loss reaches the chain alone.
    harder = gradients(0, lam_sd=2000.0)
    assert same(plain["chain"], harder["chain"], 2.0)
    assert all(same(plain[name], harder[name]) for name in ("network", "fusion", "trans"))


def test_leader_learns_through_trans():
    b, b2 = batch(0), batch(0)
    term = ffsd(0, b=b)
    term(b).backward()
    torch.nn.init.zeros_(term.trans[4].weight)  # trans says nothing: its share of the leader's gradient is gone
    term(b2).backward()
    assert not torch.allclose(b.own.stages[-1].grad, b2.own.stages[-1].grad, rtol=1e-3)


def test_student_gradient_by_finite_differences():
    b = batch(2)
    term = ffsd(2, b=b, lam_div=50.0, lam_sd=0.0)
    start = {k: v.clone() for k, v in term.state_dict().items()}
    term(b).backward()
    for tensor in (b.own.logits, *b.own.stages):
        step = 1e-2 * tensor.grad / tensor.grad.norm()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor += sign * step
                term.load_state_dict(start)
                values.append(float(term(b)))
                tensor -= sign * step
        assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(tensor.grad.norm()), rel=2e-2)


def test_one_forward_moves_the_statistics_once():
    b = batch(0)
    term = ffsd(0, b=b)
    term(b)
    with torch.no_grad():
        first = F.conv_transpose2d(b.own.stages[-1], term.chain.deconvs[0].weight, stride=2, padding=1, output_padding=1)
    # momentum 0.1 from 0, and from the network's own map, not from the fused one
    assert torch.allclose(term.chain.norms[0].running_mean, 0.1 * first.mean((0, 2, 3)), atol=1e-6)
    norms = [m for m in term.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 6
    assert all(int(m.num_batches_tracked) == 1 for m in norms)


def test_groups_say_how_modules_are_trained():
    term = ffsd(0)
    chain, fusion = term.groups()
    assert (chain["optimiser"], chain["lr"], chain["weight_decay"]) == ("adam", 1e-3, 1e-4)
    assert "scheduled" not in chain
    assert [id(p) for p in chain["params"]] == [id(p) for p in term.chain.parameters()]
    assert set(fusion) == {"params", "weight_decay"}
    assert fusion["weight_decay"] == 1e-5
    assert [id(p) for p in fusion["params"]] == [id(p) for p in term.fusion.parameters()]
    (chain,) = ffsd(2).groups()
    assert chain["optimiser"] == "adam"


def test_modules_are_built_from_torchs_generator_alone():
    one, two = (ffsd(0).state_dict() for _ in range(2))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("network", [0, 1, 2])
def test_bfloat16_channels_last_is_close_to_float32(network):
    full = ffsd(network)
    expected = float(full(batch(network)).detach())
    b = batch(network, dtype=torch.bfloat16)
    for o in (b.own, *b.peers.values()):
        o.stages = [s.detach().to(memory_format=torch.channels_last).requires_grad_(o is b.own) for s in o.stages]
    term = ffsd(network)
    term.autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    value = term(b)
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(expected, rel=2e-2)
    value.backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in term.parameters())


def test_nothing_of_the_batch_is_changed():
    for network in range(3):
        b = batch(network)
        copies = [t.clone() for o in (b.own, *b.peers.values()) for t in (o.logits, *o.stages)]
        ffsd(network, b=b)(b).backward()
        assert all(
            torch.equal(t, c) for t, c in zip([t for o in (b.own, *b.peers.values()) for t in (o.logits, *o.stages)], copies)
        )


def test_ffsd_refuses_groups_in_which_it_has_no_meaning():
    def refused(b, networks=3):
        return pytest.raises(ValueError, match="^ffsd: "), b, Setting(0, networks, b.labels)

    unlike = batch(0)
    unlike.peers[2] = output(3, shapes=[(4, 8, 8), (8, 4, 4), (8, 2, 2)])
    vit, tiny = [(8, 4, 4)], [(4, 2, 2), (8, 1, 1)]
    for error, b, setting in (
        refused(batch(0, 2), 2),
        refused(unlike),
        refused(batch(0, shapes=vit)),
        refused(batch(0, shapes=tiny)),
    ):
        with error:
            TERMS["ffsd"]().setup(b, setting)


def test_only_the_papers_or_the_codes_own_combination_is_faithful():
    found = {(b, r): TERMS["mutual"](batches=b, reduce=r).status for b in ("same", "turns", "own") for r in ("mean", "sum")}
    assert [key for key, status in found.items() if status == "faithful"] == [("turns", "mean"), ("own", "sum")]
