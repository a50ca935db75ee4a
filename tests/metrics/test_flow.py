"""Optical flow on motion that is known, exact warping, and occlusions."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch

from kinolab.errors import InputError
from kinolab.metrics.flow import flow, visible, warp
from tests.closeness import FLOAT32, assert_close
from tests.metrics.moving_clips import as_frames, panning, travelling_box

pytest.importorskip("cv2")


@pytest.mark.parametrize("step", [(1, 0), (0, -2), (3, 2)])
def test_the_flow_of_a_pan_is_its_step(step: tuple[int, int]) -> None:
    frames = as_frames(panning(3, step))
    forward, backward = flow(frames), flow(frames, backward=True)
    assert forward.shape == backward.shape == (2, 48, 48, 2) and forward.dtype == np.float32
    inside = np.s_[:, 8:-8, 8:-8]
    assert np.abs(forward[inside] - step).mean() < 0.1
    assert np.abs(backward[inside] + step).mean() < 0.1


def test_equal_frames_do_not_move() -> None:
    frames = as_frames(panning(1, (0, 0))).repeat(3, axis=0)
    assert not flow(frames).any()


def test_the_number_of_threads_changes_nothing_and_is_left_as_it_was() -> None:
    import cv2

    frames, before = as_frames(panning(2, (5, 3), side=160)), cv2.getNumThreads()
    found = []
    try:
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            found.append(flow(frames))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert (found[0] == found[1]).all()


def test_warping_by_whole_steps_is_exact() -> None:
    images = torch.rand(2, 3, 7, 9)
    flows = torch.zeros(2, 7, 9, 2)
    assert torch.equal(warp(images, flows), images)
    flows[..., 0], flows[..., 1] = 2, -1
    assert torch.equal(warp(images, flows)[:, :, 1:, :-2], images[:, :, :-1, 2:])
    assert torch.equal(warp(images, flows)[:, :, 1:, -1], images[:, :, :-1, -1])  # the border goes on


def test_warping_a_plane_by_any_step_is_linear() -> None:
    """Bilinear sampling is exact on a + b x + c y: grid_sample, an independent implementation, gives the same."""
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="ij")
    plane = (0.3 + 0.2 * columns - 0.1 * rows)[None, None].double()
    flows = torch.full((1, 8, 6, 2), 0.4)
    assert_close(warp(plane, flows)[..., :-1, :-1], plane[..., :-1, :-1] + 0.4 * 0.1, within=FLOAT32)
    images, flows = torch.rand(2, 3, 8, 6).double(), 3 * torch.randn(2, 8, 6, 2)
    x, y = (columns + flows[..., 0]) * 2 / 5 - 1, (rows + flows[..., 1]) * 2 / 7 - 1
    theirs = torch.nn.functional.grid_sample(
        images, torch.stack([x, y], -1).double(), padding_mode="border", align_corners=True
    )
    assert_close(warp(images, flows), theirs, within=FLOAT32)


def test_a_pixel_is_visible_where_forward_and_backward_agree() -> None:
    forward, backward = torch.zeros(1, 6, 10, 2), torch.zeros(1, 6, 10, 2)
    forward[..., 0], backward[..., 0] = 2.0, -2.0
    seen = visible(forward, backward)
    assert seen[:, :, :-2].all() and not seen[:, :, -2:].any()  # the rest goes out of the frame
    backward[:, :, 5, 0] = -1.2  # gap 0.64 > 0.01 (4 + 1.44) + 0.5
    assert not visible(forward, backward)[:, :, 3].any()
    backward[:, :, 5, 0] = -1.4  # gap 0.36 < 0.5
    assert visible(forward, backward)[:, :, 3].all()


def test_what_a_box_covers_is_hidden() -> None:
    frames = as_frames(travelling_box(2, 4))
    forward, backward = torch.from_numpy(flow(frames)), torch.from_numpy(flow(frames, backward=True))
    seen = visible(forward, backward)[0]
    middle = seen[40:56]
    assert middle[:, 28:32].float().mean() < 0.5  # the box goes on from 4 .. 28 to 8 .. 32
    assert middle[:, 8:24].all() and middle[:, 44:].all() and seen[:24].all()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), "uint8"),
        (np.zeros((1, 32, 32, 3), np.uint8), "two frames"),
        (np.zeros((2, 15, 32, 3), np.uint8), "at least 16 x 16 pixels, got 15x32"),
    ],
)
def test_wrong_frames_are_refused(frames: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        flow(frames)


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: object) -> object:
        if name == "cv2":
            raise ImportError
        return real(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"pip install 'kinolab\[eval\]'"):
        flow(np.zeros((2, 32, 32, 3), np.uint8))
