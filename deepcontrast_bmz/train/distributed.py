"""How training is spread over devices, nodes and smaller batches, and why the model is the same.

The batch of the recipe is the batch of an optimiser step, however it is computed: every process
takes an equal part of it, piece by piece where gradients are accumulated, and gradients are
averaged. Two processes give the model of one; only the order of sums differs.
"""

from __future__ import annotations

__all__ = ["PRECISIONS", "Spread", "is_first_process", "trainer_arguments"]

import os
from dataclasses import dataclass
from typing import Any

import torch

from deepcontrast_bmz.errors import InputError

PRECISIONS = ("auto", "32", "bf16")
"""Of training; ``auto`` is bf16 on a CUDA device that has it, and 32 elsewhere."""

_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
"""Where launchers say which process this is; the first is 0 in all of them."""


@dataclass(frozen=True)
class Spread:
    """What a training step is spread over.

    Raises
    ------
    InputError
        If a number is below 1, or the precision is unknown.
    """

    devices: int = 1
    """Processes on every node, each with a device of its own; on a CPU they share the cores."""
    nodes: int = 1
    """Machines; the same command is started on each, by SLURM, torchrun or by hand."""
    accumulate: int = 1
    """Pieces that a process computes its part of the batch in, one after the other."""
    precision: str = "auto"
    """One of `PRECISIONS`."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("devices", "nodes", "accumulate"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"--{name} is at least 1, not {value}: give more, or leave it out")
        if self.precision not in PRECISIONS:
            raise InputError(
                f"--precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}: "
                "choose one of them"
            )

    @property
    def processes(self) -> int:
        """Processes in all."""
        return self.devices * self.nodes

    def piece(self, batch: int) -> int:
        """Return how many patches of a batch a process computes at once.

        Raises
        ------
        InputError
            If the batch cannot be cut into equal pieces.
        """
        pieces = self.processes * self.accumulate
        if batch % pieces:
            raise InputError(
                f"training.batch is a multiple of devices x nodes x accumulate, but {batch} is not "
                f"one of {self.devices} x {self.nodes} x {self.accumulate} = {pieces}: "
                "change one of them"
            )
        return batch // pieces

    def share(self, batches: range, batch: int, process: int) -> list[int]:
        """Return the examples of a process, in the order it takes them.

        Parameters
        ----------
        batches : range
            Optimiser steps; step i takes the examples i * batch to (i + 1) * batch - 1.
        batch : int
            Examples per optimiser step.
        process : int
            Number of the process, from 0.
        """
        piece = self.piece(batch)
        return [
            number * batch + (turn * self.processes + process) * piece + i
            for number in batches
            for turn in range(self.accumulate)
            for i in range(piece)
        ]


def is_first_process() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def trainer_arguments(spread: Spread, device: str) -> dict[str, Any]:
    """Return the arguments of Lightning's trainer that say where and how it computes.

    Parameters
    ----------
    spread : Spread
    device : {'cpu', 'cuda', 'mps'}

    Raises
    ------
    InputError
        If there are fewer devices than asked for.
    """
    if device == "cuda" and spread.devices > torch.cuda.device_count():
        raise InputError(
            f"--devices {spread.devices} needs as many GPUs, but there are "
            f"{torch.cuda.device_count()}: ask for fewer"
        )
    if device == "mps" and spread.devices > 1:
        raise InputError(f"an Apple machine has one GPU, not {spread.devices}: use --devices 1")
    half = spread.precision == "bf16"
    if spread.precision == "auto":
        half = device == "cuda" and torch.cuda.is_bf16_supported()
    return {
        "accelerator": {"cuda": "gpu"}.get(device, device),
        "devices": spread.devices,
        "num_nodes": spread.nodes,
        "strategy": "ddp" if spread.processes > 1 else "auto",
        "precision": "bf16-mixed" if half else "32-true",
        "accumulate_grad_batches": spread.accumulate,
        # Which examples a process takes is decided by `Spread.share`.
        "use_distributed_sampler": False,
    }
