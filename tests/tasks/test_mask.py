"""The mask of every task: folding to latents, filling, and what reaches a denoiser."""

from __future__ import annotations

import pytest
import torch

from kinolab.autoencoders import ImageAutoencoder, ImageConfig, OdVae, OdVaeConfig
from kinolab.autoencoders.base import AutoencoderSpec
from kinolab.errors import InputError
from kinolab.layers.masking import fully_given, generated_weight, partly_given, place_given
from kinolab.tasks import box_mask, check_mask, encode_given, fill, fold, keep_exact, keyframe_mask, predict_mask
from tests.closeness import assert_close

CAUSAL = AutoencoderSpec(4, 4, 8, causal=True)
IMAGE = AutoencoderSpec(4, 1, 8, causal=False)


def odvae() -> OdVae:
    torch.manual_seed(0)
    return OdVae(
        OdVaeConfig(
            hidden_size=8, hidden_size_mult=(1, 1, 1, 1), num_res_blocks=1, latent_channels=4, norm_num_groups=4,
            mid_attention="none",
        )
    ).eval()  # fmt: skip


def batched(mask: torch.Tensor, batch: int = 1) -> torch.Tensor:
    return mask.expand(batch, 1, -1, -1, -1)


def test_folding_gives_each_frame_its_channel_and_each_latent_its_share() -> None:
    mask = torch.zeros(1, 1, 9, 16, 16)
    mask[0, 0, 3] = 1  # the third frame of the second latent
    mask[0, 0, 5, :8, :4] = 1  # half of the first patch in the first frame of the third latent
    folded = fold(mask, CAUSAL)
    assert folded.shape == (1, 4, 3, 2, 2)
    expected = torch.zeros_like(folded)
    expected[0, 2, 1] = 1
    expected[0, 0, 2, 0, 0] = 0.5
    assert torch.equal(folded, expected)
    first = torch.zeros(1, 1, 9, 16, 16)
    first[:, :, 0] = 1
    assert torch.equal(fold(first, CAUSAL)[0, :, :, 0, 0], torch.tensor([[1.0, 0, 0]]).expand(4, -1))
    assert torch.equal(fold(mask, IMAGE)[0, 0, :, 1, 1], mask[0, 0, :, 15, 15])
    with pytest.raises(InputError, match="frames"):
        fold(torch.ones(1, 1, 8, 16, 16), CAUSAL)


@pytest.mark.parametrize("ratio", [1, 4])
def test_filling_keeps_what_is_given_and_nothing_of_the_rest(ratio: int) -> None:
    generator = torch.Generator().manual_seed(0)
    video, other = torch.randn(2, 2, 3, 9, 4, 4, generator=generator)
    mask = (torch.rand(2, 1, 9, 4, 4, generator=generator) < 0.6).float()
    hidden = torch.where(mask == 0, video, other)
    filled = fill(video, mask, ratio)
    assert torch.equal(filled, fill(hidden, mask, ratio))
    assert torch.equal(torch.where(mask == 0, filled, video), torch.where(mask == 0, video, video))
    assert torch.equal(fill(video, torch.ones_like(mask), ratio), torch.zeros_like(video))


def test_filling_takes_the_nearest_frame_of_the_latent_then_the_next_then_the_last() -> None:
    video = torch.arange(13.0).view(1, 1, 13, 1, 1).expand(1, 3, -1, 1, 1)
    mask = batched(keyframe_mask(13, 1, 1, [3, 6]))
    # Latents are the frames 0, 1-4, 5-8, 9-12: the first takes the next given one, the last holds the last one.
    assert fill(video, mask, 4)[0, 0, :, 0, 0].tolist() == [3, 3, 3, 3, 3, 6, 6, 6, 6, 6, 6, 6, 6]
    both = batched(keyframe_mask(13, 1, 1, [1, 4]))
    assert fill(video, both, 4)[0, 0, :5, 0, 0].tolist() == [1, 1, 1, 4, 4]


@torch.no_grad()
def test_given_first_frames_reach_a_causal_model_as_the_whole_clips_own_latents() -> None:
    autoencoder, video = odvae(), torch.randn(2, 3, 9, 32, 32, generator=torch.Generator().manual_seed(1))
    whole = autoencoder.encode(video).mean
    given, mask = encode_given(autoencoder, video, batched(predict_mask(9, 32, 32, 5), 2))
    assert_close(given[:, :, :2], whole[:, :, :2])
    assert not given[:, :, 2:].any() and bool((mask[:, :, 2:] == 1).all())
    assert fully_given(mask)[0, 0, :, 0, 0].tolist() == [True, True, False]
    some, mask = encode_given(autoencoder, video, batched(predict_mask(9, 32, 32, 7), 2))
    assert mask[0, :, 2, 0, 0].tolist() == [0, 0, 1, 1] and some[:, :, 2].any()
    assert partly_given(mask).all() and not fully_given(mask)[:, :, 2].any()


@torch.no_grad()
def test_pixels_under_the_mask_have_no_influence() -> None:
    autoencoder, generator = odvae(), torch.Generator().manual_seed(2)
    video, other = torch.randn(2, 1, 3, 9, 32, 32, generator=generator)
    mask = batched(box_mask(9, 32, 32, [(8, 8, 24, 20)]))
    hidden = torch.where(mask == 0, video, other)
    assert torch.equal(encode_given(autoencoder, video, mask)[0], encode_given(autoencoder, hidden, mask)[0])


@torch.no_grad()
def test_an_image_autoencoder_tells_every_given_frame_exactly() -> None:
    torch.manual_seed(0)
    autoencoder = ImageAutoencoder(
        ImageConfig(
            block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
            mid_block_attention=False,
        )
    ).eval()  # fmt: skip
    video = torch.randn(1, 3, 6, 16, 16, generator=torch.Generator().manual_seed(3))
    given, mask = encode_given(autoencoder, video, batched(keyframe_mask(6, 16, 16, [2, 5])))
    whole = autoencoder.encode(video).mean
    assert mask.shape[1] == 1
    assert_close(given[:, :, [2, 5]], whole[:, :, [2, 5]])
    assert not given[:, :, [0, 1, 3, 4]].any()


def test_placing_and_weighing() -> None:
    z, given = torch.randn(1, 2, 3, 1, 1), torch.randn(1, 2, 3, 1, 1)
    mask = torch.tensor([[0.0, 0, 1], [0, 1, 1]]).view(1, 2, 3, 1, 1)
    assert torch.equal(place_given(z, given, mask)[:, :, 0], given[:, :, 0])
    assert torch.equal(place_given(z, given, mask)[:, :, 1:], z[:, :, 1:])
    assert generated_weight(mask).flatten().tolist() == [0, 1, 1]
    assert generated_weight(torch.zeros_like(mask)).flatten().tolist() == [1, 1, 1]


def test_keeping_exactly() -> None:
    made, video = torch.randn(2, 1, 3, 4, 2, 2)
    mask = batched(predict_mask(4, 2, 2, 3))
    kept = keep_exact(made, video, mask)
    assert torch.equal(kept[:, :, :3], video[:, :, :3]) and torch.equal(kept[:, :, 3], made[:, :, 3])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(1, 1, 4, 8, 8), "empty"),
        (torch.ones(1, 1, 4, 8, 8), "full"),
        (torch.full((1, 1, 4, 8, 8), 0.5), "0 .given. and 1"),
        (torch.ones(1, 1, 3, 8, 8), "expected a mask"),
        (torch.ones(1, 3, 4, 8, 8), "expected a mask"),
    ],
)
def test_empty_full_and_misfitting_masks_are_errors(mask: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_mask(torch.zeros(1, 3, 4, 8, 8), mask)


def test_groups_have_a_first_frame_each() -> None:
    groups = AutoencoderSpec(4, 4, 8, causal=True, group_frames=5)
    mask = torch.ones(1, 1, 11, 16, 16)
    mask[:, :, [0, 4, 5, 10]] = 0
    folded = fold(mask, groups)[0, :, :, 0, 0].T.tolist()
    assert folded == [[0] * 4, [1, 1, 1, 0], [0] * 4, [1] * 4, [0] * 4]
    video = torch.arange(11.0).view(1, 1, 11, 1, 1).expand(1, 3, 11, 16, 16)
    filled = fill(video, mask, 4, 5)[0, 0, :, 0, 0].tolist()
    assert filled == [0, 4, 4, 4, 4, 5, 10, 10, 10, 10, 10]
    assert fold(mask[:, :, :5], groups).equal(fold(mask[:, :, :5], CAUSAL))
