"""One cell over several processes: which process trains which network, and how processes communicate.

Under `torchrun` a cell of N networks runs in N processes, one for each network, or in N times D: then D processes share each
network's batches by DistributedDataParallel. Without it one process trains all networks. The loop calls a `Ranks` and is the
same in both cases.

Networks exchange weights in a ring, point to point: process i sends to i + 1 and receives from i - 1.
"""

import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dgd.train.outcomes import NoResult

# A process that dies is detected at once by its closed connection; the time limit is for a process that hangs.
TIMEOUT = timedelta(minutes=30)
FOREVER = timedelta(days=365)
ELASTIC = "TORCHELASTIC_RUN_ID"
"""Environment variable of a process that torchrun started."""


def launched() -> bool:
    """Return whether this process is one of several that `torchrun`, or anything that sets the same variables, started."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def leads() -> bool:
    """Return whether this process is the one of a cell's that writes its files."""
    return not launched() or os.environ["RANK"] == "0"


class Ranks:
    """The communication of a cell whose networks are all in this process; `Processes` is that of several processes.

    Attributes:
        mine: Indices of the networks that this process trains.
        leads: Whether this process writes the cell's files.
        shard, shards: Which part of its networks' batches this process takes, and the number of parts.
    """

    leads = True
    shard, shards = 0, 1

    def __init__(self, networks: int):
        self.mine = range(networks)

    def all_networks(self, work: Callable[[], list]) -> list:
        """Run `work`, which returns an item for each network of this process; return those of all the cell's networks.

        Raises:
            NoResult: The first that `work` raised in any process; it is raised in each.
        """
        return work()

    def recv_from_previous(self, states: list[Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
        """Return the state of the network before this process's first one in the ring, or [] if this process has it."""
        return []

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module, wrapped so that gradients are averaged over the processes that share the network."""
        return module

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Broadcast the batch norm statistics of the first process that shares a network to the others."""

    def all_gather(self, value) -> list:
        """Return `value` of every process, in order."""
        return [value]

    def all_gather_shards(self, value) -> list:
        """Return `value` of every process that shares the network, in order."""
        return [value]

    def broadcast(self, value):
        """Return the leader's value."""
        return value

    def gather_networks(self, items: list) -> list | None:
        """Return an item for each network of the cell, from those of each process; None except in the leader."""
        return items

    def close(self) -> None:
        """Leave the group of processes."""


class Processes(Ranks):
    """The communication of one of several processes: process r of a `torchrun` trains shard r % D of network r // D.

    Raises:
        ValueError: Two processes have the same GPU.
    """

    def __init__(self, networks: int, device: torch.device):
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.shards = world // networks
        self.shard = rank % self.shards
        self.mine = range(rank // self.shards, rank // self.shards + 1)
        self.leads = rank == 0
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        self.control = dist.new_group(backend="gloo", timeout=TIMEOUT)
        if device.type == "cuda":
            gpus = self.all_gather((platform.node(), str(torch.cuda.get_device_properties(device).uuid)))
            if len(set(gpus)) < world:
                raise ValueError(
                    f"{world} processes have {len(set(gpus))} GPUs, and each needs one of its own: give the cell more, or set "
                    "recipe.ranks_per_network to 0"
                )
        # Every process must create every group, also those that it is not in.
        shard_groups = [dist.new_group(range(k * self.shards, (k + 1) * self.shards)) for k in range(networks)]
        self.shard_group = shard_groups[self.mine[0]]
        self.device = device
        self.ring = dist.new_group(backend="gloo", timeout=FOREVER)
        self.watcher = threading.Thread(target=self._watch, args=((rank + 1) % world,), daemon=True)
        self.watcher.start()
        if ELASTIC in os.environ:
            threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()

    def all_networks(self, work):
        """See `Ranks.all_networks`."""
        mine, error = [], None
        try:
            mine = work()
        except NoResult as caught:
            error = caught
        found = self.all_gather((mine, error))
        for _, error in found:
            if error:
                raise error
        return [item for mine, _ in found[:: self.shards] for item in mine]

    def recv_from_previous(self, states):
        """See `Ranks.recv_from_previous`; a process receives from the process with the same shard of the previous network."""
        (state,) = states
        rank, world = dist.get_rank(), dist.get_world_size()
        to, source = (rank + self.shards) % world, (rank - self.shards) % world
        received = {key: torch.empty_like(value) for key, value in state.items()}
        for kind in sorted({str(value.dtype) for value in state.values()}):
            keys = [key for key, value in state.items() if str(value.dtype) == kind]
            sent = torch.cat([state[key].reshape(-1) for key in keys])
            got = torch.empty_like(sent)
            for request in dist.batch_isend_irecv([dist.P2POp(dist.isend, sent, to), dist.P2POp(dist.irecv, got, source)]):
                request.wait()
            for key, part in zip(keys, got.split([state[key].numel() for key in keys])):
                received[key].copy_(part.view(state[key].shape))
        return [received]

    def wrap(self, module):
        """See `Ranks.wrap`."""
        if self.shards == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, devices, process_group=self.shard_group, broadcast_buffers=False)

    def broadcast_buffers(self, module):
        """See `Ranks.broadcast_buffers`."""
        if self.shards > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, self.mine[0] * self.shards, group=self.shard_group)

    def all_gather(self, value):
        """See `Ranks.all_gather`."""
        found = [None] * dist.get_world_size()
        dist.all_gather_object(found, value, group=self.control)
        return found

    def all_gather_shards(self, value):
        """See `Ranks.all_gather_shards`."""
        first = self.mine[0] * self.shards
        return self.all_gather(value)[first : first + self.shards]

    def broadcast(self, value):
        """See `Ranks.broadcast`."""
        box = [value]
        dist.broadcast_object_list(box, 0, group=self.control)
        return box[0]

    def gather_networks(self, items):
        """See `Ranks.gather_networks`."""
        items = tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, items)
        found = [None] * dist.get_world_size() if self.leads else None
        dist.gather_object(items if self.shard == 0 else None, found, dst=0, group=self.control)
        return [item for part in found[:: self.shards] for item in part] if self.leads else None

    def close(self):
        """See `Ranks.close`."""
        dist.barrier(self.control)
        dist.send(torch.zeros(1), (dist.get_rank() - 1) % dist.get_world_size(), group=self.ring)
        self.watcher.join()
        dist.destroy_process_group()

    def _watch(self, neighbour: int) -> None:
        """End this process when its neighbour dies, even in the middle of an epoch or of a blocking call."""
        try:
            dist.recv(torch.zeros(1), neighbour, group=self.ring)  # returns at `close`, and raises if the connection breaks
        except RuntimeError:
            if ELASTIC not in os.environ:  # else torchrun's launcher says so
                print(f"rank {neighbour} is gone; start the cell again, it goes on", file=sys.stderr, flush=True)
            os._exit(1)


def _end_with_parent(parent: int) -> None:
    """End this process when the torchrun that started it is gone: nobody else would end it."""
    while os.getppid() == parent:
        time.sleep(2)
    print("torchrun is gone; start the cell again, it goes on", file=sys.stderr, flush=True)
    os._exit(1)


def join(networks: int, processes: int, device: torch.device) -> Ranks:
    """Join the cell's processes: this one alone, or those of its `torchrun`.

    Raises:
        ValueError: The number of processes is not the config's, which alone decides what is computed.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world != processes:
        raise ValueError(
            f"the cell's recipe.ranks_per_network asks for {processes} processes and this is one of {world}: start it with "
            f"torchrun --nproc-per-node={processes}, or change the config"
        )
    return Processes(networks, device) if world > 1 else Ranks(networks)
