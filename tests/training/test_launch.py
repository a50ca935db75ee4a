"""Scripts that start a training by torchrun: what they say, what is refused before, and what one does with signals."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from kinolab.cli import main
from kinolab.errors import InputError
from kinolab.runtime.remote import Mirror
from kinolab.training.launch import Launch, k8s_manifest, launch, local_script, slurm_script
from kinolab.training.run import train
from tests.training.tiny import autoencoder_recipe

ROOT = Path(__file__).parents[2]


def made(tmp_path: Path, *words: str, nodes: int = 2, gpus: int = 4, **training: Any) -> Launch:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(autoencoder_recipe(**{"batch_size": 8, **training})))
    return launch([str(path), *words], {"recipe": str(path)}, nodes=nodes, gpus=gpus)


def torchrun_words(script: str) -> list[str]:
    """What a script starts, read by torchrun's own parser: the words of the module behind its options."""
    from torch.distributed.run import parse_args

    line = next(line for line in script.splitlines() if "torch.distributed.run" in line)
    words = shlex.split(line.strip().removesuffix("&"))
    told = parse_args(words[words.index("torch.distributed.run") + 1 :])
    assert told.module and told.training_script == "kinolab" and told.training_script_args[0] == "train"
    assert told.shutdown_timeout == 300 and "SIGUSR1" in told.signals_to_handle and told.max_restarts == 3
    return [told.nnodes, told.nproc_per_node, told.rdzv_endpoint, *told.training_script_args[1:]]


def checked(script: str) -> str:
    """A script that bash can read."""
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return script


def test_the_same_words_start_and_restart(tmp_path: Path) -> None:
    job = made(tmp_path, nodes=1, gpus=2)
    told = torchrun_words(checked(local_script(job)))
    assert told == [
        "1",
        "2",
        "",
        str(tmp_path / "recipe.yaml"),
        "--out",
        "runs/recipe",
        "--resume",
        "auto",
        "--requeue",
    ]
    assert "[ -e runs/recipe/requeue ] || " in local_script(job)


def test_the_folder_is_told_by_a_word_that_torchrun_takes(tmp_path: Path) -> None:
    for words in (["--run", "there"], ["--run=there"]):
        job = made(tmp_path, *words, nodes=1)
        assert torchrun_words(local_script(job))[4].partition("=")[0] == "--out"


def test_what_fails_before_it_begins_is_not_started_again_for_what_the_run_before_left(tmp_path: Path) -> None:
    left = tmp_path / "run" / "requeue"
    left.parent.mkdir()
    left.touch()
    job = launch(["toy-latte"], {"recipe": "toy-latte", "run": left.parent}, nodes=1, gpus=1)
    script = local_script(job).replace(shlex.quote(sys.executable), "false")  # a torchrun that can't start
    assert subprocess.run(["bash", "-c", script], check=False).returncode == 1 and not left.exists()
    assert slurm_script(job, "1:00:00").index("rm -f ") < slurm_script(job, "1:00:00").index("srun ")
    several = launch(["toy-latte"], {"recipe": "toy-latte", "run": left.parent}, nodes=2, gpus=1)
    assert "rm -f " not in local_script(several, "10.0.0.1:29500")


def test_several_machines_meet_at_the_first(tmp_path: Path) -> None:
    job = made(tmp_path)
    assert torchrun_words(local_script(job, "10.0.0.1:29500"))[:3] == ["2", "4", "10.0.0.1:29500"]
    with pytest.raises(InputError, match="name the first machine, --rendezvous HOST:PORT"):
        local_script(job)


def test_slurm_sends_a_signal_before_the_limit_and_queues_again(tmp_path: Path) -> None:
    script = checked(slurm_script(made(tmp_path), "12:00:00", ["--partition=gpu"]))
    told = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"nodes=2", "ntasks-per-node=1", "gpus-per-node=4", "time=12:00:00", "requeue", "partition=gpu"} <= set(told)
    assert "signal=B:USR1@360" in told  # the grace of 300 s, and a minute
    assert script.index("#SBATCH --signal") < script.index("set -u")  # sbatch reads no further than the first command
    assert torchrun_words(script)[:3] == ["2", "4", "$head:29500"]
    assert "trap 'hand_on USR1' USR1" in script and 'scontrol requeue "$SLURM_JOB_ID"' in script


def test_a_job_in_kubernetes_counts_no_pod_that_saved_as_failed(tmp_path: Path) -> None:
    job = made(tmp_path, "--out", "/runs/a")
    service, jobs = yaml.safe_load_all(k8s_manifest(job, "registry/kinolab:1", {"runs": "/runs"}))
    spec, pod = jobs["spec"], jobs["spec"]["template"]["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (2, 2, "Indexed")
    assert {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}} in spec["podFailurePolicy"]["rules"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] == 360
    assert service["spec"]["clusterIP"] == "None" and pod["subdomain"] == service["metadata"]["name"] == "tiny"
    [container] = pod["containers"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 4}}
    assert {"name": "runs", "mountPath": "/runs"} in container["volumeMounts"]
    assert torchrun_words(checked(container["command"][-1]))[2] == "tiny-0.tiny:29500"
    for name in ("a b", "3d", "a-", "ä"):
        with pytest.raises(InputError, match="give --name in letters"):
            k8s_manifest(Launch((), Path("x"), name=name), "i", {})


@pytest.mark.parametrize(
    ("training", "text"),
    [
        ({"parallel": {"shard": 3}}, "expected a multiple of 3 x 1 processes"),
        ({"parallel": {"context": 16}}, "expected a multiple of 1 x 16 processes"),
        ({"batch_size": 12}, "expected a multiple of 8 processes"),
    ],
)
def test_what_can_not_run_is_refused_before_it_is_queued(training: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=text):
        made(tmp_path, **training)


def test_of_a_run_in_a_store_each_machine_looks_into_its_own_copy(store: Any, tmp_path: Path) -> None:
    """Whose home may be another there."""
    words, parsed = ["r", "--out", "memory://b/run"], {"recipe": "toy-vdt", "run": "memory:/b/run"}
    script = checked(local_script(launch(words, parsed, nodes=1, gpus=1)))
    assert "--out memory://b/run --resume auto --requeue" in script
    copy = Mirror("memory://b/run").path / "requeue"
    assert f'rm -f "$HOME"/{copy.relative_to(tmp_path / "home").as_posix()}' in script
    again = {"recipe": None, "run": "memory://b/run", "resume": True}
    with pytest.raises(InputError, match="launch: memory://b/run: no run to resume there"):
        launch(["--resume"], again, nodes=1, gpus=1)
    store.pipe_file("/b/run/recipe.yaml", yaml.safe_dump(autoencoder_recipe()).encode())
    assert launch(["--resume"], again, nodes=1, gpus=1).name == "tiny"


def said(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["launch", *words])
    out, error = capsys.readouterr()
    return ended.value.code, out, error


def test_the_command_prints_and_refuses_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # neither sbatch nor kubectl
    code, out, _ = said(
        ["local", "--gpus", "2", "--print", "--", "train", "toy-latte", "-s", "training.seed=1"], capsys
    )
    assert code == 0 and torchrun_words(out)[3:6] == ["toy-latte", "-s", "training.seed=1"]
    for kind, program in (("slurm", "sbatch"), ("k8s", "kubectl")):
        code, out, error = said([kind, "--gpus", "2", "--", "train", "toy-latte"], capsys)
        assert code == 0 and "torch.distributed.run" in out and f"there is no {program} here" in error
    for words, text in (
        (["local"], "expected -- train RECIPE"), (["local", "--", "fit", "x"], "expected -- train RECIPE .* got fit"),
        (["local", "--", "train"], "expected a recipe behind train"),
        (["local", "--", "train", "no-such"], "no such recipe"),
        (["local", "--", "train", "toy-latte", "--bogus"], "No such option"),
        (["local", "--gpus", "0", "--", "train", "toy-latte"], "gpus"),
    ):  # fmt: skip
        code, out, error = said(words, capsys)
        assert code == 2 and out == "" and error.count("\n") == 1, error
        assert re.search(text, error), error


def test_a_scheduler_is_given_the_script_and_its_refusal_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "sbatch"
    program.write_text('#!/bin/sh\nread first; echo "Submitted a job that begins with $first"\n')
    program.chmod(0o755)
    code, _, error = said(["slurm", "--", "train", "toy-latte"], capsys)
    assert code == 0 and "begins with #!/usr/bin/env bash" in error
    program.write_text("#!/bin/sh\necho unsaid >&2; echo 'sbatch: error: no such partition' >&2; exit 1\n")
    code, _, error = said(["slurm", "--", "train", "toy-latte"], capsys)
    assert code == 2 and error == "kinolab: sbatch ended with status 1: sbatch: error: no such partition\n"


@pytest.mark.wide
@pytest.mark.parametrize("there_is", ["torchrun", "recipe.yaml", "log.jsonl"])
def test_a_signal_ends_it_with_a_status_to_queue_it_again_and_the_same_words_go_on(
    there_is: str, tmp_path: Path
) -> None:
    """Two processes, for real: SIGUSR1 to the script, as a scheduler sends it.

    There is: what is there when it comes: a torchrun that still reads its programs; a run that has not begun to train;
    one that trains.
    """
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(autoencoder_recipe(steps=4000, save_every=4000)))
    out = tmp_path / "run"
    words = [sys.executable, "-P", "-m", "kinolab", "launch", "local", "--gpus", "2", "--", "train", str(path), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen([*words, str(out)], env=environment, stdout=file, stderr=file)
        deadline = time.monotonic() + 120

        def begun() -> bool:
            if there_is == "torchrun":
                return bool(psutil.Process(process.pid).children())
            return (out / there_is).exists() and (out / there_is).stat().st_size > 0

        while not begun() and time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(120) == 75, log.read_text()
    assert "torch.distributed.run" in log.read_text()
    reached = 0
    if there_is != "torchrun":
        reached = int((out / "requeue").read_text().split()[6])
        assert (out / "checkpoints" / f"step-{reached:08d}").exists() and reached < 4000
    assert there_is != "log.jsonl" or reached > 0
    train(path, out, [f"training.steps={reached + 1}"], resume="auto")  # as the same words do, in one process
    assert (out / "model").exists() and not (out / "requeue").exists()
