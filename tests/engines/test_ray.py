"""Ray's actors as workers, on a Ray that is begun here: the same bytes, the same endings."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab.contracts.engine import Each, Engine, Task
from kinolab.contracts.events import Silent
from kinolab.engines import engine_of
from kinolab.engines.ray import _begin
from kinolab.errors import InputError
from kinolab.runtime.processes import environment
from tests.engines.actors import actors_here
from tests.engines.encoding import encode, source, write_clips
from tests.engines.folders import files_of
from tests.engines.test_embedded import Doing

pytestmark = [pytest.mark.wide("ray"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Two actors of a Ray that ends with the module; it says of itself that it has four processors and a GPU."""
    import ray

    with environment({"CUDA_VISIBLE_DEVICES": "0"}):
        _begin(ray, "", 4, num_gpus=1)
    found = engine_of("ray", 2)
    assert found is not None
    yield found
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "clips", 5)


class Killing(Silent):
    """Kills an actor at every shard that is written."""

    def __init__(self) -> None:
        self.killed = 0

    def wrote(self, path: Path, what: str = "file") -> None:
        actors = actors_here()
        if actors and self.killed < 3:
            os.kill(actors[0], signal.SIGKILL)
            self.killed += 1


def test_a_cache_is_the_same_by_actors_and_by_actors_that_are_killed(
    engine: Engine, folder: Path, tmp_path: Path
) -> None:
    encode(folder, tmp_path / "quiet")
    quiet = files_of(tmp_path / "quiet")
    summary = encode(folder, tmp_path / "a", engine)
    assert summary.encoded == summary.items == 15 and files_of(tmp_path / "a") == quiet
    events = Killing()
    encode(folder, tmp_path / "b", engine, events=events)
    assert events.killed == 3 and files_of(tmp_path / "b") == quiet


def test_a_folder_is_scanned_alike(engine: Engine, folder: Path) -> None:
    assert source(folder).verdicts() == source(folder, engine).verdicts()


def test_clips_that_crash_their_actor_are_left_out(engine: Engine, tmp_path: Path) -> None:
    tasks = [Task("t0", ("a", "segfault", "b")), Task("t1", ("c", "raise")), Task("t2", ("d",))]
    found = {d.task.key: (d.value[1:], [x.part for x in d.left]) for d in engine.run(Doing(tmp_path), tasks, Silent())}
    assert found == {"t0": (["a", "b"], ["segfault"]), "t1": (["c"], ["raise"]), "t2": (["d"], [])}


def test_a_mistake_ends_the_job(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected something else"):
        list(engine.run(Doing(tmp_path), [Task("a", ("mistake",))], Silent()))


@dataclass(frozen=True)
class Reserved(Doing):
    """What the cluster has left while a task is done, in place of its value."""

    device: str = "cpu"

    def run(self, task: Task) -> list[Any]:
        import ray

        left = ray.available_resources()
        return [left.get("CPU", 0.0), left.get("GPU", 0.0), torch.get_num_threads()]


@pytest.mark.parametrize(("each", "device", "left"), [
    (Each(), "cpu", [3, 1]),
    (Each(), "cuda", [3, 0]),
    (Each(cpus=2, gpus=0.5), "cpu", [2, 0.5]),
])  # fmt: skip
def test_an_actor_reserves_what_each_is_given(
    engine: Engine, each: Each, device: str, left: list[float], tmp_path: Path
) -> None:
    """On processors that stand in for GPUs: Ray counts what it is told, and hides none."""
    by = engine_of("ray", 1, each)
    assert by is not None
    deadline = time.monotonic() + 20  # an actor that was ended gives back what it had a little later
    while True:
        [found] = list(by.run(Reserved(tmp_path, device=device), [Task("a", ("b",))], Silent()))
        if found.value[:2] == left or time.monotonic() > deadline:
            break
    assert found.value[:2] == left and found.value[2] == (each.cpus or torch.get_num_threads())


def test_what_no_machine_of_the_cluster_has_is_one_line(engine: Engine, tmp_path: Path) -> None:
    by = engine_of("ray", 1, Each(cpus=64))
    assert by is not None
    with pytest.raises(InputError, match=r"asks for 64 processors and 0 GPUs, and no machine .* \(4 and 1\)"):
        list(by.run(Doing(tmp_path), [Task("a", ("b",))], Silent()))
