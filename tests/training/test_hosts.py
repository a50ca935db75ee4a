"""Training across two hosts: equal to one process, and after a process was killed to the run that was not."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kinolab.models import save_autoencoder
from kinolab.runtime.ranks import LostRankError
from kinolab.training.run import train
from kinolab.training.trainer import Trainer
from tests.closeness import assert_close, assert_same
from tests.hosts import CABLE, move_to, two_hosts
from tests.processes import Child
from tests.tiny_model import tiny_model
from tests.training.meshes import work
from tests.training.test_mesh import EQUAL
from tests.training.tiny import denoiser_recipe

CASES: list[tuple[str, Any, str]] = [
    ("latte", "fsdp", "float32"), ("latte", {"replicate": 2, "shard": 2}, "float32"),
    ("latte", {"context": 4}, "float32"), ("mmdit", {"shard": 2, "context": 2}, "float32"),
]  # fmt: skip


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    with two_hosts() as made:
        yield made


def recipe(folder: Path, **training: Any) -> Path:
    """A tiny Latte whose four processes share two clips, and two of them each clip."""
    save_autoencoder(tiny_model(text=False).autoencoder, folder / "autoencoder")
    made = denoiser_recipe(folder / "autoencoder", steps=5, save_every=1, **training)
    made["denoiser"] |= {"input_size": 8, "num_frames": 2}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(made))
    return path


def on_host(host: str | None, call: Any, *given: Any) -> None:
    """Run in a child: on a host, where one is named."""
    if host is not None:
        move_to(host)
    call(*given)


def run(path: str, out: str, rank: int, size: int, fault: tuple[int, int, int] | None) -> None:
    """One process's part of a training that starts or goes on; `fault`: what signal it gets, as which rank, in which
    step (counted from 0)."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    step_of = Trainer.train_step

    def step(self: Trainer, number: int, batches: Any) -> dict[str, float]:
        if fault is not None and fault[1:] == (rank, number):
            os.kill(os.getpid(), fault[0])
        return step_of(self, number, batches)

    Trainer.train_step = step  # type: ignore[assignment, method-assign]
    try:
        train(path, Path(out), resume="auto")
    except LostRankError as error:
        print(error, flush=True)
        os._exit(3)


class Group:
    """Processes that train together: half of them on each of two hosts, or all here."""

    def __init__(self, size: int, port: int, hosts: dict[str, str] | None = None) -> None:
        names, self.size = list(hosts or {}), size
        first = hosts[names[0]] if hosts else "127.0.0.1"
        self.places = [names[rank * 2 // size] if hosts else None for rank in range(size)]
        self.environment = {"MASTER_ADDR": first, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        self.environment |= {"GLOO_SOCKET_IFNAME": CABLE} if hosts else {}

    def start(self, call: Any, *given: Any, last: tuple[Any, ...] = ()) -> list[Child]:
        return [
            Child(on_host, place, call, *given, rank, self.size, *last, environment=self.environment)
            for rank, place in enumerate(self.places)
        ]


@pytest.mark.wide("netns")
def test_four_processes_on_two_hosts_equal_one(hosts: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    children = Group(4, 29511, hosts).start(work, str(out), last=(CASES,))
    ended = [child.wait(100) for child in children]
    assert [status for status, _ in ended] == [0] * 4, "\n".join(said for _, said in ended)
    found = json.loads(out.read_text())
    for name, how, dtype in CASES:
        told = found[f"{name} {how} {dtype}"]
        assert told["tracked"] and told["loss"] <= EQUAL and told["weights"] <= EQUAL, (name, how, told)


@pytest.mark.wide("netns")
def test_a_rank_killed_at_step_3_and_started_again_ends_as_the_unbroken_run(
    hosts: dict[str, str], tmp_path: Path
) -> None:
    """A copy on each of two hosts, sharded over context ranks, with checkpoints written beside the steps."""
    path = recipe(tmp_path, checkpoints="beside", parallel={"replicate": 2, "context": 2})
    for out, port, fault in (
        ("whole", 29521, None),
        ("killed", 29531, (signal.SIGKILL, 3, 3)),
        ("killed", 29541, None),
    ):
        children = Group(4, port, hosts).start(run, str(path), str(tmp_path / out), last=(fault,))
        ended = [child.wait(100) for child in children]
        wanted = [0] * 4 if fault is None else [3, 3, 3, -signal.SIGKILL]
        assert [status for status, _ in ended] == wanted, "\n".join(said for _, said in ended)
        if fault is not None:
            assert "process 0 of 4 stops: another process is gone" in ended[0][1]
            assert not (tmp_path / out / "model").exists()
    whole, killed = (load_file(tmp_path / out / "model" / "denoiser.safetensors") for out in ("whole", "killed"))
    train(path, tmp_path / "one", ["training.parallel=ddp"])
    one = load_file(tmp_path / "one" / "model" / "denoiser.safetensors")
    for name, value in whole.items():
        assert_same(killed[name], value)
        assert_close(value, one[name], 1e-3, name)  # five steps of AdamW


@pytest.mark.wide
def test_a_rank_that_hangs_ends_the_run_with_a_line(tmp_path: Path) -> None:
    path = recipe(tmp_path, answer_within=4.0)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    children = Group(2, port).start(run, str(path), str(tmp_path / "out"), last=((signal.SIGSTOP, 1, 2),))
    status, said = children[0].wait(60)
    children[1].kill()
    assert status == 3 and "process 0 of 2 stops: another process has not answered for 4 s" in said, said
    assert (tmp_path / "out" / "checkpoints" / "step-00000002").exists()
