"""`python -m benchmarks.why_prediction.attention MODEL`: where a predicted frame looks.

True clips are encoded, noised to fixed flow times, and put through the denoiser with their first frames given. Every
attention over time is read block by block: of the tokens on an object in the last latent frame, how much of the
attention goes to the given frames' tokens on that object (where it was there), on other objects, at the query's own
place, and elsewhere; to the frames that are to be predicted; and to the text. Only objects are asked that in the given
frames were elsewhere. Beside each share stands the one of an even attention, which is the share of the tokens: *times*
is their ratio, and that of the head that looks most at the own object.

A model whose attention over time reads its own place alone (`world`) can't look at an object that was elsewhere; what
it learns of it comes through attention within frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import processor_name
from benchmarks.why_prediction.drift import heldout
from benchmarks.why_prediction.kept import keep
from kinolab import video
from kinolab.contracts.conditions import Conditions
from kinolab.layers import attention as layer
from kinolab.models import Request, VideoModel
from kinolab.tasks import predict_mask
from kinolab.tasks.mask import encode_given
from kinolab.toyworld.clips import CLASSES, WorldClip

TIMES = (0.98, 0.9, 0.7, 0.5, 0.3, 0.1)
KINDS = ("own object, given", "another object, given", "same place, given", "elsewhere, given", "to predict", "text")
OWN, ANOTHER, SAME, ELSEWHERE, PREDICTED, TEXT = range(len(KINDS))


@contextmanager
def recorded() -> Iterator[list[Tensor]]:
    """The weights (B, N, L, M) of every attention that is computed inside, in turn."""
    found: list[Tensor] = []
    original = layer.dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        logits = q.float() @ k.float().transpose(-1, -2) / q.shape[-1] ** 0.5
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        found.append(logits.softmax(-1))
        return original(q, k, v, mask)

    layer.dot_product_attention = watched
    try:
        yield found
    finally:
        layer.dot_product_attention = original


def over_all(weights: Tensor, batch: int, frames: int, places: int) -> Tensor | None:
    """An attention's weights as (B, N, T * S, T * S or more), whichever tokens it reads; none where it reads no other
    frame: an attention within frames, (B * T, N, S, S), or to a prompt alone.

    An attention over time at each place, (B * S, N, T, T), reads nothing of other places.
    """
    if len(weights) == batch:
        return weights[:, :, : frames * places] if weights.shape[-1] >= frames * places else None
    if len(weights) != batch * places or weights.shape[-1] != frames:
        return None
    apart = weights.unflatten(0, (batch, places)).permute(0, 2, 3, 1, 4)  # (B, N, T, S, T)
    whole = apart.new_zeros(*apart.shape[:4], frames, places)
    whole[:, :, :, torch.arange(places), :, torch.arange(places)] = apart.permute(3, 0, 1, 2, 4)
    return whole.flatten(2, 3).flatten(3, 4)


def shares(weights: Tensor, kinds: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Of each asked query the attention to each kind of key, by head: (Q, N, K), and that of an even attention (Q, K).

    weights (B, N, L, M), kinds (B, L, M) of `KINDS`, asked (B, L) bool.
    """
    one = torch.nn.functional.one_hot(kinds, len(KINDS)).to(weights.dtype)  # (B, L, M, K)
    found = torch.einsum("bnlm,blmk->blnk", weights, one)[asked]
    return found, one.mean(2)[asked]


def tokens_of(position: np.ndarray, frames: range, side: int, grid: int) -> set[int]:
    """The tokens of a grid over `side` pixels that an object's centre (T, 2) lies in during some frames."""
    x, y = (position[list(frames)] * grid / side).astype(int).clip(0, grid - 1).T
    return set((y * grid + x).tolist())


def kinds_of(clip: WorldClip, held: Sequence[range], grid: int, given: int, keys: int) -> tuple[Tensor, Tensor]:
    """What every key is to every query, (L, M) of `KINDS`, and which queries are asked (L,).

    `held`: the frames of each latent frame. A latent counts as given where some of its frames are. Asked are tokens of
    the last latent frame on one object alone, which in the given frames was in other tokens.
    """
    side, places, last = clip.frames.shape[1], grid * grid, len(held) - 1
    told = [n for n, frames in enumerate(held) if frames.start < given]
    kinds = torch.full((len(held) * places, keys), TEXT)
    kinds[:, : len(held) * places] = PREDICTED
    asked = torch.zeros(len(held) * places, dtype=torch.bool)
    seen = [range(f.start, min(f.stop, given)) if n in told else f for n, f in enumerate(held)]
    on = [[tokens_of(o.position, frames, side, grid) for frames in seen] for o in clip.state]
    for mine, paths in enumerate(on):
        others = [path for n, path in enumerate(on) if n != mine]
        for place in paths[last]:
            query = last * places + place
            asked[query] = not any(place in path[last] for path in others) and not any(place in paths[n] for n in told)
            for n in told:
                row = kinds[query, n * places : (n + 1) * places]
                row[:] = ELSEWHERE
                row[place] = SAME
                for path in others:
                    row[list(path[n])] = ANOTHER
                row[list(paths[n])] = OWN
    return kinds, asked


@torch.no_grad()
def prepared(model: VideoModel, clips: Sequence[WorldClip], given: int) -> tuple[Tensor, Conditions]:
    """The latents of clips, and what the model is told of their given frames."""
    original = torch.stack([video.to_tensor(c.frames) for c in clips])
    frames, height, width = original.shape[2:]
    mask = predict_mask(frames, height, width, given).expand(len(clips), 1, -1, -1, -1)
    told, folded = encode_given(model.autoencoder, original, mask)
    plain = model.conditions([Request(seed=k) for k in range(len(clips))])
    return model.autoencoder.encode(original).mean.float(), plain.replace(given=told, mask=folded)


@torch.no_grad()
def look(model: VideoModel, latents: Tensor, conditions: Conditions, time: float) -> list[Tensor]:
    """The weights (B, N, T * S, M) of every attention over time, at one flow time."""
    path = model.diffusion.path
    t = path.at_fraction(torch.full((len(latents),), time)).float()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    alpha, sigma = (v.view(-1, 1, 1, 1, 1).float() for v in path.alpha_sigma(t))
    with recorded() as found:
        model.denoiser(alpha * latents + sigma * noise, t, conditions)
    places = grid_of(model) ** 2
    return [w for one in found if (w := over_all(one, len(latents), latents.shape[2], places)) is not None]


def grid_of(model: VideoModel) -> int:
    """Tokens on a side of a frame."""
    patch: int = model.denoiser.config.patch_size
    return model.config.size[0] // model.autoencoder.spec.spatial_ratio // patch


def measure(
    model: VideoModel, clips: Sequence[WorldClip], given: int, times: Sequence[float], batch: int = 24
) -> dict[str, list[dict[str, Any]]]:
    """By flow time, of each block: attention by kind of key, its ratio to an even one, and that of the head that looks
    most at the own object."""
    ratio, grid = model.autoencoder.spec.temporal_ratio, grid_of(model)
    held = [range(1), *(range(n, n + ratio) for n in range(1, model.config.frames, ratio))]
    blocks: dict[str, list[list[Tensor]]] = {str(time): [] for time in times}
    even: list[Tensor] = []
    for start in range(0, len(clips), batch):
        part = clips[start : start + batch]
        latents, conditions = prepared(model, part, given)
        for time in times:
            seen = look(model, latents, conditions, time)
            labelled = [kinds_of(c, held, grid, given, seen[0].shape[-1]) for c in part]
            kinds, asked = (torch.stack(parts) for parts in zip(*labelled, strict=True))
            rows = blocks[str(time)] = blocks[str(time)] or [[] for _ in seen]
            for row, weights in zip(rows, seen, strict=True):
                found, alike = shares(weights, kinds, asked)
                row.append(found)
            even += [alike] if time == times[0] else []
    return {
        time: [_summary(torch.cat(parts).mean(0), torch.cat(even)) for parts in rows] for time, rows in blocks.items()
    }


def _summary(heads: Tensor, even: Tensor) -> dict[str, Any]:
    """Of one block's attention (N, K) by head, and the even one (Q, K) of each query."""
    mean, flat = heads.mean(0), even.mean(0)
    return {
        "share": {kind: round(float(v), 4) for kind, v in zip(KINDS, mean, strict=True)},
        "even": {kind: round(float(v), 4) for kind, v in zip(KINDS, flat, strict=True)},
        "times, own object": round(float(mean[OWN] / flat[OWN]), 2),
        "times, best head": round(float(heads[:, OWN].max() / flat[OWN]), 2),
        "queries": len(even),
    }


def main() -> None:
    """Measure one model at all times and add what came out to the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="world-text")
    parser.add_argument("--name", help="what the row is called; default the model")
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--first", type=int, default=7000)
    parser.add_argument("--given", type=int, default=8)
    parser.add_argument("--scenarios", default=",".join(CLASSES))
    parser.add_argument("--objects", type=int, default=3, help="most objects of a clip")
    parser.add_argument("--out", type=Path, default=Path("docs/why-prediction/attention.json"))
    asked = parser.parse_args()
    model = VideoModel.load(asked.model, precision="float32")
    clips = heldout(model, asked.count, asked.scenarios.split(","), asked.objects, asked.first)
    found = measure(model, clips, asked.given, TIMES)
    keep(asked.out, asked.name or asked.model,
         {"processor": processor_name(), "clips": asked.count, "given": asked.given, "times": found})  # fmt: skip
    for time, blocks in found.items():
        print(time, *(f"{b['times, own object']:g} ({b['times, best head']:g})" for b in blocks))


if __name__ == "__main__":
    main()
