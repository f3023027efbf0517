"""Train cells: from their typed description and prepared data to the files of their folders."""

import json
import math
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from dgd import data as datasets
from dgd import files, identity, json_files, keys, seals
from dgd.cell import IMAGE, PER_PROCESS, Cell, TeacherFile
from dgd.data.loader import EVALUATION_BATCH
from dgd.json_files import Value
from dgd.models.nested import plain_parameters, plain_state
from dgd.task import TASKS
from dgd.train import averages, checkpoint, costs, memory, ranks
from dgd.train.device import peak_memory, pick_device, release_memory, set_up, start_measuring_memory
from dgd.train.evaluate import Evaluator, ensemble
from dgd.train.exchanging import exchange_weights
from dgd.train.group import Group
from dgd.train.live import Live, Watch
from dgd.train.member import create
from dgd.train.outcomes import CannotCapture, Diverged, NoImages, NoResult, NoTeacher, OutOfMemory, OutOfTime
from dgd.train.record import RESUME, Result, Trace, norms, write_failure, write_result
from dgd.train.retrieval import retrieval
from dgd.train.schedule import exchange_due
from dgd.train.step import Steps

TEACHER = {"status": Value(str), "cell": {"student": Value(str), "task?": Value(str, choices=tuple(TASKS))}}
"""The form of what is read here of a teacher's metrics.json."""


def train_cell(
    cell: Cell | Mapping, *, results: str | Path, data: str | Path, out: str | Path | None = None, until: float = math.inf
) -> dict | None:
    """Train one cell and write its folder; under `torchrun` all its processes call this together, see `dgd.train.ranks`.

    A cell that was stopped resumes after its last epoch and gives the same bytes as one that was not stopped.

    Args:
        cell: A cell of `dgd.config.cells`, or what a cell's config.yaml holds.
        results: Root of the results; teachers are looked up below it.
        data: Folder of the prepared data set.
        out: The cell's folder; `results / cell.path` by default.
        until: When to stop, as `time.monotonic` counts; see `OutOfTime`.

    Returns:
        The content of metrics.json; None in the processes of a `torchrun` other than the leader.

    Raises:
        Diverged: A loss was not finite. The folder then holds metrics.json with `status` and `error`, and empty outputs.
        NoTeacher: The teacher has no result; it is recorded in the same way.
        OutOfTime: The next epoch would have ended after `until`. What was trained is in the resume point.
        CannotCapture: CUDA cannot be used any more in this process; in a new one the cell goes on by its resume point.
        Locked: Another process trains the cell.
        ValueError: A teacher is not there, or not as it was trained; or there are not as many processes as the recipe's
            `ranks_per_network` asks for.
    """
    cell = cell if isinstance(cell, Cell) else Cell.from_plain(cell)
    out = Path(out or Path(results) / cell.path)
    (outcome,) = train_side_by_side([Order(cell, Path(data), out)], results=results, until=until)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@dataclass(frozen=True)
class Order:
    """A cell to train, the folder of its prepared data set, the cell's own folder, and who is told of each epoch."""

    cell: Cell
    data: Path
    out: Path
    watch: Watch | None = None


def train_side_by_side(
    orders: Sequence[Order], *, results: str | Path, until: float = math.inf
) -> list[dict | Exception | None]:
    """Train cells in one process; each leaves what it leaves when it is trained alone.

    On CUDA each runs in a stream of its own, so that small networks share the device: an epoch of each is launched before that
    of any is waited for. On a CPU they take turns, an epoch each.

    Args:
        orders: The cells; one that learns from another comes in a later call.
        results: Root of the results; teachers are looked up below it.
        until: When to stop, as `time.monotonic` counts.

    Returns:
        For each cell what `train_cell` returns or raises: the others go on.

    Raises:
        CannotCapture: CUDA cannot be used any more in this process.
        ValueError: The cells differ in what holds for a whole process.
    """
    _check_together(orders)
    set_up(orders[0].cell.recipe)
    device = pick_device(orders[0].cell.recipe.device)
    start_measuring_memory(device)
    loaded: dict[Path, datasets.Dataset] = {}
    streams = [torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext() for _ in orders]
    running = {k: _train(order, Path(results), device, loaded, _Turns(k, len(orders), until)) for k, order in enumerate(orders)}
    outcomes: list[dict | Exception | None] = [None] * len(orders)
    while running:
        for k, training in list(running.items()):
            try:
                with streams[k]:
                    next(training)
                continue
            except StopIteration as end:
                outcomes[k] = end.value
            except CannotCapture:
                raise
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # they hold the cell's networks
                outcomes[k] = OutOfMemory.of(error, orders[k].cell.path) or error
            del running[k]
            if isinstance(outcomes[k], OutOfMemory):
                release_memory(device)
    return outcomes


def _check_together(orders: Sequence[Order]) -> None:
    cells = [order.cell for order in orders]
    for key in PER_PROCESS:
        if len(found := {str(getattr(cell.recipe, key)) for cell in cells}) > 1:
            raise ValueError(f"cells side by side have one recipe.{key}; these have {', '.join(sorted(found))}")
    if len(cells) > 1 and (several := [cell.path for cell in cells if cell.processes > 1]):
        raise ValueError(f"{several[0]} has several processes; such a cell is trained alone")
    if len({order.out for order in orders}) < len(orders):
        raise ValueError("two cells side by side have one folder")


@dataclass
class _Turns:
    """The place of a cell among those of its process, and the time that this process spent on it.

    A cell's seconds are those of its own turns: they add up to the process's, whatever the number of cells.
    """

    number: int
    together: int
    until: float
    spent: dict[str, float] = field(default_factory=lambda: {"seconds": 0.0, "training": 0.0})
    begun: float = 0.0
    last: float = 0.0

    def begin(self) -> None:
        """Begin to count the seconds of a turn."""
        self.begun = time.perf_counter()

    def end(self, *, training: bool = False) -> None:
        """Count them, as seconds of training steps or of the rest."""
        now = time.perf_counter()
        self.spent["seconds"] += now - self.begun
        self.spent["training"] += (now - self.begun) * training
        self.begun = now

    def over(self) -> bool:
        """Return whether another epoch, as long as the last, would end too late; call it once after each epoch."""
        before, self.last = self.last, time.monotonic()
        return 2 * self.last - before > self.until


def _train(order: Order, results: Path, device: torch.device, loaded: dict, turns: _Turns) -> Iterator[None]:
    """Train a cell and write its folder; yields where another cell may have its turn, and returns what metrics.json holds."""
    if not ranks.leads():
        return (yield from _train_locked(order, results, device, loaded, turns, None))
    with files.locked(order.out, "trained") as lock, Live(order.cell, turns.number, lock, order.watch) as live:
        files.remove_unfinished(order.out, (*identity.OUTPUTS, RESUME))
        return (yield from _train_locked(order, results, device, loaded, turns, live))


def _train_locked(
    order: Order, results: Path, device: torch.device, loaded: dict, turns: _Turns, live: Live | None
) -> Iterator[None]:
    """See `_train`; this process may write the cell's folder where it has a `live`."""
    cell, out = order.cell, order.out
    if order.data not in loaded:  # cells side by side hold it once
        loaded[order.data] = datasets.load(order.data)
    dataset = loaded[order.data].under(cell.recipe).of(cell.input)
    folders = [results / path for path in cell.teachers]
    made_from = {
        "identity": identity.record(cell, results=results, data=order.data),
        "dataset_sha256": files.file_hash(order.data / "manifest.json"),
        "teachers": {path: identity.file_hash(folder / "model.safetensors") for path, folder in zip(cell.teachers, folders)},
    }
    if cell.generated:
        origin = dataset.manifest.get("origin", {})
        made_from["generated"] = {name: value for name, value in origin.items() if name != "labels"}
    stamp = json.dumps([cell.plain(), made_from], sort_keys=True)
    processes = ranks.join(cell.networks, cell.processes, device)
    try:
        if "failed" in dataset.manifest:
            raise NoImages(dataset.manifest["failed"])
        taught = dataset.of(cell.teacher_input)
        teachers = [load_network(folder, taught, cell, cell.teacher_options) for folder in folders]
        teachers += [load_file(cell.teacher_file, taught, cell)] if cell.teacher_file else []
        group = Group(cell, dataset, teachers, device, processes)
        made_from["started"] = datetime.now(UTC).isoformat(timespec="microseconds")
        result = yield from _fit(group, dataset, out, stamp, turns, live)
    except NoResult as error:
        if processes.leads:
            write_failure(out, cell, made_from, error)
        processes.close()
        raise
    except OutOfTime:
        processes.close()
        raise
    metrics = write_result(out, cell, made_from, result) if result else None
    processes.close()
    return metrics


def _fit(group: Group, dataset, out: Path, stamp: str, turns: _Turns, live: Live | None) -> Iterator[None]:
    """Run the epochs: train, evaluate, exchange; or train, exchange, evaluate with `evaluate: after`. Returns the `Result`."""
    cell, recipe, processes, task = group.cell, group.recipe, group.ranks, group.task
    train = _loader(group, dataset, "train", recipe.batch_size, dataset.of(cell.teacher_input) if cell.paired else None)
    test = _loader(group, dataset, "test", EVALUATION_BATCH)
    history, trace, first = [], Trace(), 0
    if state := processes.broadcast(checkpoint.load_state(out / RESUME, stamp) if processes.leads else None):
        group.load(state["group"])
        history, first = state["history"], state["epoch"] + 1
        turns.spent = state["spent"]
        trace = Trace.from_state(state["trace"])
    steps, evaluate, validate = Steps(group, train), Evaluator(group, test), None
    if dataset.sizes["validation"]:
        validate = Evaluator(group, _loader(group, dataset, "validation", EVALUATION_BATCH))
    if live:
        live.begin(first)
    predictions, turns.last = None, time.monotonic()

    def exchange_in(phase: str, epoch: int) -> None:
        if exchange_due(cell.exchange, recipe.epochs, epoch, phase):
            shares = exchange_weights(group, epoch, train)
            if shares is not None:
                trace.exchanges.append(epoch)
                trace.shares.append(shares)

    for epoch in range(first, recipe.epochs):
        turns.begin()
        steps.start(epoch)
        turns.end(training=True)
        yield
        turns.begin()
        rows = steps.read()
        turns.end(training=True)
        last = epoch == recipe.epochs - 1
        exchange_in("before", epoch)
        averages.average(group, epoch)
        if last or (epoch + 1) % recipe.filters_every == 0:
            trace.epochs.append(epoch)
            trace.norms.append(_norms(group))
        scores = losses = validated = [None] * (cell.evaluated * (1 + len(cell.subnets)))
        if last or (epoch + 1) % recipe.evaluate_every == 0:
            averages.prepare_averages(group, train, epoch)
            scores, losses, predictions = evaluate()
            if not all(map(math.isfinite, losses)):
                raise Diverged(f"the test loss is not finite in epoch {epoch}; lower recipe.lr or change the seed")
            if validate:
                validated = validate().scores
        history.append(_row(epoch, group.rates(epoch), rows, task.metric.name, validated, scores, losses))
        exchange_in("after", epoch)
        turns.end()
        images = train.images * len(history) * cell.networks
        if live:
            live.tell(history, turns.spent["seconds"], images / turns.spent["training"])
        state = None if last else group.state()
        if state:
            point = {"group": state, "history": history, "spent": turns.spent, "trace": trace.state()}
            checkpoint.save_state(out / RESUME, point | {"epoch": epoch, "stamp": stamp})
        if not last and processes.broadcast(turns.over()):
            raise OutOfTime(f"{cell.path}: stopped after epoch {epoch + 1} of {recipe.epochs}; it goes on from there")
    setting = task, group.arithmetic, processes
    together = ensemble(group.eval_networks, cell.evaluated, test, *setting) if cell.evaluated > 1 else None
    timings = _timings(group, turns, images, steps.launch.how)
    models, latency = _models(group)
    timings |= latency
    retrieved = retrieval(group, dataset) if processes.leads else None  # its process has the first network
    states = processes.gather_networks([plain_state(network) for network in group.eval_networks])
    inner = processes.gather_networks([subnet.state_dict() for subnet in group.eval_subnets])
    if not states:
        return None
    labels, parameters = dataset.tensors["test_labels"], sum(p.numel() for p in plain_parameters(group.networks[0]))
    about = trace, parameters, group.fidelity(), together, timings, models, retrieved
    return Result([*states, *inner], history, predictions, labels, dataset.num_classes, *about)


def _norms(group: Group) -> list:
    """Return the norms of all networks of the cell: its members', then those of their sub-nets."""
    parts = [networks for networks in (group.eval_networks, group.eval_subnets) if networks]
    return [item for part in parts for item in group.ranks.all_networks(lambda part=part: list(map(norms, part)))]


def _models(group: Group) -> tuple[list[dict], dict]:
    """Return what each network of the cell is and costs, and the measured latency; nothing for a cell without sub-nets."""
    cell, inner = group.cell, group.eval_subnets[: len(group.cell.subnets)]
    if not inner:
        return [], {}
    networks, image = dict(zip((cell.student, *cell.subnets), (group.eval_networks[0], *inner))), group.example["image"][:1]
    about = {name: {"model": name, **costs.size(network, image)} for name, network in networks.items()}
    return (
        [about[name] for name in [cell.student] * cell.networks + list(cell.subnets) * cell.networks],
        {"latency": costs.latency(networks, image, group.arithmetic)},
    )


def _loader(group: Group, dataset, split: str, batch_size: int, partner=None):
    return dataset.loader(
        split,
        batch_size=batch_size,
        device=group.device,
        workers=group.cell.data.workers,
        channels_last=group.recipe.channels_last,
        shard=(group.ranks.shard, group.ranks.shards),
        partner=partner,
    )


def _row(epoch: int, rates: list, rows: list[dict], metric: str, validated: list, scores: list, losses: list) -> dict:
    """Return a row of history.csv."""
    row = {"epoch": epoch}
    for i, means in enumerate(rows):
        row[f"lr_{i}"] = rates[i]
        row |= {f"{name}_{i}": value for name, value in means.items()}
        if i < len(scores):  # a partner is not evaluated
            row |= _tested(i, metric, validated, scores, losses)
    for i in range(len(rows), len(scores)):  # sub-nets: what they learn by is in the row of their full net
        row |= _tested(i, metric, validated, scores, losses)
    return row


def _tested(i: int, metric: str, validated: list, scores: list, losses: list) -> dict:
    return {f"validation_{metric}_{i}": validated[i], f"test_{metric}_{i}": scores[i], f"test_loss_{i}": losses[i]}


def _timings(group: Group, turns: _Turns, images: int, how: str) -> dict:
    """Return seconds, images/s of training over all networks, MiB of memory of all the cell's processes, and how steps ran.

    Memory is that of a process at its peak so far, also where it trains or has trained several cells. Processes that read files
    are not counted.
    """
    gathered = group.ranks.all_gather(peak_memory(group.device))
    on_device = [device for _, device in gathered if device is not None]
    expected = memory.estimate(group.cell, cuda=bool(on_device))
    return {
        "seconds": round(turns.spent["seconds"], 3),
        "images_per_second": round(images / turns.spent["training"], 1),
        "steps": how,
        "together": turns.together,
        "peak_memory_mib": round(sum(resident for resident, _ in gathered), 1),
        "estimated_memory_mib": expected["host"],
        "peak_device_memory_mib": round(max(on_device), 1) if on_device else None,
        "estimated_device_memory_mib": expected["device"] or None,
    }


def load_file(file: TeacherFile, dataset, cell: Cell) -> nn.Module:
    """Return a teacher whose weights are in a file.

    Raises:
        ValueError: The file is not there, is not what the cell was planned with, or holds the weights of another network.
    """
    path = Path(file.path).expanduser()
    weights = checkpoint.load_any(path)
    if (found := files.hash_if_there(path)) != file.sha256:
        raise ValueError(f"{path}: its SHA-256 is {found}, and the cell is of {file.sha256 or 'none'}; plan the cell again")
    network = create(cell.teacher, dataset, cell, cell.teacher_options)
    own = network.state_dict()
    odd = [
        *(f"lacks {key}" for key in own if key not in weights),
        *(f"has {key}, which the network does not" for key in weights if key not in own),
        *(
            f"has {key} of shape {tuple(weights[key].shape)}, which is {tuple(value.shape)} in the network"
            for key, value in own.items()
            if key in weights and weights[key].shape != value.shape
        ),
    ]
    if odd:
        more = f", and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise ValueError(f"{path}: no weights of {cell.teacher} for these images and classes: it {'; '.join(odd[:3])}{more}")
    network.load_state_dict(weights)
    return network


def load_network(folder: Path, dataset, cell: Cell, options: Mapping | None = None) -> nn.Module:
    """Return the first network of a finished cell, at its last epoch: a teacher of `cell`, or the cell's own.

    Args:
        folder: Its folder.
        dataset: The data set, as the examples of the network's input.
        cell: The cell, whose task and stem the network has.
        options: Options of the model itself.

    Raises:
        NoTeacher: The cell in `folder` has no result.
        ValueError: The folder holds no cell, or weights that are not those that were trained, of another shape, not finite, or
            no floating-point numbers; or it learned from images that were normalised by other constants.
    """
    metrics, path = folder / "metrics.json", folder / identity.WEIGHTS
    if not metrics.is_file():
        raise ValueError(f"{metrics}: no such file; train the teacher first")
    if not seals.check_seal(folder, (metrics.name, path.name)):
        print(f"{folder} is not sealed, because older code trained it: its weights are held to no hash", file=sys.stderr)
    record = json_files.read(metrics, seals.AGAIN)
    finished = record.get("status") == "finished"
    for line in json_files.problems(record, TEACHER if finished else {"status": Value(str)}):
        raise ValueError(f"{metrics}: {line}; {seals.AGAIN}")
    if not finished:
        raise NoTeacher(f"the teacher in {folder} has no result: {record.get('error', record['status'])}")
    if cell.teacher_input == IMAGE:
        _check_constants(folder, cell)
    network = create(record["cell"]["student"], dataset, replace(cell, task=record["cell"].get("task", cell.task)), options)
    weights = {key[2:]: value for key, value in checkpoint.load_weights(path).items() if key.startswith("0.")}
    for key, own in network.state_dict().items():
        if key in weights:
            _check_values(weights[key], own, f"{path}: 0.{key}")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: {str(error).splitlines()[-1].strip()}") from None
    return network


def _check_constants(folder: Path, cell: Cell) -> None:
    """Refuse a network that learned from images of other constants than the cell's: it would see images that it does not know.

    A cell of before there were such constants has none, those of the training images.
    """
    own, theirs = keys.plain(cell.recipe.normalise), identity.recorded_fields(folder).get("recipe.normalise")
    if own != theirs:
        raise ValueError(
            f"{folder}: it was trained with recipe.normalise {keys.short(theirs)}, and {cell.path} has {keys.short(own)}; give "
            "both one"
        )


def _check_values(values: Tensor, own: Tensor, name: str) -> None:
    if not own.is_floating_point():
        if values.dtype != own.dtype:
            raise ValueError(f"{name} is {values.dtype}, and the network's own {own.dtype}: {seals.AGAIN}")
        return
    if not values.is_floating_point():
        raise ValueError(f"{name} is {values.dtype}; weights are floating-point numbers: {seals.AGAIN}")
    if not values.isfinite().all():
        raise ValueError(f"{name} has values that are not finite: {seals.AGAIN}")
