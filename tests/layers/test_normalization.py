"""Group normalisation per frame and per clip."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kinolab.layers.normalization import GroupNorm, NormScope, add, fast_layout, fold_frames, silu, unfold_frames
from tests.closeness import assert_close


def test_frame_scope_equals_each_frame_by_itself() -> None:
    norm, x = GroupNorm(2, 4), 3 * torch.randn(2, 4, 3, 5, 6) + 1
    frames = [F.group_norm(x[:, :, t], 2, eps=1e-6) for t in range(3)]
    assert_close(norm(x), torch.stack(frames, dim=2))


def test_clip_scope_takes_statistics_over_all_frames() -> None:
    norm, x = GroupNorm(2, 4, scope="clip"), torch.randn(2, 4, 3, 5, 6) * torch.tensor([1.0, 5.0, 9.0]).view(3, 1, 1)
    assert_close(norm(x), F.group_norm(x, 2, eps=1e-6))


@pytest.mark.parametrize("scope", ["frame", "clip"])
def test_the_memory_order_does_not_matter_and_is_kept(scope: NormScope) -> None:
    norm, x = GroupNorm(2, 4, scope=scope), torch.randn(2, 4, 3, 5, 6)
    last = fast_layout(x)
    assert last.is_contiguous(memory_format=torch.channels_last_3d)
    assert norm(last).is_contiguous(memory_format=torch.channels_last_3d)
    assert_close(norm(last), norm(x))


def test_folding_a_channels_last_video_copies_nothing() -> None:
    x = fast_layout(torch.randn(2, 4, 3, 5, 6))
    folded = fold_frames(x)
    assert folded.data_ptr() == x.data_ptr()
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unfold_frames(folded, 2), x)


def test_in_place_forms_are_used_only_without_gradients() -> None:
    x = torch.randn(3, requires_grad=True)
    h = x * 1.0
    y = add(silu(h), x)
    assert torch.equal(h, x * 1.0)
    y.sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        h = x * 1.0
        assert silu(h).data_ptr() == h.data_ptr()
        assert add(h, x).data_ptr() == h.data_ptr()


def test_norms_behind_frozen_layers_have_gradients() -> None:
    """Of channels-last images that need no gradient themselves PyTorch's own backward pass ends the process."""
    norm, plain = GroupNorm(4, 8), GroupNorm(4, 8)
    plain.load_state_dict(norm.state_dict())
    x = torch.randn(3, 8, 5, 6).contiguous(memory_format=torch.channels_last)
    norm(x).square().sum().backward()
    plain(x.clone().requires_grad_()).square().sum().backward()
    assert norm.weight.grad is not None and plain.weight.grad is not None
    assert_close(norm.weight.grad, plain.weight.grad)
