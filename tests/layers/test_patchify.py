"""Patches and tubelets: round trips, and the embedding against the convolution it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kinolab.layers.patchify import PatchEmbed, patchify, unpatchify
from tests.closeness import assert_close


@pytest.mark.parametrize(("patch", "temporal_patch"), [(2, 1), (1, 1), (2, 2), (3, 4)])
def test_unpatchify_undoes_patchify(patch: int, temporal_patch: int) -> None:
    z = torch.randn(2, 5, 4, 6, 12)
    x = patchify(z, patch, temporal_patch)
    assert x.shape == (2, 4 // temporal_patch, 72 // patch**2, 5 * temporal_patch * patch**2)
    # Embedding reads (C, pt, p, p), the head writes (pt, p, p, C): the public layouts of convolution and linear head.
    x = x.unflatten(-1, (5, -1)).transpose(-1, -2).flatten(-2)
    assert torch.equal(unpatchify(x, (6 // patch, 12 // patch), patch, temporal_patch), z)


def test_frame_patches_are_a_2d_convolution() -> None:
    embed, z = PatchEmbed(3, 7, 2), torch.randn(2, 3, 4, 6, 8)
    expected = F.conv2d(z.transpose(1, 2).flatten(0, 1), embed.proj.weight, embed.proj.bias, stride=2)
    expected = expected.flatten(2).transpose(1, 2).unflatten(0, (2, 4))
    assert_close(embed(z), expected)


def test_tubelets_are_a_3d_convolution() -> None:
    embed, z = PatchEmbed(3, 7, 2, temporal_patch=2), torch.randn(2, 3, 4, 6, 8)
    expected = F.conv3d(z, embed.proj.weight, embed.proj.bias, stride=2).flatten(3).permute(0, 2, 3, 1)
    assert_close(embed(z), expected)
