"""A list of prompts in fixed groups: the same set whoever makes which group, and however often."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinolab.contracts.events import Silent
from kinolab.engines import engine_of
from kinolab.errors import InputError, Stopped
from kinolab.generation.generate import generate
from kinolab.generation.many import generate_many
from kinolab.generation.request import GenerateConfig, request_of
from tests.cli.every import run
from tests.engines.folders import files_of
from tests.tiny_model import save_tiny_model

PROMPTS = ("a ball", "two balls", "a red ball")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m"
    save_tiny_model(path)
    return path


def request(model: Path, **more: object) -> GenerateConfig:
    values = {"model": str(model), "prompts": PROMPTS, "sampler": {"steps": 2}, "count": 1, "device": "cpu"}
    return request_of(values | more)


@pytest.mark.slow
def test_a_group_is_a_request_of_its_own_and_what_is_there_stays(model: Path, tmp_path: Path) -> None:
    config, out = request(model), tmp_path / "a" / "v.mkv"
    made = generate_many(config, out, together=2)
    assert [path.name for path in made.files] == ["v-0.mkv", "v-1.mkv", "v-2.mkv"] and made.made == 3
    generate(config.model_copy(update={"prompts": PROMPTS[:2]}), tmp_path / "b" / "v.mkv")
    both = [files_of(tmp_path / name) for name in "ab"]
    assert both[1] and all(both[0][name] == data for name, data in both[1].items() if name.endswith(".mkv"))
    (tmp_path / "a" / "v-2.mkv").unlink()
    assert generate_many(config, out, together=2).made == 1
    assert files_of(tmp_path / "a") == both[0]
    assert generate_many(request(model, seed=5), out, together=2).made == 3, "of another request"


@pytest.mark.slow
def test_it_stops_between_groups_and_goes_on(model: Path, tmp_path: Path) -> None:
    class Once(Silent):
        stopping = False

        def wrote(self, path: Path, what: str = "file") -> None:
            type(self).stopping = True

    out = tmp_path / "v.mkv"
    with pytest.raises(Stopped):
        generate_many(request(model), out, together=1, events=Once())
    assert [path.name for path in sorted(tmp_path.glob("*.mkv"))] == ["v-0.mkv"]
    assert generate_many(request(model), out, together=1).made == 2


def test_what_is_no_list_of_prompts_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected prompts"):
        generate_many(request(model, prompts=()), tmp_path / "v.mkv")
    assert run("generate", "a ball", "--workers", 2, "--out", tmp_path / "v.mkv") == 2


@pytest.mark.wide
def test_workers_make_the_same_set(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    words = ("generate", "--prompts", tmp_path / "prompts.txt", "--model", model, "--steps", 2, "--device", "cpu")
    assert run(*words, "--together", 1, "--out", tmp_path / "a" / "v.mkv") == 0
    assert run(*words, "--together", 1, "--workers", 2, "--out", tmp_path / "b" / "v.mkv") == 0
    a, b = ({k: v for k, v in files_of(tmp_path / name).items() if k[0] != "."} for name in "ab")
    assert a == b and len(a) == 6
    capsys.readouterr()
    assert run("status", tmp_path / "b") == 0
    assert "3 of 3 videos (100%) done" in capsys.readouterr().out
    found = generate_many(request(model), tmp_path / "c" / "v.mkv", together=2, engine=engine_of("embedded", 2))
    assert found.made == 3
