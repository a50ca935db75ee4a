"""`python -m benchmarks.embedding_use MODEL`: where a prompt gets lost on its way through a prior and a decoder.

MODEL is a run of an image model that is told the embedding of a picture (`toy-makeavideo-image`). On held-out pictures
of the toy world it measures both halves of the way by themselves:

- the prior: the cosine of what it imagines of a caption with the embedding of that caption's picture, beside that of
  pictures of the nearest other caption, and how many are closer to their own; of whole captions, as it is trained on
  them, and of the names of the objects alone;
- the decoder: its loss, and what the reader finds in the pictures that it draws, told nothing, the picture's own
  embedding, the one that the prior imagines, another picture's, or the words.

Where the picture's own embedding draws what it shows, and the prior's doesn't, the prior is at fault; where neither
does, the decoder has not learned to read embeddings, and a better prior won't help.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab import video
from kinolab.conditioning.image_embedding import ImageEmbeddingConfig
from kinolab.errors import InputError
from kinolab.generation.matching import matching_world
from kinolab.methods import GuidanceConfig
from kinolab.metrics.statistics import wilson
from kinolab.models import Request, VideoModel, find_model
from kinolab.runtime.files import write_text
from kinolab.toyworld.clips import WorldClip, make_clip
from kinolab.toyworld.reader import read_spots
from kinolab.toyworld.source import WorldSource, WorldSourceConfig
from kinolab.toyworld.words import WorldRequest, phrasings

PORT = "image_embedding"
BATCH = 16
TIMES = (0.5, 0.7, 0.9)
"""Early times of sampling, at which it is decided what a picture shows."""
PICTURES = {"frames": 5, "fps": 2.0}
"""Pictures are single frames of clips as those that the recipes are trained on, with their captions."""
WAYS = ("nothing", "its own embedding", "the prior's", "another picture's", "words")


@dataclass(frozen=True)
class Told:
    """What the decoder makes of one thing that it is told: its loss, and of how many pictures colours, and colours with
    shapes, are those of the caption."""

    way: str
    loss: float
    colours: int
    objects: int


@torch.no_grad()
def measure(model: VideoModel, count: int, seed: int = 0) -> dict[str, Any]:
    """Both halves of the way, on `count` held-out pictures.

    Raises:
        InputError: for a model that is told no embedding, or whose image encoder has no prior.
    """
    encoder = model.image_encoder
    if PORT not in model.spec.ports or encoder is None or not encoder.imagines:
        raise InputError(f"expected an image model that is told {PORT}, by an image encoder with a prior")
    world = matching_world(model)[0].model_copy(update=PICTURES)
    source = WorldSource(
        WorldSourceConfig(world=world, heldout_count=count, split="heldout"), model.output.autoencoder.spec
    )
    clips = [make_clip(source.world, source.seed(k)) for k in range(count)]
    captions = [clip.caption for clip in clips]
    pictures = torch.stack([video.to_tensor(c.frames)[:, k % len(c.frames)] for k, c in enumerate(clips)])
    own, prior = encoder.encode(pictures)[:, 0], dict[str, Any]()
    names = [phrasings(WorldRequest(clip.request.objects))[0] for clip in clips]
    for called, texts in (("captions", captions), ("names", names)):
        imagined = encoder.imagine(texts, [torch.Generator().manual_seed(seed + k) for k in range(count)])
        prior[called] = cosines(own, imagined, texts)
    told = [_told(model, way, captions, clips, pictures, seed) for way in WAYS]
    return {"pictures": count, "prior": prior, "decoder": [asdict(t) for t in told]}


def cosines(own: Tensor, imagined: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """How alike what is imagined (N, D) is to the captions' own pictures (N, D), and to the nearest other caption's;
    means over the captions, and the share that is closer to its own. Pictures of the same caption are no others."""
    likeness = F.normalize(imagined, dim=1) @ F.normalize(own, dim=1).T
    same = torch.tensor([[a == b for b in captions] for a in captions])
    others = likeness.masked_fill(same, -torch.inf).amax(1)
    return {
        "own": float(likeness.diagonal().mean()),
        "nearest_other": float(others.mean()),
        "closer_to_own": float((likeness.diagonal() > others).float().mean()),
    }


def _told(
    model: VideoModel, way: str, captions: Sequence[str], clips: Sequence[WorldClip], pictures: Tensor, seed: int
) -> Told:
    """What is drawn and lost, told one thing of every picture, by the model's own sampler and guidance scale."""
    scale = model.config.guidance.scale
    of = () if way == "words" else (PORT,)
    guidance = GuidanceConfig() if way == "nothing" else GuidanceConfig(scale=scale, of=of)
    settings = {PORT: ImageEmbeddingConfig(prompt="words" if way == "words" else "prior")}
    model.config = model.config.model_copy(update={"conditions": settings})
    losses, colours, objects = list[float](), 0, 0
    for start in range(0, len(clips), BATCH):
        numbers = range(start, min(start + BATCH, len(clips)))
        shown = {"its own embedding": 0, "another picture's": 1}.get(way)
        requests = [
            Request(
                captions[k] if way in ("words", "the prior's") else None,
                seed=seed + k,
                conditions={} if shown is None else {PORT: pictures[(k + shown) % len(clips)]},
            )
            for k in numbers
        ]
        latents = model.autoencoder.encode(pictures[numbers.start : numbers.stop, :, None]).mean
        noise = torch.Generator().manual_seed(seed + start)
        at = model.diffusion.loss_at(model.denoiser, latents, model.conditions(requests), TIMES, noise)
        losses += [sum(at.values()) / len(at)] * len(requests)
        drawn = video.to_uint8(model.decode(model.sample_latents(requests, guidance=guidance)))
        for k, picture in zip(numbers, drawn, strict=True):
            spots = sorted((s.colour, "box" if s.squareness > 0.5 else "ball") for s in read_spots(picture))
            wanted = sorted(clips[k].request.objects)
            colours += sorted(c for c, _ in spots) == sorted(c for c, _ in wanted)
            objects += spots == wanted
    return Told(way, sum(losses) / len(losses), colours, objects)


def markdown(found: dict[str, Any]) -> str:
    """The two halves, in words and as a table."""
    count = found["pictures"]
    lines = [f"{count} held-out pictures.", ""]
    lines += ["| the prior is told | cosine with its own picture | with the nearest other | closer to its own |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    for called, row in found["prior"].items():
        around = wilson(row["closer_to_own"] * count, count)
        share = f"{row['closer_to_own']:.0%} ({around.low:.0%} to {around.high:.0%})"
        lines.append(f"| {called} | {row['own']:.3f} | {row['nearest_other']:.3f} | {share} |")
    lines += [
        "",
        "| the decoder is told | loss | right colours | right objects |",
        "| --- | ---: | ---: | ---: |",
    ]
    for told in found["decoder"]:
        shares = []
        for name in ("colours", "objects"):
            around = wilson(told[name], count)
            shares.append(f"{told[name] / count:.0%} ({around.low:.0%} to {around.high:.0%})")
        lines.append(f"| {told['way']} | {told['loss']:.4f} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str], say: Callable[[str], None] = print) -> None:
    """Measure a model and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedding_use", description=__doc__)
    parser.add_argument("model", help="the image model: a run folder or a model folder")
    parser.add_argument("--pictures", type=int, default=64, help="held-out pictures")
    parser.add_argument("--precision", default="auto", help="of the decoder")
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    told = parser.parse_args(arguments)
    if told.pictures < 2:
        raise InputError(f"expected at least 2 pictures, to tell one's own from another's, got {told.pictures}")
    found = measure(VideoModel.load(find_model(told.model), device="cpu", precision=told.precision), told.pictures)
    say(markdown(found))
    if told.out is not None:
        write_text(told.out, json.dumps(found | {"model": told.model}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"embedding_use: {error}")
