"""Requests to files: provenance, exact reruns, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab import video
from kinolab.contracts.request import Request
from kinolab.errors import InputError
from kinolab.generation.generate import generate, rerun
from kinolab.generation.provenance import provenance_path
from kinolab.generation.request import GenerateConfig
from kinolab.generation.windows import fill_canvas, window_seed
from kinolab.tasks.extend import Canvas
from tests.tiny_model import save_tiny_model

pytestmark = pytest.mark.slow  # many short ones, which take long together


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def request(folder: Path, **values: object) -> GenerateConfig:
    return GenerateConfig.model_validate({"model": str(folder), "precision": "float32", **values})


def test_a_rerun_gives_the_same_frames(folder: Path, tmp_path: Path) -> None:
    files = generate(request(folder, prompts=["a ball", "a box"], count=2, seed=7), tmp_path / "clip.mp4")
    assert [f.name for f in files] == ["clip-0.mp4", "clip-1.mp4", "clip-2.mp4", "clip-3.mp4"]
    again, changed = rerun(files[2], tmp_path / "again.mp4")
    assert changed == []
    assert (video.read(again).frames == video.read(files[2]).frames).all()
    record = json.loads(provenance_path(files[2]).read_text())
    assert (record["prompt"], record["seed"], record["request"]["frames"]) == ("a box", 7, 5)


def test_a_rerun_notices_changed_weights(folder: Path, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    [path] = generate(request(model, prompts=["a ball"]), tmp_path / "clip.mp4")
    text = (model / "model.yaml").read_text()
    (model / "model.yaml").write_text(text.replace("fps: 8.0", "fps: 9.0"))
    with pytest.raises(InputError, match="have changed"):
        rerun(path, tmp_path / "again.mp4")


def test_a_video_without_a_record_is_explained(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"")
    with pytest.raises(InputError, match=r"no x\.json beside it"):
        rerun(tmp_path / "x.mp4", tmp_path / "y.mp4")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="not a record"):
        rerun(tmp_path / "x.mp4", tmp_path / "y.mp4")


def test_a_refused_request_writes_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="frames"):
        generate(request(folder, prompts=["a ball"], frames=6), tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


def test_unconditional_sampling_needs_no_guidance(folder: Path, tmp_path: Path) -> None:
    config = request(folder, guidance={"scale": 1.0})
    [path] = generate(config, tmp_path / "clip.gif")
    assert video.probe(path).frames == 5


def test_a_negative_prompt_is_recorded_and_made_again(folder: Path, tmp_path: Path) -> None:
    [path] = generate(request(folder, prompts=["a ball"], negative="a blue box"), tmp_path / "clip.mp4")
    assert json.loads(provenance_path(path).read_text())["request"]["negative"] == "a blue box"
    assert rerun(path, tmp_path / "again.mp4")[1] == []
    with pytest.raises(InputError, match="--guidance is 1"):
        generate(request(folder, prompts=["a ball"], negative="x", guidance={"scale": 1.0}), tmp_path / "no.mp4")
    assert not (tmp_path / "no.mp4").exists()


class Windows:
    """A model that remembers what it was asked for and makes noise of the seed that it was given."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def sample_latents(self, requests: list[Request], **_: object) -> Tensor:
        self.asked.append(tuple(r.seed for r in requests))
        frames, (height, width) = requests[0].frames or 0, requests[0].size or (0, 0)
        return torch.stack([self.noise(r.seed, 3, frames, height, width) for r in requests])

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def complete(self, video: Tensor, mask: Tensor, requests: list[Request], **_: object) -> Tensor:
        self.asked.append(tuple(r.seed for r in requests))
        return torch.stack([self.noise(r.seed, *video.shape[1:]) for r in requests])

    @staticmethod
    def noise(seed: int, *shape: int) -> Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_every_window_of_every_clip_has_noise_of_its_own() -> None:
    model: Any = Windows()
    canvas = Canvas(torch.zeros(2, 3, 9, 4, 4), torch.ones(2, 1, 9, 4, 4))
    windows = [[0, 1, 2, 3], [3, 4, 5, 6], [5, 6, 7, 8]]
    made = fill_canvas(model, canvas, windows, [Request(seed=5), Request(seed=6)])
    assert model.asked == [(5, 6), (1_000_008, 1_000_009), (2_000_011, 2_000_012)]
    for clip in range(2):
        for n, (frames, shown) in enumerate(zip(windows, ([0, 1, 2, 3], [4, 5, 6], [7, 8]), strict=True)):
            noise = model.noise(window_seed(5 + clip, n), 3, 4, 4, 4)
            assert torch.equal(made[clip][:, shown], noise[:, [frames.index(f) for f in shown]])


def test_the_seeds_of_windows_are_far_apart_and_the_first_is_the_requests() -> None:
    assert [window_seed(7, n) for n in range(3)] == [7, 1_000_010, 2_000_013]
    assert window_seed(2**63 - 1, 1) == 1_000_002, "a seed stays one that torch takes"
    seeds = [window_seed(seed, n) for seed in range(100) for n in range(100)]
    assert len(set(seeds)) == len(seeds)


def test_reach_is_recorded_and_made_again(folder: Path, tmp_path: Path) -> None:
    [plain] = generate(request(folder, prompts=["a ball"]), tmp_path / "plain.webp")
    [path] = generate(request(folder, prompts=["a ball"], reach="first_previous"), tmp_path / "clip.webp")
    assert (video.read(path).frames != video.read(plain).frames).any()
    assert json.loads(provenance_path(path).read_text())["request"]["reach"] == "first_previous"
    again, changed = rerun(path, tmp_path / "again.webp")
    assert changed == [] and (video.read(again).frames == video.read(path).frames).all()
    [listed] = generate(request(folder, prompts=["a ball"], reach=[[0, 0], [0, 0]]), tmp_path / "listed.webp")
    assert (video.read(listed).frames == video.read(path).frames).all(), "two frames of tokens"


def test_a_reach_that_changes_nothing_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="reach own: this model's frames read just that as they are"):
        generate(request(folder, prompts=["a ball"], reach="own"), tmp_path / "own.webp")
    with pytest.raises(InputError, match="lists for 3 frames, but the clip has 2"):
        generate(request(folder, prompts=["a ball"], reach=[[0], [0], [0]]), tmp_path / "no.webp")


def test_what_has_a_field_of_its_own_is_not_named_among_methods(folder: Path) -> None:
    with pytest.raises(ValueError, match="guidance has a field of its own in a request: set guidance"):
        request(folder, methods={"guidance": {"scale": 2.0}})
