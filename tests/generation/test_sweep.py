"""Steps that follow each other along a clip give what all windows of the whole clip give, and hold a part of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kinolab.contracts.method import Denoised
from kinolab.generation.sweep import Sweep, Windows, over_tiles
from tests.closeness import assert_close, assert_same

STEPS = 4


def noise(frames: int) -> list[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(frames)
    made = [torch.randn(2, 1, 2, 1, 3, 3, dtype=torch.float64, generator=source) for _ in range(frames)]
    return [(z, told) for z, told in made]


def estimate(step: int, z: Tensor, told: Tensor, start: int) -> Denoised:
    """Of a window as a whole, so that it differs with every frame that it holds."""
    return Denoised(torch.tanh(z + told + z.mean(2, keepdim=True) + 0.1 * step), 0.5 * z)


def step(number: int, z: Tensor, found: Denoised, frame: int) -> Tensor:
    assert found.variance is not None
    return 0.7 * z + 0.3 * found.sample + 0.01 * frame + 0.1 * found.variance


def whole(frames: list[tuple[Tensor, Tensor]], windows: Windows) -> Tensor:
    """All windows together in every step, of the whole clip."""
    z, told = (torch.cat([pair[k] for pair in frames], 2) for k in (0, 1))
    count = z.shape[2]
    for number in range(STEPS):
        sums = [torch.zeros_like(z), torch.zeros_like(z)]
        total = torch.zeros(count, dtype=torch.float64)
        for start in windows.starts(count):
            weight = windows.weights(start, count)
            places = slice(start, start + len(weight))
            found = estimate(number, z[:, :, places], told[:, :, places], start)
            assert found.variance is not None
            for k, values in enumerate((found.sample, found.variance)):
                sums[k][:, :, places] += weight.view(-1, 1, 1) * values
            total[places] += weight
        x, v = (s / total.view(-1, 1, 1) for s in sums)
        z = torch.cat([
            step(number, z[:, :, n : n + 1], Denoised(x[:, :, n : n + 1], v[:, :, n : n + 1]), n) for n in range(count)
        ], 2)  # fmt: skip
    return z


@pytest.mark.parametrize("frames", [1, 3, 5, 6, 7, 9, 11, 23])
@pytest.mark.parametrize(("length", "overlap"), [(5, 2), (5, 0), (8, 4), (1, 0), (4, 3)])
def test_it_is_what_all_windows_of_the_whole_clip_give(frames: int, length: int, overlap: int) -> None:
    clip, windows = noise(frames), Windows(length, overlap)
    made = list(Sweep(STEPS, windows, estimate, step).run(iter(clip)))
    assert len(made) == frames
    assert_close(torch.cat(made, 2), whole(clip, windows))


def test_what_is_held_does_not_grow_with_the_clip() -> None:
    def most(frames: int) -> tuple[int, int]:
        sweep, held = Sweep(STEPS, Windows(6, 2), estimate, step), list[int]()

        def watched() -> Iterator[tuple[Tensor, Tensor]]:
            for pair in noise(frames):
                held.append(sweep.held)
                yield pair

        count = sum(1 for _ in sweep.run(watched()))
        assert count == frames and sweep.held == 0
        return max(held), len(held)

    short, long = most(60), most(240)
    assert long[1] == 4 * short[1] and long[0] == short[0]


def test_frames_come_before_the_clip_ends() -> None:
    read = list[int]()

    def source() -> Iterator[tuple[Tensor, Tensor]]:
        for number, pair in enumerate(noise(100)):
            read.append(number)
            yield pair

    made = Sweep(STEPS, Windows(5, 2), estimate, step).run(source())
    next(made)
    assert len(read) < 40


@pytest.mark.parametrize(("length", "overlap", "count"), [(5, 2, 13), (8, 4, 30), (6, 0, 17), (9, 8, 20), (4, 2, 3)])
def test_every_place_is_covered_and_what_one_window_says_alone_is_left_alone(
    length: int, overlap: int, count: int
) -> None:
    windows = Windows(length, overlap)
    total, constant = torch.zeros(2, count, dtype=torch.float64)
    for start in windows.starts(count):
        weight = windows.weights(start, count)
        assert len(weight) == min(length, count) and float(weight.min()) >= 0 and float(weight.max()) <= 1
        total[start : start + len(weight)] += weight
        constant[start : start + len(weight)] += 3.0 * weight
    assert float(total.min()) > 0
    assert_close(constant / total, torch.full((count,), 3.0, dtype=torch.float64))


def test_tiles_of_what_each_pixel_says_for_itself_are_the_whole_frame() -> None:
    z = torch.randn(1, 2, 3, 13, 18, generator=torch.Generator().manual_seed(0))
    asked = list[tuple[slice, slice]]()

    def pixelwise(part: tuple[slice, slice]) -> Denoised:
        asked.append(part)
        return Denoised(torch.sin(z[(..., *part)]))

    blended = over_tiles((13, 18), (Windows(6, 3), Windows(8, 2)), pixelwise)
    assert_close(blended.sample, torch.sin(z))
    assert blended.variance is None and len(asked) == 4 * 3
    assert_same(over_tiles((13, 18), None, pixelwise).sample, torch.sin(z))
