"""The shape rules: with a latent of the first frame's own, without one, and with latents in groups."""

from __future__ import annotations

import pytest
import torch

from kinolab.autoencoders import AutoencoderSpec, Posterior
from kinolab.errors import InputError
from tests.closeness import assert_close

CAUSAL = AutoencoderSpec(4, 4, 8, causal=True)
SYMMETRIC = AutoencoderSpec(4, 4, 8, causal=False, first_frame=False)
GROUPED = AutoencoderSpec(4, 4, 8, causal=False, latent_group=2)


@pytest.mark.parametrize(
    ("spec", "rule", "valid"),
    [
        (CAUSAL, "1 + 4*k", {1: 1, 5: 2, 9: 3, 13: 4, 17: 5}),
        (SYMMETRIC, "4*k", {4: 1, 8: 2, 12: 3, 16: 4}),
        (GROUPED, "1 + 8*k", {1: 1, 9: 3, 17: 5}),
    ],
    ids=["causal", "symmetric", "grouped"],
)
def test_a_spec_takes_exactly_the_frame_counts_of_its_rule(
    spec: AutoencoderSpec, rule: str, valid: dict[int, int]
) -> None:
    assert spec.frame_rule == rule and spec.least_frames == min(valid)
    for frames in range(18):
        below = [n for n in valid if n <= frames]
        assert spec.snap_frames(frames) == max(below, default=min(valid))
        if frames in valid:
            assert spec.latent_shape(frames, 16, 24) == (4, valid[frames], 2, 3)
            assert spec.pixel_frames(valid[frames]) == frames
        else:
            with pytest.raises(InputError) as error:
                spec.check(frames, 16, 24)
            near = spec.snap_frames(frames)
            assert str(error.value) == f"expected {rule} frames, got {frames}; use {near} or {near + spec.frame_step}"


def test_a_spec_with_groups_begins_again_after_each() -> None:
    spec = AutoencoderSpec(4, 4, 8, causal=True, group_frames=9)
    valid = {1: 1, 5: 2, 9: 3, 10: 4, 14: 5, 18: 6, 19: 7}
    for frames, latents in valid.items():
        assert spec.latent_shape(frames, 16, 24) == (4, latents, 2, 3) and spec.pixel_frames(latents) == frames
    for frames, message in ((6, "use 5 or 9"), (11, "use 10 or 14"), (0, "use 1 or 5")):
        with pytest.raises(InputError, match=rf"expected 9\*m or 9\*m \+ 1 \+ 4\*k frames, got {frames}; {message}"):
            spec.check(frames, 16, 24)
    assert [spec.snap_frames(n) for n in (0, 4, 8, 9, 13, 17, 18)] == [1, 1, 5, 9, 10, 14, 18]


def test_a_posterior_without_spread_is_its_mean() -> None:
    latents = torch.randn(2, 3, 1, 4, 4)
    posterior = Posterior.certain(latents)
    assert torch.equal(posterior.mode(), latents)
    assert_close(posterior.sample(torch.Generator().manual_seed(0)), latents)
