"""Count what a training step launches: `python -m tests.launches` writes launches.yaml, which test_graphs.py holds steps to."""

import tempfile
from collections import Counter
from pathlib import Path

import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from dgd import data
from dgd.methods import METHODS
from dgd.train.step import Steps
from tests.helpers import fresh_group, method_cell, train_loader

FILE = Path(__file__).parent / "launches.yaml"
HEADER = """# Operators that a training step launches, without views and new memory, in bf16; teachers folded and fused as
# on a CPU. A CUDA graph takes microseconds for each. Written by `python -m tests.launches`: a change is to be for the better.
"""
# They give a view of a tensor, new memory that nothing is written to, or a note to the profiler.
FREE = {
    *("alias", "as_strided", "as_strided_", "detach", "expand", "lift_fresh", "permute", "select", "slice", "split", "squeeze"),
    *("split_with_sizes", "t", "transpose", "unbind", "unfold", "unsqueeze", "view", "_unsafe_view", "_reshape_alias"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("_record_function_enter_new", "_record_function_exit"),
}
STEPS = {
    **{name: (name, None) for name in METHODS},
    **{f"baseline of {model}": ("baseline", model) for model in ("cifar_resnet32", "cifar_resnet56", "cifar_mobilenetv2")},
    **{f"dgd of {model}": ("dgd", model) for model in ("cifar_resnet32", "cifar_mobilenetv2")},
}
"""What is counted -> method and student; the others have a cifar_resnet8, or what the method needs."""


class Count(TorchDispatchMode):
    """A mode that counts operators by name."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function.overloadpacket).rpartition(".")[2]
        if name not in FREE:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def launches(what: str, prepared: Path) -> Counter:
    """Return the operators of the second step of an epoch: the first one makes what terms and optimisers keep."""
    method, student = STEPS[what]
    cell = method_cell(method, student, precision="bf16", batch_size=16)
    steps = Steps(fresh_group(cell, prepared), train_loader(cell, prepared))
    counts = []

    def counted(size: int) -> None:
        with Count() as mode:
            steps._step(size)
        counts.append(mode.found)

    steps.launch = counted
    steps.start(1)
    return counts[1]


def main() -> None:
    """Count all and write the file."""
    with tempfile.TemporaryDirectory() as folder:
        data.prepare("digits", folder, train_images=48)
        found = {what: sum(launches(what, Path(folder)).values()) for what in STEPS}
    FILE.write_text(HEADER + yaml.safe_dump(found, sort_keys=False))


if __name__ == "__main__":
    main()
