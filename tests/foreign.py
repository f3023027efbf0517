"""A device that is not the CPU, without one: tensors of it lie on the CPU, say that they do not, and meet no others.

What torch lets nobody do with a GPU's tensors raises here too: a CPU tensor among them (but one of no dimensions), `numpy()`,
a CPU generator, and what has no deterministic form on CUDA where that is asked for. What makes the CPU wait for a GPU (`item`,
`tolist`, `cpu`, a boolean mask, `nonzero`) is counted. Its type is `meta`, whose backward passes torch runs without a driver.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

aten = torch.ops.aten
DEVICE = torch.device("meta")
WAITS = {
    aten._local_scalar_dense,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten.unique_dim,
    aten._unique2,
    aten.is_nonzero,
}
MOVES = {aten._to_copy, aten.copy_}
# What on CUDA has no deterministic form, by the docs of torch.use_deterministic_algorithms.
NOT_DETERMINISTIC = {
    *(aten._adaptive_avg_pool2d_backward, aten._adaptive_avg_pool3d_backward, aten.adaptive_max_pool2d_backward),
    *(aten.avg_pool3d_backward, aten.fractional_max_pool2d_backward, aten.max_unpool2d, aten.max_unpool3d),
    *(aten.upsample_linear1d_backward, aten.upsample_bilinear2d_backward, aten.upsample_bicubic2d_backward),
    *(
        aten.upsample_trilinear3d_backward,
        aten.reflection_pad1d_backward,
        aten.reflection_pad2d_backward,
        aten.nll_loss2d_forward,
    ),
    *(aten.put_, aten.histc, aten.kthvalue, aten.grid_sampler_2d_backward, aten.grid_sampler_3d_backward),
}


GENERATORS: dict[int, torch.Generator] = {}
"""Generators of the device by their C++ object, of which Python makes new ones; kept, so that they live."""


def generator() -> torch.Generator:
    """Return a generator of the device."""
    made = torch.Generator()
    GENERATORS[made._cdata] = made
    return made


class Foreign(torch.Tensor):
    """A tensor of the device; `here` is where its numbers are."""

    @staticmethod
    def __new__(cls, here):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            layout=here.layout,
            device=DEVICE,
            requires_grad=here.requires_grad,
        )
        made.here = here
        return made

    def __repr__(self):
        return f"Foreign({self.here})"

    def data_ptr(self):
        return self.here.data_ptr()

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *_, **__):
        raise TypeError("a tensor of another device is no array")

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {}, Counter())


def _run(function, args, kwargs, waits: Counter):
    packet, leaves = function.overloadpacket, tree.tree_leaves((args, kwargs))
    wanted = kwargs.get("device")
    there = any(isinstance(x, Foreign) for x in leaves)
    goes = wanted is not None and torch.device(wanted) == DEVICE
    if (there or goes) and kwargs.get("generator") is not None and kwargs["generator"]._cdata not in GENERATORS:
        raise RuntimeError(f"{function}: a generator of the CPU for another device")
    if packet not in MOVES:
        strangers = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, Foreign) and x.ndim]
        if there and strangers:
            raise RuntimeError(f"{function}: tensors of two devices, one on the CPU, {tuple(strangers[0].shape)}")
    if there and packet in NOT_DETERMINISTIC and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError(f"{function} is not deterministic on CUDA")
    if goes:
        kwargs, there = {**kwargs, "device": torch.device("cpu")}, True
    elif packet is aten._to_copy and wanted is not None and there:
        there = False
        waits["copy"] += 1
    elif packet is aten.copy_ and there and not isinstance(args[0], Foreign):
        waits["copy"] += 1
    masks = packet in (aten.index, aten.index_put_, aten.index_put) and any(
        x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
    )
    if there and (packet in WAITS or masks):
        waits[str(packet)] += 1
    inner = tree.tree_map_only(Foreign, lambda x: x.here, (args, kwargs))
    out = function(*inner[0], **inner[1])
    if not there:
        return out
    out = tree.tree_map_only(torch.Tensor, Foreign, out)
    return return_and_correct_aliasing(function, args, kwargs, out)


class _Mode(TorchDispatchMode):
    def __init__(self, waits: Counter):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {}, self.waits)


class _Made(TorchFunctionMode):
    """`torch.tensor` fills a tensor where no dispatch is seen."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return function(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return function(*args, **kwargs)


@contextlib.contextmanager
def device() -> Iterator[Counter]:
    """Within it `DEVICE` is such a device; gives the count of what would have waited for it."""
    waits: Counter = Counter()
    with _Made(), _Mode(waits):
        yield waits
