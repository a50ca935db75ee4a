"""Checkpoints of a run: the newest whole one is gone on from, whatever happened to those after it."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from kinolab.errors import DamagedError, InputError
from kinolab.runtime import files
from kinolab.runtime.ranks import Ranks
from kinolab.training.ema import Ema
from kinolab.training.log import RunLog
from kinolab.training.run import train
from kinolab.training.state import RunState, checkpoints
from tests.listening import Listening
from tests.runtime.crashing import Disk, again, crashes, failures
from tests.training.tiny import autoencoder_recipe

pytestmark = pytest.mark.slow  # many short ones, which take long together

STEPS = 6


def state(seed: int, steps: int = 1) -> RunState:
    """A part whose optimiser has stepped `steps` times, one whose has not, and an average."""
    torch.manual_seed(seed)
    net, critic = nn.Linear(3, 4), nn.Linear(2, 2)
    optimizers = {"net": torch.optim.AdamW(net.parameters(), lr=0.1), "critic": torch.optim.AdamW(critic.parameters())}
    for _ in range(steps):
        net(torch.ones(2, 3)).sum().backward()
        optimizers["net"].step()
    return RunState({"net": net, "critic": critic}, optimizers, {"net": Ema(net, 0.9)}, Ranks())


def numbers(run: RunState) -> torch.Tensor:
    """All of a state in one row."""
    parts = [p.detach().flatten() for m in run.modules.values() for p in m.parameters()]
    parts += [s["exp_avg"].flatten() for s in run.optimizers["net"].state.values()]
    return torch.cat(parts + [v.flatten() for v in run.averages["net"].shadow.values()])


def test_a_state_comes_back_and_only_the_newest_stay(tmp_path: Path) -> None:
    for step in range(1, 5):
        state(step).save(tmp_path, step, keep=2)
    assert [p.name for p in tmp_path.iterdir()] == [p.name for p in tmp_path.glob("step-*")], "nothing else is left"
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]
    found = state(0, steps=3)
    assert found.load_newest(tmp_path, lambda text: None) == 4
    assert torch.equal(numbers(found), numbers(state(4)))
    assert not found.optimizers["critic"].state, "it has not stepped, and is not made to"


@pytest.mark.parametrize("what", ["state.json", "metadata.json", "manifest.json", "rank-00000.safetensors"])
@pytest.mark.parametrize("how", ["empty", "flipped", "missing"])
def test_a_damaged_one_is_said_and_an_older_one_taken(
    what: str, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        state(step).save(tmp_path, step, keep=5)
    path = tmp_path / "step-00000002" / what
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.unlink() if how == "missing" else path.write_bytes(b"" if how == "empty" else data)
    said: list[str] = []
    found = state(0)
    assert found.load_newest(tmp_path, said.append) == 1
    assert torch.equal(numbers(found), numbers(state(1)))
    assert said[0].startswith("step-00000002 is damaged: ") and what in said[0], said
    assert said[1] == "going on from step-00000001, the newest checkpoint that is whole"
    loud = [r for r in caplog.records if r.levelno >= logging.WARNING and "NullHandler" not in r.name]
    assert not loud, "torch's own words about it are tracebacks"
    found.save(tmp_path, 3, keep=5)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000001", "step-00000002", "step-00000003"]


def test_a_hundred_flipped_bits_are_noticed(tmp_path: Path) -> None:
    chance = random.Random(0)
    for step in (1, 2):
        state(step).save(tmp_path, step, keep=5)
    kept, found = numbers(state(1)), state(0)
    paths = sorted(p for p in (tmp_path / "step-00000002").iterdir())
    for _ in range(100):
        path = chance.choice(paths)
        before = path.read_bytes()
        data = bytearray(before)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        loaded = found.load_newest(tmp_path, lambda text: None)
        assert torch.equal(numbers(found), kept if loaded == 1 else numbers(state(2)))
        assert loaded == 1 or path.name == "manifest.json", path.name
        path.write_bytes(before)


def test_later_ones_go_with_the_first_that_is_whole_again(tmp_path: Path) -> None:
    for step in (1, 3):
        state(step).save(tmp_path, step, keep=5)
    (tmp_path / "step-00000003" / "metadata.json").write_bytes(b"")
    found = state(0)
    assert found.load_newest(tmp_path, lambda text: None) == 1
    found.save(tmp_path, 2, keep=5)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000001", "step-00000002"]


def test_none_that_is_whole_and_another_models(tmp_path: Path) -> None:
    assert state(0).load_newest(tmp_path / "none", lambda text: None) is None
    state(1).save(tmp_path, 1, keep=5)
    net = nn.Linear(5, 4)
    other = RunState({"net": net}, {"net": torch.optim.AdamW(net.parameters())}, {}, Ranks())
    with pytest.raises(InputError, match="does not fit this recipe's model") as raised:
        other.load_newest(tmp_path, lambda text: None)
    assert not isinstance(raised.value, DamagedError)
    (tmp_path / "step-00000001" / "state.json").write_bytes(b"{}")
    with pytest.raises(DamagedError, match="none of 1 checkpoints is whole"):
        state(0).load_newest(tmp_path, lambda text: None)


@pytest.fixture(scope="module")
def states() -> dict[int, RunState]:
    return {step: state(step) for step in (1, 2)}


def test_a_checkpoint_is_there_or_not_after_every_crash(states: dict[int, RunState], tmp_path: Path) -> None:
    """Replacing one of the same step too: that of a run that went on from an older one."""
    expected = {step: numbers(run) for step, run in states.items()}

    states[1].save(tmp_path / "before", 1, keep=1)

    def before(root: Path) -> None:
        shutil.copytree(tmp_path / "before", root, dirs_exist_ok=True)

    found, both = state(0), list(expected.values())
    for replaced in (1, 2):

        def save(root: Path, step: int = replaced) -> None:
            states[2].save(root, step, keep=1)

        disks: tuple[Disk, ...] = ("kill", "flushed") if replaced == 1 else ("flushed",)
        for after in crashes(before, save, tmp_path / str(replaced), disks, lambda point: point % 2 == 0):
            step = found.load_newest(after.root, lambda text: pytest.fail(text))
            assert step in (1, replaced), after
            assert any(torch.equal(numbers(found), e) for e in both), after
            if after.point % 8 == 0:
                again(save, after.root)
                assert found.load_newest(after.root, lambda text: pytest.fail(text)) == replaced, after
                assert torch.equal(numbers(found), expected[2]), after


def test_an_error_of_the_disk_keeps_the_older_one(states: dict[int, RunState], tmp_path: Path) -> None:
    def before(root: Path) -> None:
        states[1].save(root, 1, keep=1)

    for after in failures(before, lambda root: states[2].save(root, 2, keep=1), tmp_path, numbers=(28,)):
        assert after.error is not None and after.error.filename is not None, after
        assert state(0).load_newest(after.root, lambda text: pytest.fail(text)) in (1, 2), after


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of some steps with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("run")
    recipe = autoencoder_recipe(steps=STEPS, save_every=1, keep=10, evaluate_first=False)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    train(folder / "recipe.yaml", folder / "run", until=3)
    yield folder


@pytest.mark.parametrize("resume", [True, "auto"])
def test_a_run_goes_on_from_the_newest_whole_checkpoint(resume: Any, run: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(run / "run", tmp_path / "run"))
    (here / "checkpoints" / "step-00000003" / "state.json").write_bytes(b"")
    tensors = here / "checkpoints" / "step-00000002" / "rank-00000.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with (here / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "kind": "tr')
    heard = Listening()
    report = train(run / "recipe.yaml", here, resume=resume, until=3, events=heard)
    assert report.step == 3
    assert [line.split(" ")[0] for line in heard.notes if "damaged" in line] == ["step-00000003", "step-00000002"]
    rows = [json.loads(line) for line in (here / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3]
    whole = [p.name for p in checkpoints(here / "checkpoints")]
    assert whole == ["step-00000001", "step-00000002", "step-00000003"]
    state_of = [p / "rank-00000.safetensors" for p in (run / "run" / "checkpoints" / "step-00000003", here)]
    again_there = here / "checkpoints" / "step-00000003" / "rank-00000.safetensors"
    assert again_there.read_bytes() == state_of[0].read_bytes(), "bit for bit what it was"


def test_a_recipe_is_whole_after_every_crash(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        files.write_text(root / "recipe.yaml", "a: " + "new" * 100)

    for after in crashes(lambda root: files.write_text(root / "recipe.yaml", "a: old"), write, tmp_path):
        assert yaml.safe_load((after.root / "recipe.yaml").read_text())["a"] in ("old", "new" * 100), after


NO_ROWS = [
    b"{",
    b"[" * 5000,
    b"\xff\xff",
    b"5",
    b"null",
    b'{"step": "x"}',
    b'{"step": 1, "seconds": []}',
    b"\0" * 20,
]


@pytest.mark.parametrize("line", NO_ROWS)
def test_a_line_of_the_log_that_is_none_ends_no_run(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [b'{"step": 1, "kind": "train", "seconds": 2.5, "loss": NaN}', line, b'{"step": 3, "kind": "train"}']
    for end in (b"\n", b""):
        path.write_bytes(b"\n".join(rows) + end + (line if not end else b""))
        log = RunLog(tmp_path, 2, tensorboard=False)
        log.write(2, "train", {"loss": 1.0})
        log.close()
        kept = [json.loads(text) for text in path.read_text().splitlines()]
        assert [row["step"] for row in kept] == [1, 2] and log.seconds_before == 2.5
    os.unlink(path)
