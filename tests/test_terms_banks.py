"""The terms `crd` and `hkd` and the memory banks that they share."""

import copy
import math

import numpy as np
import pytest
import torch

from dgd.objectives import TERMS, Batch, Output, Setting, banks
from dgd.objectives.hkd import neighbourhood

IMAGES, CLASSES, SMALL = 40, 4, {"dim": 6, "negatives": 9}
LABELS = torch.tensor([0] * 3 + [1] * 12 + [3] * 20 + [0] * 5)  # uneven, unsorted, and none of class 2


def batch(size=10, seed=0, dtype=torch.float32, teacher_width=7):
    """Images of a batch, of every class, with features of different widths."""
    torch.manual_seed(seed)
    index = torch.randperm(IMAGES)[:size]

    def make(*shape):
        return torch.randn(*shape).to(dtype)

    own = Output(make(size, CLASSES), pooled=make(size, 5).requires_grad_())
    teacher = Output(make(size, CLASSES), pooled=make(size, teacher_width))
    return Batch({"image": torch.zeros(size, 3, 4, 4)}, LABELS[index], index, own, [teacher])


def ready(name, seed=1, **options):
    torch.manual_seed(seed)
    term = TERMS[name](**(SMALL | options))
    term.setup(batch(2), Setting(0, 1, LABELS))
    return term


def drawn(term, data, seed):
    """The negatives that a forward pass seeded alike will draw."""
    torch.manual_seed(seed)
    return term.negatives(data.labels)


def step(term, data, seed):
    torch.manual_seed(seed)
    return term(data)


@pytest.fixture(params=["dense", "gathered"])
def path(request, monkeypatch):
    monkeypatch.setattr(banks, "DENSE", 10**9 if request.param == "dense" else 0)
    monkeypatch.setitem(banks.CHUNK, "cpu", 100)  # several pieces, the last one smaller


def unit(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


def embedded(layer, pooled):
    """By plain arithmetic, in float64."""
    weight, bias = (p.detach().double().numpy() for p in (layer.linear.weight, layer.linear.bias))
    return unit(pooled.detach().double().numpy() @ weight.T + bias)


def rows_of(term):
    return {which: bank.rows.double().numpy().copy() for which, bank in term.banks.items()}


def after(rows, index, embedding, momentum):
    rows = rows.copy()
    for i, e in zip(index.tolist(), embedding, strict=True):
        rows[i] = unit(momentum * rows[i] + (1 - momentum) * e)
    return rows


# What both share


def test_negatives_are_uniform_over_the_images_of_other_classes():
    torch.manual_seed(0)
    labels, draws = torch.tensor([0, 1, 3]), 40000
    index = banks.Negatives(LABELS, draws)(labels)
    for row, label in zip(index, labels, strict=True):
        times = torch.bincount(row, minlength=IMAGES)
        assert (times[label == LABELS] == 0).all()
        others = times[label != LABELS].double()
        expected = draws / len(others)
        assert ((others - expected).abs() < 5 * math.sqrt(expected)).all()  # the first and the last of a class as well
    assert not torch.equal(index[0], index[1])


def test_images_of_one_class_draw_apart():
    torch.manual_seed(0)
    index = banks.Negatives(LABELS, 50)(torch.tensor([1, 1]))
    assert not torch.equal(index[0], index[1])


def test_one_class_has_no_negatives():
    for name in ("crd", "hkd"):
        term = TERMS[name](**SMALL)
        with pytest.raises(ValueError, match=f"{name}: all training images are of one class"):
            term.setup(batch(2), Setting(0, 1, torch.full((IMAGES,), 3)))


@pytest.mark.parametrize("shift", [None, 0.7])
def test_sums_over_negatives_are_those_of_a_loop(path, shift):
    torch.manual_seed(0)
    queries, rows = torch.randn(5, 2, 3).double(), torch.randn(11, 3).double()
    index = torch.randint(0, 11, (5, 4))
    index[0] = 7  # one image, four times
    offset = None if shift is None else torch.tensor(shift).double()
    found = {f: banks.over_negatives(f, queries, rows, index, offset) for f in (banks.log_sum_exp, banks.sum_softplus)}
    for b in range(5):
        for q in range(2):
            scores = [float(queries[b, q] @ rows[k]) - (shift or 0) for k in index[b].tolist()]
            assert found[banks.log_sum_exp][b, q].item() == pytest.approx(math.log(sum(map(math.exp, scores))))
            assert found[banks.sum_softplus][b, q].item() == pytest.approx(sum(math.log1p(math.exp(s)) for s in scores))


@pytest.mark.parametrize("reduce", [banks.log_sum_exp, banks.sum_softplus])
def test_sums_over_negatives_have_the_right_gradient(path, reduce):
    torch.manual_seed(0)
    queries, rows = torch.randn(5, 2, 3).double().requires_grad_(), torch.randn(11, 3).double()
    index, shift = torch.randint(0, 11, (5, 4)), torch.tensor(0.3).double()
    assert torch.autograd.gradcheck(lambda x: banks.over_negatives(reduce, x, rows, index, shift), queries)


def test_sums_are_worked_through_in_small_pieces(path):
    seen = []

    def spy(scores, counts):
        seen.append((scores.shape[0], scores.numel() * (1 if banks.DENSE else 3)))  # gathered rows have 3 numbers a score
        return banks.log_sum_exp(scores, counts)

    banks.over_negatives(spy, torch.randn(20, 1, 3), torch.randn(11, 3), torch.randint(0, 11, (20, 4)))
    assert sum(images for images, _ in seen) == 20
    assert all(numbers <= 100 for _, numbers in seen)
    assert len(seen) < 4  # and in no more than it takes


def test_sums_hold_at_scores_that_would_overflow(path):
    rows = torch.tensor([[200.0], [-200.0], [-190.0]])  # the first is never drawn
    queries, index = torch.ones(1, 1, 1, requires_grad=True), torch.tensor([[1, 2, 1]])
    total = banks.over_negatives(banks.log_sum_exp, queries, rows, index)
    assert total.item() == pytest.approx(-190 + math.log1p(2 * math.exp(-10)), rel=1e-6)
    total.backward()
    assert queries.grad.item() == pytest.approx((-190 - 400 * math.exp(-10)) / (1 + 2 * math.exp(-10)), rel=1e-6)
    both = banks.over_negatives(banks.sum_softplus, torch.tensor([[[1.0]], [[-1.0]]]), rows, index.expand(2, 3))
    assert both.flatten().tolist() == pytest.approx([0, 590], abs=1e-6)


def test_a_bank_starts_uniform_with_rows_of_about_unit_norm():
    torch.manual_seed(0)
    rows = banks.Bank(2000, 12, 0.5).rows
    assert rows.pow(2).sum(1).mean().item() == pytest.approx(1, abs=0.02)
    assert rows.abs().max().item() == pytest.approx(0.5, abs=1e-3)  # sqrt(3 / 12)
    assert rows.mean().item() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("name", ["crd", "hkd"])
def test_gradients_are_of_the_banks_before_their_update(name):
    data, still = batch(), batch()
    term = ready(name)
    frozen = copy.deepcopy(term)
    for bank in frozen.banks.values():
        bank.update = lambda index, embedding: None
    step(term, data, 5).backward()
    step(frozen, still, 5).backward()
    assert torch.equal(data.own.pooled.grad, still.own.pooled.grad)
    assert not torch.equal(term.banks["own"].rows, frozen.banks["own"].rows)


@pytest.mark.parametrize("name", ["crd", "hkd"])
def test_gradients_reach_what_is_trained_and_nothing_else(name):
    data = batch()
    data.teachers[0].pooled.requires_grad_()
    term = ready(name)
    step(term, data, 5).backward()
    assert data.own.pooled.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in term.parameters())
    assert sum(p.numel() for p in term.parameters()) == {"crd": 6 * 6 + 6 * 8, "hkd": 6 * 6 + 6 * 8 + 2 * 6 * 13}[name]


@pytest.mark.parametrize("name", ["crd", "hkd"])
def test_a_resumed_term_goes_on_alike(name):
    term = ready(name)
    step(term, batch(), 5)
    fresh = ready(name, seed=2)
    step(fresh, batch(seed=9), 6)  # it has a past of its own, which loading must undo
    fresh.load_state_dict(copy.deepcopy(term.state_dict()))
    later = [step(t, batch(seed=3), 7) for t in (term, fresh)]
    assert torch.equal(*later)
    assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in term.state_dict().items())
    assert not [k for k in term.state_dict() if k.startswith("negatives")]  # made again from the labels


def test_a_state_from_before_the_first_batch_has_no_z():
    term = ready("crd")
    new = copy.deepcopy(term.state_dict())
    first = step(term, batch(), 5)
    step(term, batch(seed=3), 6)
    term.load_state_dict(new)
    assert torch.equal(step(term, batch(), 5), first)


@pytest.mark.parametrize("name", ["crd", "hkd"])
def test_half_precision_features_are_taken(name):
    full, half = batch(), batch(dtype=torch.bfloat16)
    exact, rounded = step(ready(name), full, 5), step(ready(name), half, 5)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    rounded.backward()
    assert half.own.pooled.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["crd", "hkd"])
def test_both_ways_to_sum_give_the_same_loss(name, monkeypatch):
    losses = []
    for dense in (0, 10**9):
        monkeypatch.setattr(banks, "DENSE", dense)
        losses.append(step(ready(name), batch(), 5).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("name", ["crd", "hkd"])
def test_training_the_embeddings_lowers_the_loss(name):
    term = ready(name)
    optimiser = torch.optim.SGD(term.parameters(), lr=0.05)
    losses = []
    for i in range(80):
        losses.append(step(term, batch(32), i))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize("name", ["crd", "hkd"])
def test_bad_options_and_networks_are_named(name):
    for option, value in (("dim", 0), ("negatives", 0), ("temperature", 0.0), ("momentum", 1.0), ("momentum", -0.1)):
        with pytest.raises(ValueError, match=f"{name}: {option} is {value}; it must be"):
            TERMS[name](**{option: value})
    term, data, setting = TERMS[name](**SMALL), batch(2), Setting(0, 1, LABELS)
    with pytest.raises(ValueError, match=f"{name}: there are 2 teachers"):
        term.setup(Batch(data.inputs, data.labels, data.index, data.own, [data.teachers[0]] * 2), setting)
    with pytest.raises(ValueError, match=f"{name}: the pooled feature of the teacher"):
        term.setup(Batch(data.inputs, data.labels, data.index, data.own, [Output(data.own.logits)]), setting)
    with pytest.raises(ValueError, match=f"{name}: the batch has 0 teachers"):
        ready(name)(Batch(data.inputs, data.labels, data.index, data.own))


@pytest.mark.parametrize("name", ["crd", "hkd"])
def test_memory_counts_the_banks_and_is_bounded(name):
    term = TERMS[name]()
    assert term.memory(64, 50000) > 2 * 50000 * 128 * 4
    assert term.memory(64, 50000) < 250 * 2**20  # gathering one bank's rows alone would be 512 MiB
    grown = term.memory(256, 1281167) - 2 * 1281167 * 128 * 4
    assert 256 * 16384 * 8 < grown < 2**29
    held = ready(name)
    buffers = sum(b.numel() * b.element_size() for b in held.buffers())
    assert held.memory(10, IMAGES) >= buffers - 100  # less class sizes and Z, some bytes


# crd


def crd_by_hand(term, data, index, z):
    """The loss, and Z, by loops over images and negatives."""
    own, teacher = (embedded(term.embeddings[w], o.pooled) for w, o in (("own", data.own), ("teacher", data.teachers[0])))
    rows, c, loss, found = rows_of(term), SMALL["negatives"] / IMAGES, 0.0, []
    for side, (e, bank) in enumerate([(own, rows["teacher"]), (teacher, rows["own"])]):
        others = [[data.index[b].item(), *index[b].tolist()] for b in range(len(e))]
        h = [[math.exp(float(e[b] @ bank[k]) / 0.07) for k in others[b]] for b in range(len(e))]
        found.append(z[side] if z else float(np.mean(h)) * IMAGES)
        for row in h:
            p = [x / found[-1] for x in row]
            loss -= math.log(p[0] / (p[0] + c + 1e-7)) / len(e)
            loss -= sum(math.log(c / (x + c + 1e-7)) for x in p[1:]) / len(e)
    return loss, found, {w: after(rows[w], data.index, e, 0.5) for w, e in (("own", own), ("teacher", teacher))}


def test_crd_is_that_of_loops_over_three_batches(path):
    term, z = ready("crd"), None
    for i in range(3):  # Z comes from the first alone
        data = batch(seed=20 + i)
        expected, z, rows = crd_by_hand(term, data, drawn(term, data, i), z)
        assert step(term, data, i).item() == pytest.approx(expected, rel=1e-5)
        assert term.z.tolist() == pytest.approx(z, rel=1e-5)
        for which, bank in term.banks.items():
            np.testing.assert_allclose(bank.rows.numpy(), rows[which], atol=1e-6)


def test_crd_gradient_is_that_of_the_plain_formula():
    term, data = ready("crd"), batch()
    step(term, batch(seed=4), 4)
    index, rows = drawn(term, data, 5), {w: bank.rows.clone() for w, bank in term.banks.items()}
    step(term, data, 5).backward()
    found = [data.own.pooled.grad, term.embeddings["own"].linear.weight.grad.clone()]
    plain, c = batch(), SMALL["negatives"] / IMAGES
    weight = term.embeddings["own"].linear.weight.detach().clone().requires_grad_()
    e = plain.own.pooled @ weight.T + term.embeddings["own"].linear.bias.detach()
    e = e / e.norm(dim=1, keepdim=True)
    everyone = torch.cat([data.index[:, None], index], 1)
    p = ((e[:, None] * rows["teacher"][everyone]).sum(2) / 0.07).exp() / term.z[0]
    loss = -((p[:, 0] / (p[:, 0] + c)).log() + (c / (p[:, 1:] + c)).log().sum(1)).mean()
    expected = torch.autograd.grad(loss, [plain.own.pooled, weight])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


# hkd


def neighbours_by_hand(logits, k):
    p = np.exp(logits.double().numpy())
    p = unit(p / p.sum(1, keepdims=True))
    closeness = p @ p.T
    np.fill_diagonal(closeness, 2)  # itself first
    return [sorted(range(len(p)), key=lambda j, i=i: -closeness[i, j])[:k] for i in range(len(p))]


def test_neighbourhood_is_the_normalised_adjacency():
    torch.manual_seed(0)
    logits = torch.randn(10, 4)
    nearest = neighbours_by_hand(logits, 3)
    adjacency = np.zeros((10, 10))
    for i, js in enumerate(nearest):
        adjacency[i, js] = 1
    root = np.diag(adjacency.sum(1) ** -0.5)  # edges that come in
    found = neighbourhood(logits, 3).numpy()
    np.testing.assert_allclose(found, root @ adjacency @ root, rtol=1e-6)
    assert not np.allclose(found, found.T)  # nearness is not mutual: a transposed graph would show above
    assert torch.equal(neighbourhood(logits.bfloat16(), 20), torch.full((10, 10), 0.1))  # fewer images than neighbours


def test_images_with_one_answer_are_still_their_own_neighbours():
    graph = neighbourhood(torch.zeros(9, 4), 2)
    assert (graph.diagonal() == 0.5).all()
    assert (graph.sum(1) == 1).all()


def hkd_by_hand(term, data, index, neighbours):
    outputs, rows = {"own": data.own, "teacher": data.teachers[0]}, rows_of(term)
    e = {w: embedded(term.embeddings[w], o.pooled) for w, o in outputs.items()}
    g = {}
    for which, output in outputs.items():
        near = neighbours_by_hand(output.logits, neighbours)
        weight, bias = (p.detach().double().numpy() for p in (term.graphs[which].weight, term.graphs[which].bias))
        g[which] = unit(np.stack([weight @ np.r_[x, e[which][js].mean(0)] + bias for x, js in zip(e[which], near)]))
    loss = 0.0
    for which, other in (("own", "teacher"), ("teacher", "own")):
        for b, i in enumerate(data.index.tolist()):
            smooth = unit(0.75 * rows[other][i] + 0.25 * g[other][b])
            for query, positive in ((e[which][b], rows[other][i]), (g[which][b], smooth)):
                scores = [query @ positive, *(query @ rows[which][k] for k in index[b].tolist())]
                scores = [s / 0.07 for s in scores]
                loss += (math.log(sum(map(math.exp, scores))) - scores[0]) / len(data.index)
    return loss, {w: after(rows[w], data.index, x, 0.9) for w, x in e.items()}


def test_hkd_is_that_of_loops_over_two_batches(path):
    term = ready("hkd", neighbours=3)
    for i in range(2):
        data = batch(seed=20 + i)
        expected, rows = hkd_by_hand(term, data, drawn(term, data, i), 3)
        assert step(term, data, i).item() == pytest.approx(expected, rel=1e-5)
        for which, bank in term.banks.items():
            np.testing.assert_allclose(bank.rows.numpy(), rows[which], atol=1e-6)


def test_hkd_gradient_is_that_of_finite_differences():
    start = ready("hkd", neighbours=3)
    step(start, batch(seed=4), 4)
    data = batch()
    step(copy.deepcopy(start), data, 5).backward()
    index, gradient = drawn(start, data, 5), data.own.pooled.grad.numpy()
    rows = rows_of(start)
    # What the positive of the teacher's g takes of the student's g has no gradient: it is held.
    held = {}
    for place in [(0, 0), (3, 2), (9, 4)]:
        values = []
        for sign in (1, -1):
            moved = batch()
            pooled = moved.own.pooled.detach().double()
            pooled[place] += sign * 1e-5
            values.append(student_part(start, moved, pooled, index, rows, held))
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradient[place], rel=1e-3, abs=1e-5)


def student_part(term, data, pooled, index, rows, held):
    """What of hkd's loss moves with the student's features (float64), the positives held as they were first seen."""
    e = embedded(term.embeddings["own"], pooled)
    if not held:
        layer, logits = term.embeddings["teacher"], data.teachers[0].logits
        their = embedded(layer, data.teachers[0].pooled)
        weight, bias = (p.detach().double().numpy() for p in (term.graphs["teacher"].weight, term.graphs["teacher"].bias))
        near = neighbours_by_hand(logits, 3)
        their = unit(np.stack([weight @ np.r_[x, their[js].mean(0)] + bias for x, js in zip(their, near)]))
        held["smooth"] = unit(0.75 * rows["teacher"][data.index.numpy()] + 0.25 * their)
    weight, bias = (p.detach().double().numpy() for p in (term.graphs["own"].weight, term.graphs["own"].bias))
    near = neighbours_by_hand(data.own.logits, 3)
    g = unit(np.stack([weight @ np.r_[x, e[js].mean(0)] + bias for x, js in zip(e, near)]))
    loss = 0.0
    for b, i in enumerate(data.index.tolist()):
        for query, positive in ((e[b], rows["teacher"][i]), (g[b], held["smooth"][b])):
            scores = [query @ positive / 0.07, *(query @ rows["own"][k] / 0.07 for k in index[b].tolist())]
            loss += (math.log(sum(map(math.exp, scores))) - scores[0]) / len(data.index)
    return loss


def test_hkd_names_its_own_bad_options():
    for option, value in (("neighbours", 0), ("smooth", 1.5), ("smooth", -0.1)):
        with pytest.raises(ValueError, match=f"hkd: {option} is {value}; it must be"):
            TERMS["hkd"](**{option: value})
