"""Where a network is fitted: a device and a precision, alone or as one of several processes.

The sole importer of Lightning. Fabric carries the device, the precision and the processes' collective calls;
the gradients are added up by the loop itself, because torch's own wrapper averages the processes' means,
which is wrong with uneven shares, and stumbles over an encoder that nobody in a share has.

Several processes are started from outside, by ``torchrun`` or whatever else sets the variables that it sets:
``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.strategies import DDPStrategy

from medmm.arrays import Ints
from medmm.errors import FittingError
from medmm.fitting.memory import ran_out

Precision = Literal["float32", "bf16"]

FABRIC: dict[Precision, Any] = {"float32": "32-true", "bf16": "bf16-mixed"}

PATIENCE = timedelta(hours=12)
"""How long a process waits for the others: the leader judges and seals while they wait for the last fit."""


def count() -> int:
    """Return the number of processes that fit together; 1 where nothing was said."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Tell whether this process is the one that writes, tracks and prints."""
    return count() == 1 or int(os.environ.get("RANK", "0")) == 0


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that fit one network, seen from one of them."""

    fabric: Fabric

    @property
    def rank(self) -> int:
        """This process, 0 … count-1."""
        return int(self.fabric.global_rank)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.fabric.world_size)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        found: torch.device = self.fabric.device
        return found

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass in the precision that was asked for."""
        found: AbstractContextManager[Any] = self.fabric.autocast()
        return found

    def share(self, patients: int) -> Ints:
        """Return this process's places in a batch; the shares differ by one patient at most."""
        everybody = np.arange(patients)
        return everybody if self.count == 1 else np.array_split(everybody, self.count)[self.rank]

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of every process's tensor, the same bits in each; it may take the tensor's place.

        Raises:
            FittingError: if another process has ended.
        """
        if self.count == 1:
            return tensor
        with _others_there():
            return _placed(self.fabric.all_reduce(tensor, reduce_op="sum"))

    def anybody(self, said: bool) -> bool:
        """Tell whether any process said yes."""
        if self.count == 1:
            return said
        return bool(self.total(torch.tensor(float(said), device=self.device)) > 0)

    def leader(self, numbers: list[float]) -> list[float]:
        """Return the numbers that the leader holds, so that all decide alike."""
        if self.count == 1:
            return numbers
        mine = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        sent: list[float] = self.total(mine if self.rank == 0 else torch.zeros_like(mine)).tolist()
        return sent


def _placed(tensor: Any) -> torch.Tensor:
    assert isinstance(tensor, torch.Tensor)
    return tensor


@cache
def processes(precision: Precision = "float32") -> Processes:
    """Return the processes of this run, joined at the first call."""
    told = FABRIC[precision]
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # else it greets on standard error
    if count() == 1:
        return Processes(Fabric(accelerator="auto", devices=1, precision=told))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    strategy = DDPStrategy(cluster_environment=TorchElasticEnvironment(), timeout=PATIENCE)
    fabric = Fabric(
        accelerator="auto", strategy=strategy, devices=here, num_nodes=count() // here, precision=told
    )
    with _others_there():
        fabric.launch()
    # A thread of gloo that outlives the interpreter ends its process with SIGABRT after all is done
    # (pytorch issue 190489: 2 of 60 processes here); Fabric closes the groups of nccl alone.
    atexit.register(_parted)
    return Processes(fabric)


@contextmanager
def _others_there() -> Iterator[None]:
    """Say in one line that another process is gone, which the network's library calls a reset connection.

    Raises:
        FittingError: if a call that all of them take together fails.
    """
    try:
        yield
    except RuntimeError as error:
        if ran_out(error):  # who called makes its batch smaller
            raise
        raise FittingError(
            "another process of this run has ended, or cannot be reached; its own last lines say why. What"
            " is finished is kept: start all of them again with --resume"
        ) from error


def _met() -> None:
    with _others_there():
        processes().fabric.barrier()


def _parted() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def leader_first() -> Iterator[None]:
    """Let the leader through first, and the others once it is done: they find what it left on disk."""
    together = count() > 1
    if together:
        processes()  # met now: the others would wait for a leader that is refused before that
    if together and not leads():
        _met()
    yield
    if together and leads():
        _met()


def from_leader(text: str) -> str:
    """Return the text that the leader holds."""
    if count() == 1:
        return text
    ours = processes()
    size = int(ours.leader([float(len(text.encode()))])[0])
    letters = [float(letter) for letter in text.encode()] if leads() else [0.0] * size
    return bytes(int(letter) for letter in ours.leader(letters)).decode()


def agreed(text: str) -> bool:
    """Tell whether every process has the same text."""
    return count() == 1 or not processes().anybody(from_leader(text) != text)
