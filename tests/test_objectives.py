"""Terms against hand-computed values, timm's own task, and gradients."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.task import LogitDistillationTask
from torch import nn

import dgd  # noqa: F401  registers cifar_* with timm
from dgd.objectives import TERMS, Batch, Objective, Output
from dgd.objectives.smoothing import strength


def batch(student, teachers=(), labels=(0,)):
    student = torch.as_tensor(student)
    labels = torch.as_tensor(labels)
    return Batch({}, labels, torch.arange(len(labels)), Output(student), [Output(torch.as_tensor(t)) for t in teachers])


def test_kd_golden_value():
    # tau 2: teacher (2 ln 3, 0) / 2 -> p = (3/4, 1/4); student (0, 0) -> q = (1/2, 1/2); 4 * ln 2.
    b = batch([[0.0, 0.0]], [[[2 * math.log(3), 0.0]]])
    assert float(TERMS["kd"](tau=2)(b)) == pytest.approx(4 * math.log(2), rel=1e-6)
    # student (2 ln 3, 0): 4 * -(3/4 ln 3/4 + 1/4 ln 1/4)
    b = batch([[2 * math.log(3), 0.0]], [[[2 * math.log(3), 0.0]]])
    assert float(TERMS["kd"](tau=2)(b)) == pytest.approx(-4 * (0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-6)


def test_two_teachers_average_probabilities_or_add_losses():
    one, two = [[2 * math.log(3), 0.0]], [[-2 * math.log(3), 0.0]]  # p = (3/4, 1/4) and (1/4, 3/4): the mean is even
    b = batch([[2 * math.log(3), 0.0]], [one, two])
    mean = -4 * 0.5 * (math.log(0.75) + math.log(0.25))
    assert float(TERMS["kd"](tau=2)(b)) == pytest.approx(mean, rel=1e-6)
    assert float(TERMS["kd"](tau=2, teachers="sum")(b)) == pytest.approx(2 * mean, rel=1e-6)


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
def test_kd_is_timm_logit_distillation_but_for_the_teachers_entropy(tau):
    torch.manual_seed(0)
    images, labels = torch.randn(6, 3, 16, 16), torch.randint(4, (6,))
    student, teacher = (timm.create_model("cifar_resnet8", num_classes=4).eval() for _ in range(2))
    task = LogitDistillationTask(
        student_model=student,
        teacher_model=teacher,
        criterion=nn.CrossEntropyLoss(),
        distill_loss_weight=1.0,
        task_loss_weight=1.0,
        temperature=tau,
        verbose=False,
    )
    theirs = task(images, labels)["loss"]
    logits = teacher(images).detach()
    objective = Objective({"ce": {}, "kd": {"tau": tau}})
    ours, parts = objective(Batch({"image": images}, labels, torch.arange(6), Output(student(images)), [Output(logits)]))
    p = (logits / tau).softmax(1)
    entropy = -(p * p.log()).sum(1).mean() * tau**2
    assert float((ours - entropy).detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    assert parts.keys() == {"ce", "kd"}
    ours_grad = torch.autograd.grad(ours, student.conv1.weight)[0]
    assert torch.allclose(ours_grad, torch.autograd.grad(theirs, student.conv1.weight)[0], atol=1e-6)
    assert ours_grad.abs().sum() > 0


def test_kd_gradient_is_tau_times_the_difference_of_probabilities():
    z = torch.randn(3, 5, requires_grad=True)
    t = torch.randn(3, 5)
    TERMS["kd"](tau=2)(Batch({}, None, None, Output(z), [Output(t)])).backward()
    assert torch.allclose(z.grad, 2 * ((z / 2).softmax(1) - (t / 2).softmax(1)).detach() / 3, atol=1e-6)


def test_ce_is_cross_entropy():
    z, y = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    assert float(TERMS["ce"]()(batch(z, labels=y))) == pytest.approx(float(F.cross_entropy(z, y)))


def test_weights_scale_terms():
    b = batch(torch.randn(2, 3), [torch.randn(2, 3)], labels=[0, 1])
    total, parts = Objective({"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "tau": 4}})(b)
    assert float(total) == pytest.approx(0.1 * float(parts["ce"]) + 0.9 * float(parts["kd"]))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown term 'kdd'; did you mean kd"):
        Objective({"kdd": {}})
    with pytest.raises(ValueError, match="unknown term 'xyz'; known: adversarial, at, ccl, ce"):
        Objective({"xyz": {}})
    with pytest.raises(ValueError, match="term 'kd': .*temperature"):
        Objective({"kd": {"temperature": 4}})
    with pytest.raises(ValueError, match="must be above 0"):
        Objective({"kd": {"tau": 0}})
    with pytest.raises(ValueError, match="needs at least one teacher"):
        TERMS["kd"]()(batch([[0.0, 1.0]]))


def test_label_smoothing_is_an_option_of_cross_entropy():
    b = batch([[2.0, 0.0]])
    log_q = torch.tensor([2.0, 0.0]).log_softmax(0)
    assert float(TERMS["ce"](smoothing=0.2)(b)) == pytest.approx(float(-(0.9 * log_q[0] + 0.1 * log_q[1])), rel=1e-6)
    with pytest.raises(ValueError, match="smoothing is 2; it must be from 0 to 1"):
        TERMS["ce"](smoothing=2)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_smoothing_has_the_teachers_mean_entropy(classes):
    torch.manual_seed(0)
    teacher = 3 * torch.randn(32, classes)
    p = (teacher / 2).softmax(1)
    wanted = float(torch.special.entr(p).sum(1).mean())
    e = float(strength(torch.tensor(wanted), classes))
    target = torch.full((classes,), e / classes)
    target[0] += 1 - e
    assert float(torch.special.entr(target).sum()) == pytest.approx(wanted, abs=1e-3)
    # As kd, with that target.
    student, labels = torch.randn(32, classes), torch.randint(classes, (32,))
    b = Batch({}, labels, torch.arange(32), Output(student), [Output(teacher)])
    targets = torch.full((32, classes), e / classes).scatter_add_(1, labels[:, None], torch.full((32, 1), 1 - e))
    plain = -(targets * (student / 2).log_softmax(1)).sum(1).mean() * 4
    assert float(TERMS["smoothing"]()(b)) == pytest.approx(float(plain), rel=1e-5)


def test_smoothing_at_the_ends():
    assert float(strength(torch.tensor(0.0), 10)) == pytest.approx(0, abs=1e-3)
    assert float(strength(torch.tensor(math.log(10)), 10)) == pytest.approx(1, abs=2e-2)
    with pytest.raises(ValueError, match="smoothing: the batch has no teachers"):
        TERMS["smoothing"]()(batch([[1.0, 0.0]]))
