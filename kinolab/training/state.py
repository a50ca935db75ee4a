"""Checkpoints of a run: all that is needed to go on exactly, written aside and renamed.

Weights, optimiser and EMA go through torch.distributed.checkpoint, so a checkpoint written by two processes loads into
one or three. The step number is the data position and the seed of every draw (see `randomness`), so nothing else is
needed.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from kinolab.errors import InputError
from kinolab.runtime.text import split_lines
from kinolab.training.ema import Ema
from kinolab.training.parallel import World


class RunState:
    """The named modules, optimisers and averages of a run, saved and loaded together."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        averages: Mapping[str, Ema],
        world: World,
    ) -> None:
        self.modules, self.optimizers, self.averages, self.world = modules, optimizers, averages, world

    def _collect(self, started: Collection[str]) -> dict[str, Any]:
        """What is saved; optimisers only of the parts in `started`, as one that has not stepped has no state yet (and
        torch would make it one by a step, after which its first real step is its second)."""
        state: dict[str, Any] = {}
        for name, module in self.modules.items():
            state[name] = {"weights": get_model_state_dict(module)}
            if name in started:
                state[name]["optimizer"] = get_optimizer_state_dict(module, self.optimizers[name])
        for name, average in self.averages.items():
            state[f"{name}.ema"] = average.shadow
        return state

    def save(self, folder: Path, step: int, keep: int) -> Path:
        """Write `folder/step-N` (complete or not there at all) and delete all but the newest `keep`."""
        final = folder / f"step-{step:08d}"
        beside = folder / f".writing-{step:08d}"
        if self.world.first:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        self._barrier()
        started = [name for name, optimizer in self.optimizers.items() if optimizer.state]
        with _alone_is_fine():
            dcp.save(self._collect(started), checkpoint_id=beside, no_dist=self.world.size == 1)
        self._barrier()
        if self.world.first:
            record = {"step": step, "processes": self.world.size, "optimizers": started}
            (beside / "state.json").write_text(json.dumps(record))
            shutil.rmtree(final, ignore_errors=True)
            beside.rename(final)
            for old in checkpoints(folder)[:-keep]:
                shutil.rmtree(old)
        self._barrier()
        return final

    def load(self, checkpoint: Path) -> int:
        """Load a checkpoint into the modules, optimisers and averages; returns its step."""
        record = json.loads((checkpoint / "state.json").read_text())
        state = self._collect(record["optimizers"])
        try:
            with _alone_is_fine():
                dcp.load(state, checkpoint_id=checkpoint, no_dist=self.world.size == 1)
        except (RuntimeError, ValueError, dcp.api.CheckpointException) as error:
            last = (split_lines(str(error).strip()) or [type(error).__name__])[-1]
            raise InputError(f"{checkpoint}: does not fit this recipe's model ({last})") from None
        for name, module in self.modules.items():
            set_model_state_dict(module, state[name]["weights"])
            if name in record["optimizers"]:
                set_optimizer_state_dict(module, self.optimizers[name], state[name]["optimizer"])
        for name, average in self.averages.items():
            average.shadow = state[f"{name}.ema"]
        return int(record["step"])

    def _barrier(self) -> None:
        if self.world.size > 1:
            dist.barrier()


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    """Without torch's warning that a single process saves or loads by itself, which is what is meant here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / "state.json").exists())
