"""Ray as an engine: actors of a cluster, or of a Ray that is begun on this machine (extra `dist`).

Every machine of the cluster needs Kinolab with the same versions, and the same paths for what is read and written: a
folder that they share, or an object store.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, Literal

import torch

from kinolab.contracts.engine import STARTS, Answer, Crew, Each, Engine, Job
from kinolab.engines.serving import served, started
from kinolab.errors import InputError, MissingExtraError
from kinolab.runtime.lines import one_line
from kinolab.runtime.processes import environment, packed, unpacked

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
}
"""Nothing is sent to Ray's makers, no device is hidden from an actor that asks for none, and nothing is measured that
nobody looks at."""
GPU = "cuda"
SLOW = "timed out"
"""In what Ray says where it took more than 30 s to begin, as on a busy machine."""


class Ray(Engine):
    """Actors of Ray: `--engine ray` on this machine, `--engine ray:HOST:PORT` or `ray:auto` of a cluster."""

    def __init__(self, workers: int, place: str = "") -> None:
        super().__init__(workers, place)
        _ray()

    def give_each(self, each: Each) -> None:
        """Join the cluster, or begin one with as many processors as all workers are given.

        Raises:
            InputError: where no cluster answers.
        """
        super().give_each(each)
        ray, cpus = _ray(), each.cpus or 1
        if not ray.is_initialized():
            _begin(ray, self.place, self.workers * cpus)
        if not self.workers:
            self.workers = max(1, int(ray.cluster_resources().get("CPU", 1) // cpus))

    def crew(self, job: Job, workers: int) -> Crew:
        """Actors of one processor each, of a cluster also one for each thread that decodes for it; of one GPU each too,
        where the job computes there and the cluster has any; or of what each is given.

        Raises:
            InputError: where no machine of the cluster has so much.
        """
        ray = _ray()
        device, decoders = str(getattr(job, "device", "cpu")), int(getattr(job, "decoders", 1))
        cpus, gpus = self.each.cpus or (1 + decoders if self.place and decoders > 1 else 1), self.each.gpus
        if gpus is None:
            gpus = int(device.startswith(GPU) and ray.cluster_resources().get("GPU", 0) > 0)
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(m.get("CPU", 0) >= cpus and m.get("GPU", 0) >= gpus for m in machines):
            most = " or ".join(f"{m.get('CPU', 0):g} and {m.get('GPU', 0):g}" for m in machines) or "none"
            raise InputError(
                f"--engine ray: each worker asks for {cpus:g} processors and {gpus:g} GPUs, and no machine of the "
                f"cluster has so many ({most}); give it less, as --each cpus=1,gpus=0"
            )
        threads = self.each.cpus or (1 if self.place else max(1, torch.get_num_threads() // workers))
        return Actors(job, threads, cpus, gpus)


def _ray() -> Any:
    """The library.

    Raises:
        MissingExtraError: where it is not installed.
    """
    try:
        with environment(QUIET):
            import ray
    except ImportError:
        raise MissingExtraError("ray", "dist", "--engine ray") from None
    return ray


def _begin(ray: Any, place: str, cpus: int, **more: Any) -> None:
    """Join the cluster at a place, or begin one here that ends with this process.

    cpus: of one that is begun; 0 = those of this machine.
    """
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, **more}
    if place:
        how["address"] = place if place == "auto" or "://" in place or ":" in place else f"{place}:6379"
    else:
        how |= {"address": "local", "include_dashboard": False}
        how |= {"num_cpus": cpus} if cpus else {}
    for left in reversed(range(STARTS)):
        with environment(QUIET):
            try:
                ray.init(**how)
                return
            except Exception as error:  # Ray raises plain ones too
                with suppress(Exception):
                    ray.shutdown()
                if left and not place and SLOW in str(error):
                    continue
                where = f"no cluster answers at {place}" if place else "it can't be begun here"
                raise InputError(f"--engine ray: {where} ({one_line(error, 120)})") from None


class _Hand:
    """What an actor is."""

    def __init__(self, job: bytes, number: int, threads: int) -> None:
        self.worker, self.kind, self.value = started(unpacked(job), number, threads)

    def begun(self) -> bytes:
        """Whether there is a worker."""
        return packed((self.kind, self.value))

    def do(self, given: bytes) -> bytes:
        """Run a task or probe a part."""
        assert self.worker is not None
        return packed(served(self.worker, *unpacked(given)))


class Actors(Crew):
    """The actors of one job."""

    def __init__(self, job: Job, threads: int, cpus: float, gpus: float) -> None:
        self.ray, self.threads = _ray(), threads
        self.kind = self.ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)(_Hand)
        self.job = self.ray.put(packed(job))
        self.actors: dict[int, Any] = {}
        self.calls: dict[Any, int] = {}

    def begin(self, number: int) -> None:
        """Ask the cluster for an actor."""
        self.actors[number] = self.kind.remote(self.job, number, self.threads)
        self.calls[self.actors[number].begun.remote()] = number

    def give(self, number: int, call: Literal["run", "probe"], given: Any) -> None:
        """Call it."""
        self.calls[self.actors[number].do.remote(packed((call, given)))] = number

    def wait(self, seconds: float) -> list[Answer]:
        """The calls that have come back."""
        if not self.calls:
            return []
        ready, _ = self.ray.wait(list(self.calls), num_returns=1, timeout=seconds)
        more, _ = self.ray.wait(list(self.calls), num_returns=len(self.calls), timeout=0)
        found = []
        for call in dict.fromkeys([*ready, *more]):
            number = self.calls.pop(call)
            try:
                kind, value = unpacked(self.ray.get(call))
                found.append(Answer(number, kind, value))
            except self.ray.exceptions.RayError as error:
                self.actors.pop(number, None)
                found.append(Answer(number, "dead", _how(error)))
        return found

    def dismiss(self, number: int) -> None:
        """Kill it."""
        actor = self.actors.pop(number, None)
        self.calls = {call: own for call, own in self.calls.items() if own != number}
        if actor is not None:
            self.ray.kill(actor)

    def close(self) -> None:
        """Kill all; a Ray that was begun here goes on until this process ends, for the next job."""
        for number in list(self.actors):
            self.dismiss(number)


def _how(error: Exception) -> str:
    """How an actor ended, in Ray's words, of which the first sentence says it."""
    said = next((line for line in str(error).split("\n") if "exit" in line or "died" in line.lower()), str(error))
    return one_line(said, 120)
