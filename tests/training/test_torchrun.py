"""The commands with torchrun as the README has them, and what happens when a process of theirs dies."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import typer
import yaml
from safetensors.torch import load_file

from kinolab import VideoModel
from kinolab.cli import build
from kinolab.models import save_autoencoder
from kinolab.training.run import train
from tests.closeness import assert_close
from tests.tiny_model import tiny_model
from tests.training.tiny import autoencoder_recipe, denoiser_recipe, odvae_recipe

ROOT = Path(__file__).parents[2]
TORCHRUN = Path(sys.executable).with_name("torchrun")
PLACES = [
    ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("kinolab/**/*.py"), *ROOT.glob("kinolab/recipes/*.yaml"),
    *ROOT.glob("examples/*"), *ROOT.glob("benchmarks/*"),
]  # fmt: skip


def commands(path: Path) -> list[list[str]]:
    """The commands with torchrun that start a training in a file, as lists of words."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"torchrun (?:--[\w-]+ \w+ )+-m kinolab train(?: [\w./=-]+)*", text)
    return [shlex.split(line) for line in found]


def filled(words: list[str], recipe: Path, out: Path) -> list[str]:
    """A command of the README with what stands for something in it filled in."""
    return [{"torchrun": str(TORCHRUN), "N": "2", "RECIPE": str(recipe), "RUN": str(out)}.get(w, w) for w in words]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def write(folder: Path, name: str, recipe: dict[str, object]) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "autoencoder.safetensors")


def test_torchrun_takes_no_option_of_train_for_its_own() -> None:
    """argparse looks for the beginnings of its options in all words, those of the program behind it included."""
    from torch.distributed.run import get_args_parser

    theirs = {o for action in get_args_parser()._actions for o in action.option_strings}
    command = typer.main.get_command(build(["train"]))
    command = getattr(command, "commands", {"train": command})["train"]
    ours = {o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
    taken = {o for o in ours if sum(other.startswith(o) for other in theirs) > 1}
    assert {"--out", "--resume", "--device", "--set", "--until"} <= ours and taken == {"--run"}


def test_no_place_teaches_a_command_that_torchrun_refuses() -> None:
    assert len(commands(ROOT / "README.md")) == 1
    assert sum(len(commands(path)) for path in PLACES if path.is_file()) >= 7
    for path in PLACES:
        for words in commands(path) if path.is_file() else []:
            assert "--run" not in words, f"{path}: {shlex.join(words)}"


@pytest.mark.wide
def test_the_readmes_command_trains_and_goes_on(tmp_path: Path) -> None:
    """Two processes with sharded matrices under Muon, stopped and begun again by the same words, equal one process."""
    recipe = odvae_recipe(steps=3, optimizer="muon", parallel="fsdp")
    recipe["autoencoder"] |= {"hidden_size": 16}
    path = write(tmp_path, "recipe", recipe)
    command = filled(commands(ROOT / "README.md")[0], path, tmp_path / "two")
    assert Path(command[0]).exists() and command[1:4] == ["--nproc-per-node", "2", "-m"]
    told = []
    for options in (["--until", "2"], []):
        done = subprocess.run([*command, *options], env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout + done.stderr)
    assert "; 2 processes" in told[0] and told[0].count("device: ") == 1
    assert f"kinolab train --resume --out {tmp_path / 'two'}" in told[0] and told[1].count("done: ") == 1
    train(path, tmp_path / "one")
    for name, value in weights(tmp_path / "one").items():
        assert_close(weights(tmp_path / "two")[name], value, 1e-3, name)


@pytest.mark.wide
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_part_is_shared_with_its_denoiser(parallel: str, tmp_path: Path) -> None:
    """It is sampled, evaluated and saved as in one process."""
    save_autoencoder(tiny_model(text=False).autoencoder, tmp_path / "autoencoder")
    recipe = denoiser_recipe(tmp_path / "autoencoder", steps=4, parallel=parallel, evaluate_every=2, sample_every=4)
    recipe["denoiser"] |= {"input_size": 8, "num_frames": 2}
    path = write(tmp_path, "recipe", recipe | {"parts": {"edges": {"kind": "input_adapter"}}})
    words = [TORCHRUN, "--nproc-per-node", "2", "-m", "kinolab", "train", path, "--out", tmp_path / "two"]
    done = subprocess.run([str(w) for w in words], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    train(path, tmp_path / "one")
    one, two = (VideoModel.load(tmp_path / name).state_dict() for name in ("one", "two"))
    assert any(name.startswith("part-edges.") for name in one)
    for name, value in one.items():
        assert_close(two[name], value, 1e-3, name)


@pytest.mark.wide
def test_a_process_that_is_killed_is_started_again_and_the_run_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    path = write(tmp_path, "recipe", autoencoder_recipe(steps=30, save_every=1))
    plain = filled(commands(ROOT / "README.md")[0], path, tmp_path / "whole")
    subprocess.run(plain, env=environment(), capture_output=True, check=True)
    words = [*plain[:3], "--max-restarts", "1", *plain[3:]]
    words = [str(tmp_path / "killed") if w == str(tmp_path / "whole") else w for w in words]
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "killed" / "checkpoints").glob("step-0000000[3-9]")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    ranks = {child.environ().get("RANK"): child for child in psutil.Process(process.pid).children()}
    ranks["1"].send_signal(signal.SIGKILL)
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert out.count("done: ") == 1
    ours, theirs = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.wide
def test_a_damaged_checkpoint_is_passed_over_by_all_processes(tmp_path: Path) -> None:
    """The newest checkpoint is damaged; the same words go on from the one before it and end as an unbroken run does."""
    path = write(tmp_path, "recipe", autoencoder_recipe(steps=4, save_every=1, keep=3))
    command = filled(commands(ROOT / "README.md")[0], path, tmp_path / "whole")
    subprocess.run([*command, "--until", "3"], env=environment(), capture_output=True, check=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    newest = tmp_path / "damaged" / "checkpoints" / "step-00000003"
    file = sorted(newest.glob("*.safetensors"))[-1]
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    told = []
    for name in ("whole", "damaged"):
        words = [str(tmp_path / name) if w == str(tmp_path / "whole") else w for w in command]
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout + done.stderr)
    assert "damaged" not in told[0].replace(str(tmp_path), "")
    assert told[1].count("step-00000003 is damaged") == told[1].count("going on from step-00000002") == 1
    ours, theirs = weights(tmp_path / "damaged"), weights(tmp_path / "whole")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
