"""Control maps: what each shows of a clip that is known, and what is said where one can't be made."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinolab import video
from kinolab.conditioning import MAPS
from kinolab.conditioning.control import ControlConfig, Trajectory
from kinolab.conditioning.maps.discs import Path as Track
from kinolab.conditioning.maps.discs import between, draw_paths
from kinolab.config import load_config
from kinolab.errors import InputError, MissingExtraError
from kinolab.models import Request
from kinolab.toyworld.clips import WorldConfig, make_clip
from kinolab.toyworld.reader import read_spots
from tests.closeness import assert_close, assert_same, assert_within
from tests.tiny_model import tiny_model


def made(kind: str, clip: Tensor, **fields: Any) -> Tensor:
    cls = MAPS.get(kind)
    found = cls(load_config(cls.Config, {"kind": kind, **fields})).make(clip)
    assert found.shape == clip.shape and found.abs().max() <= 1
    return found


def square(frames: int = 4, step: int = 3, side: int = 48) -> Tensor:
    """A bright square of 12 pixels with a mark in it, which moves to the right on a dark ground with a texture."""
    clip = torch.rand(side, side, generator=torch.Generator().manual_seed(0)).mul(0.2).sub(1).repeat(3, frames, 1, 1)
    for t in range(frames):
        x = 8 + step * t
        clip[:, t, 16:28, x : x + 12] = 0.8
        clip[:, t, 18:22, x + 2 : x + 6] = -0.5
    return clip


def test_canny_draws_thin_lines_where_the_square_ends() -> None:
    pytest.importorskip("cv2")
    clip = torch.where(square() < -0.7, -1.0, square())  # without the ground's texture
    shown = made("canny", clip)
    lines = shown > 0
    assert set(shown.unique().tolist()) == {-1.0, 1.0}
    assert lines[0, 0, 20, 6:10].sum() == 1 and not lines[0, 0, 34:].any()
    assert_same(lines[:, 1], torch.roll(lines[:, 0], 3, -1))
    assert (made("canny", clip, low=900, high=900) > 0).sum() < lines.sum()


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_flow_has_one_colour_where_all_moves_one_way(method: str) -> None:
    pytest.importorskip("cv2")
    shown = (made("flow", square(), method=method) + 1) / 2
    inside, outside = shown[:, 0, 18:26, 14:18].flatten(1), shown[:, 0, 40:, 40:]
    assert inside.amax(0).mean() > 0.6 > 0.1 > outside.max()
    red, green, blue = inside.mean(1)  # to the right is the angle 0, whose hue is red
    assert red > 4 * max(green, blue)
    assert_same(shown[:, -1], shown[:, -2])
    with pytest.raises(InputError, match="at least two frames, got 1"):
        made("flow", square(1), method=method)


def test_tracks_follow_the_square() -> None:
    pytest.importorskip("cv2")
    discs = made("tracks", square(5, 2), points=1, apart=0.5) > 0
    weights = torch.arange(48.0) + 0.5
    shown = discs.any(0).float()
    x = (shown * weights).sum((1, 2)) / shown.sum((1, 2))
    assert_within(x - x[0], 2.0 * torch.arange(5.0), 0.6, "pixels")
    with pytest.raises(InputError, match="no corner that could be followed"):
        made("tracks", torch.zeros(3, 2, 32, 32))


def test_the_worlds_paths_are_at_the_simulators_places() -> None:
    clip = make_clip(WorldConfig(frames=4, max_objects=1), 5)
    shown = video.to_uint8(made("world_paths", video.to_tensor(clip.frames))[None])[0]
    spots = read_spots(shown)
    assert [spot.time for spot in spots] == [0, 1, 2, 3] and {s.colour for s in spots} == {clip.state[0].colour}
    assert_within([[s.x, s.y] for s in spots], clip.state[0].position, 0.4, "pixels")


def test_the_worlds_depth_is_black_behind_objects_and_brightest_inside() -> None:
    clip = make_clip(WorldConfig(frames=2, max_objects=1), 5)
    depth = made("world_depth", video.to_tensor(clip.frames))[0]
    (x, y), radius = clip.state[0].position[0], clip.state[0].radius
    rows, columns = np.mgrid[0:64, 0:64] + 0.5
    away = np.hypot(columns - x, rows - y)
    assert depth[0][torch.from_numpy(away > 1.5 * radius)].max() == -1
    rim = depth[0][torch.from_numpy(away < 0.8 * radius)]
    assert rim.min() > -0.05 and depth[0, int(y), int(x)] == depth[0].max() > 0.5
    assert_same(made("world_depth", video.to_tensor(clip.frames))[1], depth)


def test_paths_are_drawn_where_they_are_asked() -> None:
    drawn = draw_paths([Track((1.0, 0.5, 0.0), between([[0.25, 0.5], [0.75, 0.5]], 3, (32, 64)))], 3, (32, 64), 4.0)
    assert_close(drawn[1, 16, 32], np.array([1.0, 0.5, 0.0], np.float32))
    area = drawn[..., 0].sum((1, 2))
    assert_close(area, np.full(3, np.pi * 16, np.float32), within=0.02)
    condition, setting = Trajectory(), tiny_model(text=False).setting
    asked = {"paths": [{"colour": "red", "points": [[0.5, 0.5]]}]}
    found = condition.asked(Request(frames=3, conditions={"trajectory": asked}), setting)
    assert found is not None and found.shape == (3, 3, 32, 32) and found[0, :, 16, 16].min() > 0.5
    for wrong, message in (
        ({"paths": []}, "expected paths as"),
        ({"paths": [{"points": [[0, 0]]}]}, "expected a path as"),
        ({"paths": [{"colour": "mauve", "points": [[0, 0]]}]}, "expected a colour of red, orange"),
        ({"paths": [{"colour": "red", "points": [0, 0]}]}, "expected points as"),
    ):
        with pytest.raises(InputError, match=message):
            condition.asked(Request(conditions={"trajectory": wrong}), setting)


def test_a_map_is_stored_by_its_name_where_it_is_as_by_default() -> None:
    assert ControlConfig().model_dump()["map"] == "edges"
    changed = ControlConfig.model_validate({"map": {"kind": "canny", "low": 5}})
    assert changed.model_dump()["map"] == {"kind": "canny", "low": 5.0}
    assert ControlConfig.model_validate(changed.model_dump()) == changed
    assert ControlConfig.model_validate({"map": "canny"}).map.kind == "canny"


class Session:
    """Stands for onnxruntime's: gives the mean of a picture's channels at half the size, as networks of depth do."""

    def __init__(self, path: str, providers: list[str]) -> None:
        if not Path(path).read_bytes():
            raise RuntimeError("no graph")

    def get_inputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="picture", shape=["batch", 3, 16, 16])]

    def run(self, outputs: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        picture = given["picture"]
        assert picture.shape == (1, 3, 16, 16) and picture.dtype == np.float32
        return [picture.mean(1)[:, ::2, ::2]]


def test_a_network_of_the_users_is_shown_normalised_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "depth.onnx"
    file.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"needs onnxruntime, .* pip install 'kinolab\[maps\]'"):
        made("onnx", square(), file=file)
    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))
    clip = torch.linspace(-1, 1, 32).view(1, 1, 1, 32).expand(3, 2, 32, 32).contiguous()
    unit = made("onnx", clip, file=file, mean=(0, 0, 0), std=(1, 1, 1), values="unit")
    assert_within(unit[..., 4:-4], clip[..., 4:-4], 0.1, "half of the grey values")
    stretched = made("onnx", clip, file=file)
    assert stretched.min() == -1 and stretched.max() == 1
    assert_close(made("onnx", clip, file=file, invert=True), -stretched)
    with pytest.raises(InputError, match="no such file"):
        made("onnx", clip, file=tmp_path / "none.onnx")
    file.write_bytes(b"")
    with pytest.raises(InputError, match="not a network that onnxruntime reads: no graph"):
        made("onnx", clip, file=file)
