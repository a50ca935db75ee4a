"""What the tests run in each of two processes that share a process group: `python -m tests.training.two_processes`."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from kinolab.training.parallel import World, any_process, full_state, join_world, mean_over_world, whole, wrap
from kinolab.training.run import train
from kinolab.training.settings import TrainingConfig, make_optimizer
from tests.training.tiny import autoencoder_recipe

CONFIG = TrainingConfig(
    optimizer="muon", learning_rate=0.02, weight_decay=0.1, precision="float32", parallel="fsdp", betas=(0.9, 0.95)
)


class Network(nn.Module):
    """Matrices whose rows two processes share evenly, unevenly, and as kernels; vectors and an embedding beside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 20)
        self.blocks = nn.ModuleList(nn.Linear(20, 20) for _ in range(2))
        self.uneven = nn.Linear(20, 17)
        self.kernel = nn.Conv1d(17, 16, 3)

    def forward(self, index: Tensor) -> Tensor:
        """(B, L) -> (B, 16, L - 2)."""
        x = self.embed(index)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.kernel(self.uneven(x).mT)


def network() -> Network:
    """The same weights in every process."""
    torch.manual_seed(0)
    return Network()


def batch(step: int) -> Tensor:
    """Four rows, of which each of two processes takes half."""
    return torch.randint(5, (4, 8), generator=torch.Generator().manual_seed(step))


def steps(module: nn.Module, rows: slice, count: int = 4) -> torch.optim.Optimizer:
    """Some steps of Muon on a share of the batches."""
    optimizer = make_optimizer(module, CONFIG)
    for step in range(count):
        optimizer.zero_grad()
        module(batch(step)[rows]).square().mean().backward()
        optimizer.step()
    return optimizer


def sharded(world: World, out: Path) -> dict[str, object]:
    """Muon on sharded matrices; what the first process, and it alone, gathers of them."""
    module = network()
    before = copy.deepcopy(module.state_dict())
    wrap(module, world, "fsdp")
    gathered = full_state(module, world)
    same = all(torch.equal(gathered[name], before[name]) for name in gathered)
    optimizer = steps(module, slice(2 * world.rank, 2 * world.rank + 2))
    rows = {name: p.to_local().shape[0] for name, p in module.named_parameters()}  # type: ignore[attr-defined]
    after = full_state(module, world)
    momenta = [whole(s["momentum"]) for s in optimizer.state.values() if "momentum" in s]
    if world.first:
        torch.save({"weights": after, "momenta": momenta}, out / "sharded.pt")
    plain = all(type(v) is Tensor and v.device.type == "cpu" for v in gathered.values())
    return {"names": sorted(gathered), "same": same, "plain": plain, "rows": rows}


def stopped(world: World, out: Path) -> dict[str, object]:
    """A training of which the first process alone is asked to stop, after its second step."""
    path = out / f"recipe-{world.rank}.yaml"
    path.write_text(yaml.safe_dump(autoencoder_recipe(steps=6)))

    def stop(step: int, steps: int, numbers: dict[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    return {"step": train(path, out / "run", progress=stop, resume="auto").step}


def main(out: Path) -> None:
    """Do all of it and write what was found, a file for each process."""
    torch.set_num_threads(1)
    with join_world("cpu") as world:
        found: dict[str, object] = {
            "mean": mean_over_world({"a": float(world.rank), "b": 1e-9 * world.rank}, world),
            "any": [any_process(flag, world) for flag in (False, world.rank == 1, True)],
            "sharded": sharded(world, out),
            "stopped": stopped(world, out),
        }
        (out / f"{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
