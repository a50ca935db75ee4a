"""`kinolab launch`: train on several processes or machines, by a script that is shown before it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from kinolab.cli.options import common, pairs_of, show
from kinolab.errors import InputError

app = typer.Typer(help="Train on several processes or machines, by a script that is shown before it runs.")

Words = Annotated[list[str] | None, typer.Argument(help="Behind --: train, and all that `kinolab train` takes.")]
Nodes = Annotated[int, typer.Option(min=1, help="Machines.")]
Gpus = Annotated[int, typer.Option(min=1, help="Processes on each machine: one per accelerator, or on its processors.")]
Restarts = Annotated[int, typer.Option(min=0, help="How often torchrun starts its processes again when one dies.")]
Grace = Annotated[int, typer.Option(min=1, help="Seconds that a run has to finish a step and save when it is stopped.")]
Port = Annotated[int, typer.Option(min=1, help="Port of the first machine by which the others find it.")]
Name = Annotated[str | None, typer.Option(help="The job's name; default the recipe's.")]
Print = Annotated[bool, typer.Option("--print", help="Only print it.")]


@app.command()
@common()
def local(
    words: Words = None,
    nodes: Nodes = 1,
    gpus: Gpus = 1,
    restarts: Restarts = 3,
    grace: Grace = 300,
    rendezvous: Annotated[
        str | None, typer.Option(help="HOST:PORT of the first of several machines; give the same command on each.")
    ] = None,
    name: Name = None,
    only: Print = False,
) -> None:
    """Run torchrun here. Ends with status 75 where a signal stopped the run, to be started again.

    kinolab launch local --gpus 8 -- train RECIPE -s training.parallel=fsdp
    """
    from kinolab.training.launch import local_script

    job = _job(words, nodes=nodes, gpus=gpus, restarts=restarts, grace=grace, name=name)
    script = local_script(job, rendezvous)
    _print(script, job)
    if not only:
        sys.stdout.flush()
        os.execvp("bash", ["bash", "-c", script])


@app.command()
@common()
def slurm(
    words: Words = None,
    nodes: Nodes = 1,
    gpus: Gpus = 1,
    restarts: Restarts = 3,
    grace: Grace = 300,
    port: Port = 29500,
    time: Annotated[str, typer.Option(help="The job's time limit, as Slurm reads it.")] = "24:00:00",
    option: Annotated[
        list[str] | None, typer.Option(help="One more option of sbatch: --option=--partition=gpu. Repeatable.")
    ] = None,
    python: Annotated[str | None, typer.Option(help="The interpreter on the machines; default this one.")] = None,
    name: Name = None,
    only: Print = False,
) -> None:
    """Submit a batch script that queues itself again until the run is done; print it where there is no sbatch."""
    from kinolab.training.launch import slurm_script

    job = _job(words, nodes=nodes, gpus=gpus, restarts=restarts, grace=grace, port=port, name=name)
    script = slurm_script(job, time, option or (), python or sys.executable)
    _print(script, job)
    _hand_over(["sbatch"], script, only)


@app.command()
@common()
def k8s(
    words: Words = None,
    image: Annotated[str, typer.Option(help="Container image with kinolab in it.")] = "kinolab",
    nodes: Nodes = 1,
    gpus: Gpus = 1,
    restarts: Restarts = 3,
    grace: Grace = 300,
    port: Port = 29500,
    claim: Annotated[
        list[str] | None, typer.Option(help="A volume claim that all pods see, NAME=PATH. Repeatable.")
    ] = None,
    resource: Annotated[
        str, typer.Option(help="What the cluster calls an accelerator; '' asks for none.")
    ] = "nvidia.com/gpu",
    namespace: Annotated[str | None, typer.Option(help="Where the job goes.")] = None,
    name: Name = None,
    only: Print = False,
) -> None:
    """Apply an indexed Job and its service; print them where there is no kubectl."""
    from kinolab.training.launch import k8s_manifest

    job = _job(words, nodes=nodes, gpus=gpus, restarts=restarts, grace=grace, port=port, name=name)
    manifest = k8s_manifest(job, image, dict(pairs_of("--claim", claim)), resource, namespace)
    _print(manifest, job)
    _hand_over(["kubectl", "apply", "-f", "-"], manifest, only)


def _job(words: list[str] | None, **how: Any) -> Any:
    """The launch that the words behind `--` mean, read by the command `train` itself."""
    from kinolab.cli import build
    from kinolab.training.launch import launch

    if not words or words[0] != "train":
        came = f", got {words[0]}" if words else ""
        raise InputError(f"launch: expected -- train RECIPE ... behind its own options{came}")
    command: Any = typer.main.get_command(build(["train"]))
    command = getattr(command, "commands", {"train": command})["train"]
    parsed = command.make_context("kinolab train", list(words[1:])).params
    return launch(words[1:], parsed, **{k: v for k, v in how.items() if v is not None})


def _print(text: str, job: Any) -> None:
    from kinolab.runtime.remote import address, is_remote

    out = address(job.out) if is_remote(job.out) else job.out
    show({"script": text, "out": out, "processes": job.nodes * job.gpus}, [text.rstrip("\n")])


def _hand_over(command: Sequence[str], text: str, only: bool) -> None:
    """Give a text to a program where it is there."""
    from kinolab.runtime.processes import hand_over

    if only:
        return
    said = hand_over(command, text)
    typer.echo(f"there is no {command[0]} here: the text above is what it would be given" if said is None else said,
               err=True)  # fmt: skip
