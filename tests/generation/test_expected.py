"""What a clip will take is told by a small piece, and the cheaper options fit what they promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.generation import expected
from kinolab.generation.expected import Work, cheaper, expected_cost, size_note

SPEC = AutoencoderSpec(latent_channels=1, temporal_ratio=4, spatial_ratio=8, causal=True)


class Timed(Autoencoder):
    """Takes a microsecond of the test's clock for every pixel."""

    def __init__(self, spec: AutoencoderSpec = SPEC) -> None:
        super().__init__()
        self.spec, self.now, self.shapes = spec, 0.0, list[tuple[int, ...]]()
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, video: Tensor) -> Posterior:
        self.check_video(video)
        self.shapes.append(tuple(video.shape[2:]))
        self.now += video[0, 0].numel() * 1e-6
        return Posterior.certain(torch.zeros(1, 1, 2, 1, 1))

    def decode(self, latents: Tensor) -> Tensor:
        return latents


@pytest.mark.parametrize("size", [(718, 718), (1080, 60)])
def test_the_piece_scales_to_the_clip(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = Timed()
    monkeypatch.setattr(expected.time, "perf_counter", lambda: model.now)
    cost = expected_cost(model, Work(91, size), "float32")
    assert cost is not None and cost.cost.seconds == pytest.approx(91 * size[0] * size[1] * 1e-6)
    assert cost.encoding == 1.0, "this decoder takes no time"
    assert set(model.shapes) == {(5, 96, 96 if size[1] > 96 else 56)}


def test_small_clips_are_not_worth_a_piece() -> None:
    model = Timed()
    assert expected_cost(model, Work(17, (64, 64))) is None and expected_cost(model, Work(999, (4, 999))) is None
    assert not model.shapes


def test_the_cheaper_options_are_those_that_save() -> None:
    text = cheaper(SPEC, Work(63, (1080, 1084), (64, 64)), 660.0)
    assert text == "--size 256 would take about 37 s, --frames 9 about 2 min"
    assert cheaper(SPEC, Work(6000, (256, 256), (64, 64)), 600.0) == (
        "--size 64 would take about 38 s, --frames 97 about 10 s"
    )
    assert cheaper(SPEC, Work(9, (64, 64), (64, 64)), 600.0) == "", "nothing that can be left out"
    assert cheaper(SPEC, Work(63, (1080, 1084)), 30.0) == ""


def test_a_size_far_from_the_trained_one_is_named() -> None:
    assert size_note(Work(9, (64, 64))) is None and size_note(Work(9, (100, 100), (64, 64))) is None
    assert "1280x720 have 225 times the area" in str(size_note(Work(9, (720, 1280), (64, 64))))
    assert "16x32 have 1/8 of the area" in str(size_note(Work(9, (32, 16), (64, 64))))
