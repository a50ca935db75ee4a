"""Checkpoints of a run: all that is needed to go on exactly, written aside and renamed.

Weights, optimiser and EMA go through torch.distributed.checkpoint, so a checkpoint written by two processes loads into
one or three. The step number is the data position and the seed of every draw (see `randomness`), so nothing else is
needed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from kinolab.errors import InputError
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

    def _collect(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for name, module in self.modules.items():
            weights, optimizer = get_state_dict(module, self.optimizers[name])
            state[name] = {"weights": weights, "optimizer": optimizer}
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
        dcp.save(self._collect(), checkpoint_id=beside, no_dist=self.world.size == 1)
        self._barrier()
        if self.world.first:
            (beside / "state.json").write_text(json.dumps({"step": step, "processes": self.world.size}))
            shutil.rmtree(final, ignore_errors=True)
            beside.rename(final)
            for old in checkpoints(folder)[:-keep]:
                shutil.rmtree(old)
        self._barrier()
        return final

    def load(self, checkpoint: Path) -> int:
        """Load a checkpoint into the modules, optimisers and averages; returns its step."""
        state = self._collect()
        try:
            dcp.load(state, checkpoint_id=checkpoint, no_dist=self.world.size == 1)
        except (RuntimeError, ValueError, dcp.api.CheckpointException) as error:
            first = str(error).strip().splitlines()[-1]
            raise InputError(f"{checkpoint}: does not fit this recipe's model ({first})") from None
        for name, module in self.modules.items():
            set_state_dict(
                module,
                self.optimizers[name],
                model_state_dict=state[name]["weights"],
                optim_state_dict=state[name]["optimizer"],
            )
        for name, average in self.averages.items():
            average.shadow = state[f"{name}.ema"]
        return int(json.loads((checkpoint / "state.json").read_text())["step"])

    def _barrier(self) -> None:
        if self.world.size > 1:
            dist.barrier()


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / "state.json").exists())
