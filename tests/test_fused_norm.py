"""Batch norm, sum and activation by Triton, held to torch's in double precision.

Triton's interpreter runs the tests of the kernels on a CPU, in a process of its own: it must be chosen before Triton is
imported. On a GPU the same tests run without it, and what only a GPU can show.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import timm
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from dgd import data
from dgd.models import fused_norm, nested
from dgd.models.fused_norm import fuse, norm_act
from dgd.objectives.explaining import explain, explainable
from dgd.train import train_cell
from dgd.train.step import train_epoch
from tests.helpers import ROOT, fresh_group, method_cell

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
LAST = torch.channels_last
has_triton = pytest.mark.skipif(find_spec("triton") is None, reason="this build of torch has no Triton")


def kernels(test):
    """Mark a test that runs the kernels."""
    lacking = not INTERPRETED and not torch.cuda.is_available()
    return pytest.mark.cuda(pytest.mark.skipif(lacking, reason="no CUDA device; run by Triton's interpreter")(test))


@has_triton
def test_kernels_by_tritons_interpreter():
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-m", "cuda and not slow"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = [sys.executable, "-m", "pytest", *options, __file__]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert re.search(r"^14 passed", done.stdout, re.MULTILINE), done.stdout + done.stderr


@pytest.fixture
def small_tiles(monkeypatch):
    """Divide maps of a few hundred rows into several parts, and those into several tiles."""
    from dgd.models import triton_norm

    monkeypatch.setattr(triton_norm, "TILE", 512)
    monkeypatch.setattr(triton_norm, "SUMS", 64)


def map_of(shape, dtype, device, *names):
    torch.manual_seed(len(names))
    return torch.randn(shape).to(device, dtype).contiguous(memory_format=LAST)


def layer(channels, device, dtype=torch.float32):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(channels, momentum=0.3, eps=1e-3)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 1.5)
    return norm.to(device, dtype)


def results(norm, x, act, residual, grad):
    """Return the output, the running statistics and all gradients."""
    x, residual = x.clone().requires_grad_(), None if residual is None else residual.clone().requires_grad_()
    out = norm_act(norm, x, act, residual)
    out.backward(grad)
    found = {"out": out, "mean": norm.running_mean, "var": norm.running_var, "tracked": norm.num_batches_tracked, "x": x.grad}
    found |= {"weight": norm.weight.grad, "bias": norm.bias.grad}
    return found | ({} if residual is None else {"residual": residual.grad}), type(out.grad_fn).__name__


@kernels
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("dtype", "shape", "act", "summed"),
    [
        (torch.float32, (6, 16, 5, 7), nn.ReLU(), True),
        (torch.bfloat16, (6, 16, 5, 7), nn.ReLU(), False),
        (torch.float32, (2, 24, 9, 9), nn.LeakyReLU(0.1), False),
        (torch.bfloat16, (2, 24, 9, 9), nn.ReLU(), True),
        (torch.float32, (5, 96, 3, 5), None, True),
        (torch.bfloat16, (5, 96, 3, 5), None, False),
    ],
)
def test_numbers_are_torchs_and_the_same_twice(dtype, shape, act, summed):
    x = 2 * map_of(shape, dtype, DEVICE) + 5
    residual, grad = (
        map_of(shape, dtype, DEVICE, "residual") if summed else None,
        map_of(shape, dtype, DEVICE, "its", "gradient"),
    )
    double = [None if one is None else one.double() for one in (x, residual, grad)]
    exact, kind = results(layer(shape[1], DEVICE, torch.float64), double[0], act, *double[1:])
    assert kind != "_NormalisedBackward"
    found = []
    for _ in range(2):
        norm = layer(shape[1], DEVICE)
        fuse(norm, DEVICE)
        values, kind = results(norm, x, act, residual, grad)
        assert kind == "_NormalisedBackward"
        found.append(values)
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name])
        error = (value.double() - exact[name]).abs().max() / exact[name].abs().max()
        assert error < (1e-2 if value.dtype == torch.bfloat16 else 5e-6), name
    assert found[0]["out"].is_contiguous(memory_format=LAST)


@kernels
def test_a_large_mean_does_not_cancel_the_variance():
    x = map_of((4, 16, 8, 8), torch.float32, DEVICE) + 1000
    norm, plain = layer(16, DEVICE), layer(16, DEVICE, torch.float64)
    fuse(norm, DEVICE)
    assert torch.allclose(norm_act(norm, x).double(), plain(x.double()), atol=2e-3)
    assert torch.allclose(norm.running_var.double(), plain.running_var, rtol=1e-4)


@kernels
def test_what_is_not_finite_stays_so():
    norm = layer(16, DEVICE)
    fuse(norm, DEVICE)
    x = map_of((4, 16, 8, 8), torch.float32, DEVICE)
    x[0, 3, 0, 0] = torch.nan
    out = norm_act(norm, x, nn.ReLU())
    assert out.isnan().any((0, 2, 3)).tolist() == [channel == 3 for channel in range(16)]


def norms_in(loss):
    """Return how many batch norms of a loss's graph are fused, and how many are not."""
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    names = [type(node).__name__ for node in seen]
    return names.count("_NormalisedBackward"), sum("BatchNorm" in name for name in names)


def step(net, images):
    loss = net(images).square().mean()
    loss.backward()
    return loss, {key: parameter.grad for key, parameter in net.named_parameters()}


@kernels
@pytest.mark.parametrize(
    ("name", "fused", "left"),
    [
        ("cifar_resnet8", 7, 0),
        ("cifar_wrn10_1", 7, 0),
        pytest.param("cifar_resnet8_leaky", 7, 0, marks=pytest.mark.slow),
        pytest.param("cifar_vgg16_bn", 13, 0, marks=pytest.mark.slow),
        pytest.param("cifar_mobilenetv2", 53, 4, marks=pytest.mark.slow),  # the norms of its shortcuts are left
        ("resnet10t", 0, 14),  # not one of ours
    ],
)
def test_networks_are_near_their_plain_selves(name, fused, left, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    images, found = map_of((4, 3, 8, 8), torch.float32, DEVICE), []
    for wanted in (False, True):
        torch.manual_seed(0)
        net = timm.create_model(name, num_classes=10).to(DEVICE, memory_format=LAST)
        if wanted:
            fuse(net, DEVICE)
        loss, grads = step(net, images)
        assert norms_in(loss) == ((fused, left) if wanted else (0, fused + left))
        found.append((grads, net.state_dict(), {"loss": loss}, {"logits": net.eval()(images)}))
    (plain, *_), (other, *_) = found
    assert plain.keys() == other.keys()
    for mine, own in zip(*found):
        flat = [torch.cat([value.flatten().float() for value in values.values()]) for values in (mine, own)]
        assert (flat[0] - flat[1]).norm() < 5e-3 * flat[0].norm()


@kernels
def test_sub_nets_share_fused_norms():
    torch.manual_seed(0)
    inner = timm.create_model("cifar_resnet8", num_classes=10)
    full = nested.nest(timm.create_model("cifar_resnet14", num_classes=10), {"inner": inner}, batch_norm="shared")
    full = full.to(DEVICE, memory_format=LAST)
    fuse(full, DEVICE)
    assert norms_in(full.subnets["inner"](map_of((4, 3, 8, 8), torch.float32, DEVICE)).sum()) == (7, 0)
    assert int(full.bn1.num_batches_tracked) == 1


@kernels
def test_what_looks_inside_a_layer_gets_the_modules():
    images = map_of((4, 3, 8, 8), torch.float32, DEVICE).requires_grad_()
    net = timm.create_model("cifar_resnet8", num_classes=10).to(DEVICE, memory_format=LAST)
    fuse(net, DEVICE)
    seen = []
    net.layer1[0].act2.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert norms_in(net(images).sum()) == (6, 1)
    assert (seen[0] < 0).any()
    chosen = torch.eye(10, dtype=torch.bool, device=DEVICE)[:4]
    maps = []
    for one in (net, timm.create_model("cifar_resnet8", num_classes=10).to(DEVICE, memory_format=LAST)):
        one.load_state_dict(net.state_dict())
        with explainable(images):
            maps.append(explain(one(images), images, chosen))
    torch.testing.assert_close(*maps)


def test_modules_run_where_no_norm_is_marked():
    norm, x = layer(16, "cpu"), map_of((2, 16, 3, 3), torch.float32, "cpu")
    assert torch.equal(norm_act(norm, x, nn.ReLU(), x), (layer(16, "cpu")(x) + x).relu())
    assert torch.equal(norm_act(nn.Identity(), x), x)


@pytest.mark.parametrize(("act", "slope"), [(None, 1.0), (nn.ReLU(), 0.0), (nn.LeakyReLU(0.1), 0.1), (nn.GELU(), None)])
def test_slopes(act, slope):
    assert fused_norm.slope(act) == slope


@kernels
@pytest.mark.parametrize(
    "name", [pytest.param("review", marks=pytest.mark.slow), "self-explanation", pytest.param("ddnn", marks=pytest.mark.slow)]
)
def test_methods_train_with_it(few_digits, name):
    """Terms that read what is before an activation, that explain, and that train sub-nets."""
    cell, means = method_cell(name, batch_size=24, device=DEVICE.type), []
    if name == "review":
        cell = replace(cell, objective={**cell.objective, "review": {**cell.objective["review"], "student": "pre"}})
    for wanted in (False, True):
        group = fresh_group(replace(cell, recipe=replace(cell.recipe, fused_norm=wanted)), few_digits, DEVICE)
        loader = data.load(few_digits).loader("train", batch_size=24, device=DEVICE, workers=0, channels_last=True)
        means.append(train_epoch(group, loader, 0)[0]["loss"])
    assert means[0] == pytest.approx(means[1], rel=1e-3)


def test_a_cpu_is_refused(few_digits, monkeypatch, tmp_path):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="recipe.fused_norm is true and the device is 'cpu'; it needs 'cuda'"):
        train_cell(method_cell("baseline", fused_norm=True), results=tmp_path, data=few_digits)


def test_a_torch_without_triton_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "dgd.models.triton_norm", None)
    with pytest.raises(ValueError, match="recipe.fused_norm is true and Triton cannot be imported"):
        fuse(nn.BatchNorm2d(3), torch.device("cuda"))


@has_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_kernels_compile_for_a_gpu_without_one_and_have_no_atomics(tmp_path, monkeypatch, slope):
    """The interpreter takes what the compiler does not, such as a variable that changes its type in a loop."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dgd.models import triton_norm

    constants = {"ROWS": 256, "CHANNELS": 16, "PARTS": 128, "SLOPE": slope}
    constants |= {"residual": None, "of_residual": None, "out": None} if slope == 1 else {}
    maps = ("x", "residual", "out", "grad", "of_x", "of_residual")
    types = dict.fromkeys(maps, "*bf16") | dict.fromkeys(("rows", "channels", "parts", "tiles", "own_tiles"), "i32")
    types |= {"momentum": "fp32", "eps": "fp32"}
    for kernel in (triton_norm._statistics, triton_norm._apply, triton_norm._reduce, triton_norm._differentiate):
        own = {n: v for n, v in constants.items() if n in kernel.arg_names and (n, kernel) != ("out", triton_norm._apply)}
        signature = {name: "constexpr" if name in own else types.get(name, "*fp32") for name in kernel.arg_names}
        at = {(kernel.arg_names.index(name),): value for name, value in own.items()}
        made = triton.compile(ASTSource(kernel, signature, at), target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
        assert made.asm["cubin"]
        assert not re.search(r"\b(atom|red)\.", made.asm["ptx"])


@pytest.mark.cuda
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="no CUDA device")
def test_nothing_but_four_kernels_is_launched():
    norm = layer(16, DEVICE)
    norm.num_batches_tracked = None  # counted elsewhere
    fuse(norm, DEVICE)
    x, residual, grad = (map_of((4, 16, 8, 8), torch.bfloat16, DEVICE).requires_grad_() for _ in range(3))
    wanted = [x, residual, norm.weight, norm.bias]
    torch.autograd.grad(norm_act(norm, x, nn.ReLU(), residual), wanted, grad)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        torch.autograd.grad(norm_act(norm, x, nn.ReLU(), residual), wanted, grad)
        torch.cuda.synchronize()
    launched = [event.name for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert sorted(launched) == ["_apply", "_differentiate", "_reduce", "_statistics"]


@pytest.mark.cuda
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_replayed_step_has_the_bits_of_an_eager_one(few_digits, tmp_path, precision):
    found = []
    for graphs in (True, False):
        cell = method_cell("grafting", device="cuda", precision=precision, fused_norm=True, graphs=graphs, epochs=4)
        metrics = train_cell(cell, results=tmp_path, data=few_digits, out=tmp_path / str(graphs))
        assert metrics["timings"]["steps"].startswith("replayed" if graphs else "eager")
        found.append([(tmp_path / str(graphs) / name).read_bytes() for name in ("history.csv", "model.safetensors")])
    assert found[0] == found[1]
