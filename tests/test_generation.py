"""A GAN and a density ratio as cells of the one loop: terms by values of the authors' functions, training, resuming, files."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dgd.cell import Cell, Recipe
from dgd.models.generation import RatioNet
from dgd.objectives import TERMS, Batch, Output, Runs, Setting, diffaugment
from dgd.objectives.adversarial import hinge, vicinal_weight
from dgd.objectives.ratio import ratio_loss
from dgd.task import KNOTS, TASKS, LabelCode, frechet
from dgd.train import train_cell
from tests.helpers import files_but_timings, make_teacher, train_stopped
from tests.test_selection import GOLDEN, fill

GAN_RECIPE = Recipe(
    epochs=3, batch_size=16, lr=1e-3, optimiser="adam", beta1=0.0, weight_decay=0.0, precision="fp32", device="cpu"
)


def gan_cell(**changes) -> Cell:
    given = {
        "benchmark": "t",
        "dataset": "digits",
        "model": "gan_generator",
        "method": "gan",
        "seed": 0,
        "student": "gan_generator",
        "teacher": "cifar_resnet8",
        "networks": 2,
        "partners": ("gan_discriminator",),
        "teachers": ("teacher",),
        "objective": {"adversarial": {"weight": 1.0}},
        "task": "generation",
        "recipe": replace(GAN_RECIPE, weight_average="ema", average_every="step", average_decay=0.9),
    }
    return Cell(**given | changes)


def ratio_cell(**changes) -> Cell:
    given = {
        "model": "ratio_mlp3",
        "method": "ratio",
        "student": "ratio_mlp3",
        "networks": 1,
        "partners": (),
        "teachers": ("teacher", gan_cell().path),
        "objective": {"ratio": {"weight": 1.0}},
        "task": "density-ratio",
        "recipe": GAN_RECIPE,
    }
    return gan_cell(**given | changes)


def test_a_cell_of_a_generator_and_one_of_a_density_ratio(few_digits, tmp_path, monkeypatch):
    """Same bytes twice and when stopped in every epoch; both networks learn, one is evaluated and saved."""
    for root in ("whole", "stopped"):
        make_teacher(gan_cell(task="classification"), few_digits, tmp_path / root / "teacher")
    for own in (gan_cell(partner_steps=2), ratio_cell()):
        metrics = train_cell(own, results=tmp_path / "whole", data=few_digits)
        train_stopped(own, tmp_path / "stopped", few_digits, monkeypatch)
        assert files_but_timings(tmp_path / "stopped" / own.path) == files_but_timings(tmp_path / "whole" / own.path)
        metric = TASKS[own.task].metric.name
        assert len(metrics["networks"]) == 1
        assert np.isfinite(metrics[metric]["last"])
        assert metrics["method"]["status"] == "deviates"


def test_the_hinge_is_that_of_the_authors_code():
    golden = GOLDEN["hinge"]
    fake, real = 2 * fill(8, 70), 2 * fill(8, 71)
    assert float(hinge(real, fake)) == pytest.approx(golden["discriminator"], abs=1e-8)
    assert float(-fake.mean()) == pytest.approx(golden["generator"], abs=1e-8)
    golden = GOLDEN["hinge_vicinal"]
    weights = [vicinal_weight(d, golden["kappa"]) for d in (0.02 * fill(8, 72), 0.05 * fill(8, 73))]
    assert weights[0].tolist() == pytest.approx(golden["weights_real"], abs=1e-8)
    assert weights[1].tolist() == pytest.approx(golden["weights_fake"], abs=1e-8)
    assert float(hinge(real, fake, *weights)) == pytest.approx(golden["discriminator"], abs=1e-8)


def test_diffaugment_is_that_of_the_authors_code():
    golden, images = GOLDEN["diffaugment"], fill((2, 3, 8, 8), 80)
    u = [0.5 + 0.5 * fill((2, 1, 1, 1), t) for t in (90, 91, 92)]
    whole = [torch.tensor(x) for x in ([1, -1], [0, 1], [2, 7], [5, 0])]
    steps = {
        "brightness": lambda x: diffaugment.brightness(x, u[0]),
        "saturation": lambda x: diffaugment.saturation(x, u[1]),
        "contrast": lambda x: diffaugment.contrast(x, u[2]),
        "translation": lambda x: diffaugment.translation(x, *whole[:2]),
        "cutout": lambda x: diffaugment.cutout(x, *whole[2:]),
    }
    for name, step in steps.items():
        images, wanted = step(images), golden[f"rand_{name}"]
        assert float(images.sum()) == pytest.approx(wanted["sum"], abs=1e-7), name
        assert float(images.norm()) == pytest.approx(wanted["norm"], abs=1e-7), name
        assert images[0, 0, 0].tolist() == pytest.approx(wanted["first_row_sample0_ch0"], abs=1e-8), name
        assert images[1, 2, 3].tolist() == pytest.approx(wanted["row3_sample1_ch2"], abs=1e-8), name


def test_diffaugment_passes_the_gradient_and_reaches_all_that_it_may():
    torch.manual_seed(0)
    images = torch.randn(400, 1, 8, 8, requires_grad=True)
    changed = diffaugment.augment(images)
    changed.sum().backward()
    assert images.grad.abs().sum((1, 2, 3)).min() > 0
    ones = torch.ones(400, 1, 8, 8)
    zeros = 64 - diffaugment.cutout(ones, torch.randint(0, 9, (400,)), torch.randint(0, 9, (400,))).sum((1, 2, 3))
    assert (zeros.min(), zeros.max()) == (4, 16)
    assert diffaugment.cut_size(8) == 4


def test_the_ratios_loss_and_gradients_are_those_of_the_authors_code():
    golden = GOLDEN["loss_on_given_ratios"]
    real, fake = (1 + fill(8, t) for t in (42, 43))
    real.requires_grad_(), fake.requires_grad_()
    for penalty, name in ((0.0, "value_lambda0"), (0.01, "value_lambda0.01"), (1.0, "value_lambda1")):
        assert float(ratio_loss(real, fake, penalty).detach()) == pytest.approx(golden[name], abs=1e-8)
    ratio_loss(real, fake, 0.01).backward()
    assert real.grad.tolist() == pytest.approx(golden["grad_real"], abs=1e-9)
    assert fake.grad.tolist() == pytest.approx(golden["grad_fake"], abs=1e-9)


def golden_ratio_net() -> RatioNet:
    """Return the small density ratio of the golden values, in float64."""
    net = RatioNet(4, 16, (32, 16), dropout=0.0).double()
    linear = [module for module in net.layers if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        net.embedding.weight.copy_(fill((4, 4), 30).T)  # an embedding's rows are labels
        for layer, (w, b) in zip(linear, ((31, 32), (33, 34), (35, 36))):
            layer.weight.copy_(fill(layer.weight.shape, w) / layer.in_features**0.5)
            layer.bias.copy_(fill(layer.bias.shape, b) / layer.in_features**0.5)
        linear[-1].bias.add_(1.0)
    return net


def test_the_density_ratio_and_its_training_are_those_of_the_authors_code():
    golden, net = GOLDEN["cdr_net"], golden_ratio_net()
    code = torch.nn.functional.one_hot(torch.arange(8) % 4, 4).double()
    features = [fill((8, 16), t) for t in (40, 41)]
    inputs = [torch.cat([code, x], 1) for x in features]
    for x, name in zip(inputs, ("ratios_real", "ratios_fake")):
        assert net(x)[:, 0].tolist() == pytest.approx(golden[name], abs=1e-8)
    adam = torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.5, 0.999), weight_decay=1e-4)
    for epochs in (1, 3):
        golden = GOLDEN[f"train_cdre_epochs{epochs}"]
        losses = []
        while len(losses) < (1 if epochs == 1 else 2):
            loss = ratio_loss(*(net(x)[:, 0] for x in inputs), 0.01)
            adam.zero_grad()
            loss.backward()
            grads = {name: float(p.grad.norm()) for name, p in net.named_parameters()}
            adam.step()
            losses.append(loss.item())
        assert losses == pytest.approx(golden["losses"][-len(losses) :], abs=1e-7)
        theirs = {
            name.replace("label_emb", "embedding").replace("main", "layers"): x for name, x in golden["grad_norms"].items()
        }
        assert grads == pytest.approx(theirs, abs=1e-7)


def test_labels_are_written_one_hot_or_between_knots():
    assert LabelCode(torch.arange(3), 3)(torch.tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    code = LabelCode(torch.tensor([-1.0, 0.3, 2.0]), 0)
    found = code(torch.tensor([-1.0, 2.0, -1 + 3 / (KNOTS - 1) * 2.25, 9.0]))
    assert found.sum(1).tolist() == pytest.approx([1] * 4)
    assert found[0, 0] == found[1, -1] == found[3, -1] == 1
    assert found[2, 2:4].tolist() == pytest.approx([0.75, 0.25], abs=1e-5)
    assert code.latent(torch.zeros(5)).shape == (5, 64 + KNOTS)


def test_the_frechet_distance_in_closed_form():
    """Of normal distributions with diagonal covariances: |m1 - m2|^2 + sum of (s1 - s2)^2."""
    first = np.array([1.0, 2.0]), np.diag([4.0, 9.0])
    second = np.array([0.0, 4.0]), np.diag([1.0, 16.0])
    assert frechet(first, second) == pytest.approx(1 + 4 + 1 + 1)
    assert frechet(first, first) == pytest.approx(0, abs=1e-9)


class Runner:
    """Networks of a step that count how they are called: a critic that is linear in the image, and a generator of zeros."""

    def __init__(self):
        self.seen = []

    def critic(self, inputs):
        images = inputs["image"]
        self.seen.append(images)
        return Output(raw=images.mean((1, 2, 3))[:, None] * torch.ones(1, KNOTS))

    def generator(self, inputs):
        self.seen.append(inputs["latent"])
        return Output(raw=torch.zeros(len(inputs["latent"]), 1, 8, 8, requires_grad=True))


def test_the_vicinity_of_a_label_that_is_a_number():
    """The real image and the generated one's label lie within the vicinity of the target."""
    torch.manual_seed(0)
    labels = torch.linspace(-1, 1, 41)
    term = TERMS["adversarial"](augment=False)
    term.setup(None, Setting(1, 2, labels))
    assert term.kappa == pytest.approx(1 / (5 * 0.025) ** 2, rel=1e-4)
    assert term.sigma == pytest.approx(1.06 * float(np.std(np.linspace(0, 1, 41))) * 41**-0.2, rel=1e-5)
    images = labels[:, None, None, None] * torch.ones(41, 1, 8, 8)  # an image is its label, so the choice can be read
    runner = Runner()
    batch = Batch({"image": images}, labels, torch.arange(41), Output(), runs=Runs(runner.critic, {0: runner.generator}))
    loss = term(batch)
    latent, real, fake = runner.seen
    made = (latent[:, 64:] * torch.linspace(-1, 1, KNOTS)).sum(1)  # knots are even, so this undoes the code
    chosen = real.mean((1, 2, 3))
    # Both lie within the reach of the target, which lies within it of the batch's own label; labels span 2.
    assert (chosen - labels).abs().max() <= 2 * 2 * term.reach + 1e-5
    assert (chosen - labels).abs().max() > 0.1
    assert (made - labels).abs().max() <= 2 * 2 * term.reach + 1e-5
    assert not fake.any()
    assert 0 < float(loss) < 2.5


def test_an_adversarial_group_is_a_generator_with_a_discriminator():
    with pytest.raises(ValueError, match="network 0 of 2 takes the input 'image'"):
        TERMS["adversarial"]().setup(None, Setting(0, 2, torch.arange(10), 10))
    with pytest.raises(ValueError, match="network 1 of 3"):
        TERMS["adversarial"]().setup(None, Setting(1, 3, torch.arange(10), 10))
    with pytest.raises(ValueError, match="vicinity is 0"):
        TERMS["adversarial"](vicinity=0)
    with pytest.raises(ValueError, match="takes the input 'image'; take one of features"):
        TERMS["ratio"]().setup(None, Setting(0, 1, torch.arange(10), 10))
    with pytest.raises(ValueError, match="penalty is -1"):
        TERMS["ratio"](penalty=-1)
