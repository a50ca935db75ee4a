"""The transformers of a U-Net of images (Rombach et al. 2022, section 3.3): self-attention, a prompt, a gated MLP.

Parameter names are those of the diffusers library. Shapes: B batch, T frames, S places of a frame, D width of the
transformer, L tokens of a prompt, N heads of size d. Tokens are (B, T, S, D).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinolab.contracts.reach import Lists
from kinolab.layers.attention import attend, attend_places
from kinolab.layers.normalization import GroupNorm, add
from kinolab.layers.sharing import SharedPlaces
from kinolab.layers.slots import Clip, Place, Slots, filled, over_time, to_images, to_tokens


class QkvAttention(nn.Module):
    """Attention with a projection each for queries, keys and values, without bias, and one out of it.

    Args:
        dim: width of the queries' tokens.
        heads, head_size: N and d; N * d may differ from dim.
        context_dim: width of the tokens that are read; none = the queries' own.
        upcast: compute the products of queries and keys in float32 under autocast (SD 2.1).
    """

    def __init__(
        self, dim: int, heads: int, head_size: int, context_dim: int | None = None, *, upcast: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.head_size, self.upcast = heads, head_size, upcast
        read, inner = dim if context_dim is None else context_dim, heads * head_size
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(read, inner, bias=False)
        self.to_v = nn.Linear(read, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, dim)])

    def project(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of x (..., L, dim), keys and values of the context (..., M, D), each (..., L or M, N, d)."""
        read = x if context is None else context
        shape = (self.heads, self.head_size)
        q, k, v = (f(a).unflatten(-1, shape) for f, a in ((self.to_q, x), (self.to_k, read), (self.to_v, read)))
        return (q.float(), k.float(), v.float()) if self.upcast else (q, k, v)

    def out(self, heads: Tensor) -> Tensor:
        """(..., L, N * d) -> (..., L, dim)."""
        return self.to_out[0](heads)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Tokens (R, L, dim) that read themselves or a context (R, M, D), mask (R, M) with True = attend."""
        q, k, v = self.project(x, context)
        return self.out(attend(q, k, v, None, mask))

    def over_places(self, x: Tensor, lists: Lists | None, shared: SharedPlaces | None = None) -> Tensor:
        """(B, T, S, dim) -> the same: each frame reads its own places, or those of the frames that it reads; where they
        are `shared`, x holds this process's."""
        return self.out(attend_places(*self.project(x), lists, shared))

    def over_tracks(self, x: Tensor) -> Tensor:
        """(B, T, S, dim) -> the same: each place reads itself in all frames."""
        B, T, S, _ = x.shape
        tracks = x.transpose(1, 2).reshape(B * S, T, -1)  # every place is a sequence of frames
        return self(tracks).unflatten(0, (B, S)).transpose(1, 2)


class GatedMlp(nn.Module):
    """GEGLU (Shazeer 2020): a linear layer of two halves, one times the GELU of the other, and one back."""

    def __init__(self, dim: int, ratio: int = 4, out: int | None = None) -> None:
        super().__init__()
        inner = ratio * dim
        self.net = nn.ModuleList([Geglu(dim, inner), nn.Identity(), nn.Linear(inner, dim if out is None else out)])

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., out)."""
        return self.net[2](self.net[0](x))


class Geglu(nn.Module):
    """The first half of it."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., inner)."""
        if torch.is_grad_enabled() or type(self.proj) is not nn.Linear:  # a change may stand beside the weights
            value, gate = self.proj(x).chunk(2, -1)  # (..., inner) each; the gate comes second in public weights
            return value * F.gelu(gate)
        # Two products whose results lie in one piece each: GELU takes half the time on them.
        value, gate = (
            F.linear(x, w, b) for w, b in zip(self.proj.weight.chunk(2), self.proj.bias.chunk(2), strict=True)
        )
        return F.gelu(gate).mul_(value)


class TransformerBlock(nn.Module):
    """Self-attention over places, attention to the prompt where there is one, gated MLP; each normalised and added.

    Args:
        places: whether there is self-attention over places.
    """

    def __init__(
        self, dim: int, heads: int, head_size: int, text_dim: int, *, upcast: bool = False, places: bool = True
    ) -> None:
        super().__init__()
        self.places = places
        if places:
            self.norm1 = nn.LayerNorm(dim)
            self.attn1 = QkvAttention(dim, heads, head_size, upcast=upcast)
        if text_dim:
            self.norm2 = nn.LayerNorm(dim)
            self.attn2 = QkvAttention(dim, heads, head_size, text_dim, upcast=upcast)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = GatedMlp(dim)

    def forward(self, x: Tensor, clip: Clip, shared: SharedPlaces | None = None) -> Tensor:
        """Tokens (B, T, S, D) -> (B, T, S, D); of `shared` places this process's."""
        if self.places:
            x = add(self.attn1.over_places(self.norm1(x), clip.lists, shared), x)
        if clip.text is not None:
            x = add(read_prompt(self.attn2, self.norm2(x), clip), x)
        return add(self.ff(self.norm3(x)), x)


def read_prompt(attention: QkvAttention, x: Tensor, clip: Clip) -> Tensor:
    """All tokens (B, T, S, D) of a clip read its prompt; with a prompt for each single image, these read theirs."""
    text, mask = clip.text, clip.text_mask
    assert text is not None
    if text.ndim == 3 and text.shape[1] == 1 and mask is None and not torch.is_grad_enabled():
        # A single token has all the attention, whatever asks for it: its value is what every place reads.
        return attention.out(attention.to_v(text))[:, None].expand(x.shape).contiguous()  # (B, 1, 1, D) -> (B, T, S, D)
    if text.ndim == 3:
        return attention(x.flatten(1, 2), text, mask).view_as(x)
    count = clip.frames - clip.images
    video, images = x[:, :count], x[:, count:]
    first, others = (None, None) if mask is None else (mask[:, 0], mask[:, 1:].flatten(0, 1))  # (B, L), (B * images, L)
    of_video = attention(video.flatten(1, 2), text[:, 0], first).view_as(video)
    of_images = attention(images.flatten(0, 1), text[:, 1:].flatten(0, 1), others).view_as(images)
    return torch.cat([of_video, of_images], 1)


class SpatialTransformer(nn.Module):
    """Norm per frame, a projection in, blocks, a projection out, and the input added: (B * T, C, H, W) -> the same.

    Args:
        place: where it stands: its width C and heads.
        depth: blocks.
        text_dim: width of a prompt's token states; 0 = reads none.
        linear: projections as linear layers (SD 2.x) or as convolutions of kernel 1 (SD 1.x): the same numbers.
        slots: what stands behind each block, and whether there is attention over places.
    """

    def __init__(
        self, place: Place, depth: int, text_dim: int, groups: int, slots: Slots, *, linear: bool, upcast: bool
    ) -> None:
        super().__init__()
        C, D, places = place.width, place.heads * place.head_size, slots.attends_to_places(place)
        self.norm = GroupNorm(groups, C, eps=1e-6)
        self.proj_in: nn.Module = nn.Linear(C, D) if linear else nn.Conv2d(C, D, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(D, place.heads, place.head_size, text_dim, upcast=upcast, places=places)
            for _ in range(depth)
        )
        inside = [Place(**{**vars(place), "width": D, "depth": i}) for i in range(depth)]
        self.inside_transformer = nn.ModuleList(filled(slots.inside_transformer(at)) for at in inside)
        self.proj_out: nn.Module = nn.Linear(D, C) if linear else nn.Conv2d(D, C, 1)

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        """(B * T, C, H, W) -> (B * T, C, H, W)."""
        h = to_tokens(self.norm(x))  # (B * T, S, C)
        shared = None if clip.among is None else SharedPlaces(clip.among, h.shape[1])
        h = h if shared is None else shared.own(h, 1)
        h = as_linear(self.proj_in, h).unflatten(0, (clip.batch, clip.frames))  # (B, T, S, D)
        for block, slot in zip(self.transformer_blocks, self.inside_transformer, strict=True):
            h = over_time(slot, block(h, clip, shared), clip)
        h = as_linear(self.proj_out, h.flatten(0, 1))
        h = h if shared is None else shared.whole(h, 1)
        return add(to_images(h, (x.shape[2], x.shape[3])), x)


def as_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer, or a convolution of kernel 1 as one, of tokens (..., D)."""
    if isinstance(layer, nn.Conv2d):
        return F.linear(x, layer.weight.flatten(1), layer.bias)  # weight (D', D, 1, 1) -> (D', D)
    return layer(x)
