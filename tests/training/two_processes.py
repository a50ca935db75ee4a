"""What the tests run in each of two processes that share a process group: `python -m tests.training.two_processes`."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from kinolab.errors import DamagedError
from kinolab.runtime.ranks import Ranks, any_rank, join_ranks, mean_over_ranks, wait_for_all
from kinolab.training.parallel import full_state, whole, wrap
from kinolab.training.run import train
from kinolab.training.settings import TrainingConfig, make_optimizer
from kinolab.training.state import RunState
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


def sharded(ranks: Ranks, out: Path) -> dict[str, object]:
    """Muon on sharded matrices; what the first process, and it alone, gathers of them."""
    module = network()
    before = copy.deepcopy(module.state_dict())
    wrap(module, ranks, "fsdp")
    gathered = full_state(module, ranks)
    same = all(torch.equal(gathered[name], before[name]) for name in gathered)
    optimizer = steps(module, slice(2 * ranks.rank, 2 * ranks.rank + 2))
    rows = {name: p.to_local().shape[0] for name, p in module.named_parameters()}  # type: ignore[attr-defined]
    after = full_state(module, ranks)
    momenta = [whole(s["momentum"]) for s in optimizer.state.values() if "momentum" in s]
    if ranks.first:
        torch.save({"weights": after, "momenta": momenta}, out / "sharded.pt")
    plain = all(type(v) is Tensor and v.device.type == "cpu" for v in gathered.values())
    return {"names": sorted(gathered), "same": same, "plain": plain, "rows": rows}


def stopped(ranks: Ranks, out: Path) -> dict[str, object]:
    """A training of which the first process alone is asked to stop, after its second step."""
    path = out / f"recipe-{ranks.rank}.yaml"
    path.write_text(yaml.safe_dump(autoencoder_recipe(steps=6)))

    def stop(step: int, steps: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    return {"step": train(path, out / "run", events=stop, resume="auto").step}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda checkpoint: None,
    "a bit of the first process's tensors": lambda c: flip(c / "rank-00000.safetensors", -5),
    "a bit of the second process's tensors": lambda c: flip(c / "rank-00001.safetensors", -5),
    "the second process's file is missing": lambda c: (c / "rank-00001.safetensors").unlink(),
    "the second process's file is cut": lambda c: os.truncate(c / "rank-00001.safetensors", 100),
    "no step": lambda c: (c / "state.json").write_text(""),
    "no metadata": lambda c: (c / "metadata.json").unlink(),
    "metadata of another form": lambda c: (c / "metadata.json").write_text("[[]]"),
    "no manifest": lambda c: (c / "manifest.json").unlink(),
    "a damaged manifest": lambda c: (c / "manifest.json").write_text("{"),
}
"""What can happen to a checkpoint."""


def damaged(ranks: Ranks, out: Path) -> dict[str, object]:
    """Which step both processes load after each kind of damage, and whether it is the state of that step; then what
    they raise where no checkpoint is whole."""
    module = wrap(network(), ranks, "fsdp")
    expected = {}
    for step in (1, 2):
        optimizer = steps(module, slice(2 * ranks.rank, 2 * ranks.rank + 2), 1)
        state = RunState({"net": module}, {"net": optimizer}, {}, ranks)
        state.save(out / "saved", step, keep=2)
        expected[step] = full_state(module, ranks)
    found: dict[str, object] = {}
    for name, damage in DAMAGES.items():
        folder, said = out / name, list[str]()
        if ranks.first:
            shutil.copytree(out / "saved", folder)
            damage(folder / "step-00000002")
        wait_for_all(ranks)
        step_found = state.load_newest(folder, said.append)
        now = full_state(module, ranks)
        same = step_found is not None and all(torch.equal(now[k], v) for k, v in expected[step_found].items())
        found[name] = [step_found, same, len(said)]
    if ranks.first:
        flip(out / "no metadata" / "step-00000001" / "rank-00001.safetensors", -5)
    wait_for_all(ranks)
    try:
        state.load_newest(out / "no metadata", lambda text: None)
    except DamagedError as error:
        found["none"] = str(error)
    return found


def main(out: Path, parts: Sequence[str]) -> None:
    """Do all of it and write what was found, a file for each process. parts: only these, where some are named."""
    torch.set_num_threads(1)
    with join_ranks("cpu") as ranks:
        if "damaged" in parts:
            (out / f"{ranks.rank}.json").write_text(json.dumps(damaged(ranks, out)))
            return
        found: dict[str, object] = {
            "mean": mean_over_ranks({"a": float(ranks.rank), "b": 1e-9 * ranks.rank}, ranks),
            "any": [any_rank(flag, ranks) for flag in (False, ranks.rank == 1, True)],
            "sharded": sharded(ranks, out),
            "stopped": stopped(ranks, out),
        }
        (out / f"{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
