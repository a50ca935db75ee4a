"""Training on many machines: the script by which `torchrun` is started here, by Slurm, or in Kubernetes.

Every machine runs one torchrun, which finds the others by a rendezvous on the first of them (its backend c10d), starts
a process for each accelerator and starts them again where one dies (`--resume auto` goes on from the newest
checkpoint).
A scheduler that wants its machines back sends SIGUSR1 or SIGTERM: torchrun hands it on, all processes finish the step
they are at, save and leave a file `requeue` in the run folder, and the script ends with status 75 (EX_TEMPFAIL of
sysexits.h: try again), or asks Slurm to queue the job again.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime.interrupts import REQUEUE, REQUEUE_FILE
from kinolab.runtime.ranks import Ranks
from kinolab.runtime.remote import Mirror, address, is_remote
from kinolab.runtime.yaml_files import to_yaml
from kinolab.training.batches import micro_positions
from kinolab.training.mesh import layout
from kinolab.training.recipe import load_recipe

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""What torchrun hands on to its processes; of these, SIGUSR1 is not in its own list."""
MARGIN = 60
"""Seconds that a scheduler gives beyond the grace of the processes, for torchrun to end."""


@dataclass(frozen=True)
class Launch:
    """A training to start.

    words: of `kinolab train`, the recipe or --resume with the folder among them. out: its run folder. nodes, gpus:
    machines, and processes on each. restarts: how often torchrun starts its processes again. grace: seconds that they
    have to finish a step and save. port: of the rendezvous. name: of the job.
    """

    words: tuple[str, ...]
    out: Path
    nodes: int = 1
    gpus: int = 1
    restarts: int = 3
    grace: int = 300
    port: int = 29500
    name: str = "kinolab"

    def torchrun(self, endpoint: str | None, python: str, identity: str) -> str:
        """torchrun's command on each machine; without an endpoint, of one machine alone.

        endpoint, identity: as a shell reads them, so that they may hold variables.
        """
        there = "--standalone" if endpoint is None else (
            f"--rdzv-backend c10d --rdzv-endpoint {endpoint} --rdzv-id {identity}"
        )  # fmt: skip
        return (
            f"{python} -m torch.distributed.run --nnodes {self.nodes} --nproc-per-node {self.gpus} {there} "
            f"--max-restarts {self.restarts} --shutdown-timeout {self.grace} --signals-to-handle {SIGNALS} "
            f"-m kinolab train {shlex.join(self.words)}"
        )

    @property
    def environment(self) -> str:
        """Lines of a shell that set what torchrun's processes need."""
        lines = ['export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"']
        if self.nodes > 1:
            # Else restarted processes are handed the addresses of those that are gone (torch 2.13,
            # https://github.com/pytorch/pytorch/issues/135712); on one machine `runtime.ranks` sees to it.
            lines.append("export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1")
        return "\n".join(lines)

    @property
    def marker(self) -> str:
        """The file that a run leaves that was stopped to be started again, as a shell reads it; of a run in a store it
        is in each machine's copy."""
        if not is_remote(self.out):
            return shlex.quote(str(self.out / REQUEUE_FILE))
        copy = Mirror(self.out).path / REQUEUE_FILE
        if copy.is_relative_to(Path.home()):  # whoever runs it there
            return f'"$HOME"/{shlex.quote(copy.relative_to(Path.home()).as_posix())}'
        return shlex.quote(str(copy))

    @property
    def signalled(self) -> str:
        """What a shell asks after `waiting`: whether a signal ended the run, saved or before there was anything to."""
        return f'{{ [ -e {self.marker} ] || [ -n "$asked" -a "$status" -ne 0 ]; }}'

    def ended_in(self, command: str) -> str:
        """Lines of a shell that run a command and end with its status, or with that of a run to be started again."""
        # Of several machines each has its own such script, and one that comes late must not take from another.
        before = self.forgotten if self.nodes == 1 else ""
        return before + waiting(command, f'{self.signalled} && exit {REQUEUE}\nexit "$status"')

    @property
    def forgotten(self) -> str:
        """A line of a shell for a script that no other machine runs: a run that fails before it has begun is not to be
        started again for what the one before it left."""
        return f"rm -f {self.marker}\n"


def launch(words: Sequence[str], parsed: Mapping[str, Any], **how: Any) -> Launch:
    """The launch of a training by the words of `kinolab train` and what they mean.

    What is added to the words, where they don't say it: --resume auto, by which the same command starts and restarts;
    --requeue; and --out, so that it says where.

    Raises:
        InputError: for no recipe, one that is wrong, and one whose mesh or batch doesn't fit so many processes.
    """
    recipe, out = parsed.get("recipe"), parsed.get("run")
    if recipe is None and out is None:
        raise InputError("launch: expected a recipe behind train, or --resume --out FOLDER to go on with a run")
    if how["nodes"] < 1 or how["gpus"] < 1:
        raise InputError(f"launch: expected at least 1 node and 1 process on it, got {how['nodes']} and {how['gpus']}")
    name = how.get("name")
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise InputError(f"launch: expected --name in letters, digits, dots, dashes and underscores, got {name!r}")
    folder = Path(out) if out is not None else Path("runs") / Path(str(recipe)).stem
    source = recipe if recipe is not None else folder / "recipe.yaml"
    if is_remote(folder) and recipe is None:
        mirror = Mirror(folder)
        if not mirror.have("recipe.yaml"):
            raise InputError(f"launch: {mirror.url}: no run to resume there (no recipe.yaml)")
        source = mirror.path / "recipe.yaml"
    config = load_recipe(source, parsed.get("setting") or ())
    ranks = Ranks(0, how["nodes"] * how["gpus"])
    layout(config.training.parallel, ranks)
    micro_positions(config.training, ranks)
    told = [re.sub(r"^--run(?==|$)", "--out", word) for word in words]  # torchrun takes --run for one of its own
    told += [] if out is not None else ["--out", address(folder) if is_remote(folder) else str(folder)]
    told += [] if parsed.get("resume") or parsed.get("resume_auto") else ["--resume", "auto"]
    told += [] if parsed.get("requeue") else ["--requeue"]
    plain = re.sub(r"[^\w.-]+", "-", config.name)
    return Launch(words=tuple(told), out=folder, **{"name": plain, **how})


def waiting(command: str, ended: str) -> str:
    """Lines of a shell that run a command, hand signals on to it, and then do what `ended` says, with $status.

    A signal may come while the command still reads its programs, which dies of it before it can leave a marker: with
    $asked such an end counts as one by the signal.
    """
    return f"""\
asked= started=
hand_on() {{ asked=1; [ -z "$started" ] || kill -s "$1" "$started" 2>/dev/null; }}
trap 'hand_on USR1' USR1
trap 'hand_on TERM' TERM INT HUP
{command} &
started=$!
[ -z "$asked" ] || kill -s TERM "$started"
wait "$started"; status=$?
while kill -0 "$started" 2>/dev/null; do wait "$started"; status=$?; done  # a signal ends a wait
{ended}
"""


def local_script(job: Launch, rendezvous: str | None = None) -> str:
    """The script for this machine: alone, or one of several that are each given the same words.

    Args:
        rendezvous: HOST:PORT of the first machine, where there are several.

    Raises:
        InputError: for several machines without it.
    """
    if job.nodes > 1 and rendezvous is None:
        raise InputError(
            f"launch local --nodes {job.nodes}: name the first machine, --rendezvous HOST:PORT, and give the same "
            "command on each; or use slurm or k8s"
        )
    endpoint = None if rendezvous is None else shlex.quote(rendezvous)
    command = job.torchrun(endpoint, shlex.quote(sys.executable), shlex.quote(job.name))
    return f"""\
#!/usr/bin/env bash
# {job.name}: {job.nodes} x {job.gpus} processes; status {REQUEUE} = stopped by a signal, to be started again.
set -u
{job.environment}
""" + job.ended_in(command)


def slurm_script(job: Launch, time: str, options: Sequence[str] = (), python: str = "python") -> str:
    """The batch script for Slurm.

    Args:
        time: the job's limit, as Slurm reads it.
        options: more options of sbatch, one each.
        python: the interpreter on the machines.
    """
    lines = [
        f"--job-name={job.name}", f"--nodes={job.nodes}", "--ntasks-per-node=1", f"--gpus-per-node={job.gpus}",
        f"--time={time}", "--requeue", "--open-mode=append", f"--signal=B:USR1@{job.grace + MARGIN}",
        f"--output={job.name}-%j.log", *options,
    ]  # fmt: skip
    told = "\n".join(f"#SBATCH {line}" for line in lines)
    torchrun = job.torchrun(f'"$head:{job.port}"', shlex.quote(python), '"$SLURM_JOB_ID"')
    ended = f"""\
if {job.signalled}; then  # stopped by a signal: back into the queue
  scontrol requeue "$SLURM_JOB_ID" || exit {REQUEUE}
  exit 0
fi
exit "$status\""""
    return f"""\
#!/usr/bin/env bash
{told}
# {job.name}: {job.nodes} x {job.gpus} processes.
# {job.grace + MARGIN} s before the limit Slurm sends SIGUSR1: the run saves and is queued again.
set -u
{job.environment}
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export head
{job.forgotten}""" + waiting(f"srun --kill-on-bad-exit=1 {torchrun}", ended)


def k8s_manifest(
    job: Launch, image: str, claims: Mapping[str, str], resource: str = "nvidia.com/gpu", namespace: str | None = None
) -> str:
    """The manifest of an indexed Job whose pods find the first one by a service without an address of its own.

    Pods that end with status 75, or that are moved away, don't count as failures and are made anew.

    Args:
        image: with kinolab in it.
        claims: of disks that all pods see: name -> where it is mounted; the run folder is to be on one.
        resource: what an accelerator is called; empty = none is asked for.

    Raises:
        InputError: for a name that is none for Kubernetes.
    """
    name = job.name.lower().replace("_", "-")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?", name):  # a service's begin with a letter (RFC 1035)
        raise InputError(
            f"launch k8s: {job.name!r} is no name there: give --name in letters, digits and dashes, a letter the first"
        )
    command = job.torchrun(f"{name}-0.{name}:{job.port}" if job.nodes > 1 else None, "python", name)
    script = job.environment + "\n" + job.ended_in(command)
    place: dict[str, Any] = {"name": name} | ({"namespace": namespace} if namespace else {})
    container: dict[str, Any] = {
        "name": "train", "image": image, "command": ["bash", "-c", script],
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"}, *({"name": n, "mountPath": path} for n, path in claims.items()),
        ],
    }  # fmt: skip
    if resource:
        container["resources"] = {"limits": {resource: job.gpus}}
    pod = {
        "subdomain": name, "restartPolicy": "Never", "terminationGracePeriodSeconds": job.grace + MARGIN,
        "containers": [container],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            *({"name": n, "persistentVolumeClaim": {"claimName": n}} for n in claims),
        ],
    }  # fmt: skip
    rules = [
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [REQUEUE]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
    ]
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": place,
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"job-name": name}},
    }  # fmt: skip
    made = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": place,
        "spec": {
            "completions": job.nodes, "parallelism": job.nodes, "completionMode": "Indexed",
            "backoffLimit": job.nodes * (job.restarts + 1), "podFailurePolicy": {"rules": rules},
            "template": {"spec": pod},
        },
    }  # fmt: skip
    return to_yaml(service) + "---\n" + to_yaml(made)
