"""How exactly a clip comes back from the noise that it was inverted to, where nothing is edited.

What is lost on the way there and back is what an edit can't keep. It falls with the number of steps, and with the
fixed-point iterations of each (`kinolab.methods.inversion`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinolab.contracts.events import Listener, Turn, events_of
from kinolab.errors import InputError
from kinolab.generation.request import GenerateConfig, load_asked, make_requests, settle
from kinolab.generation.source import inversion_of, read_source, source_request
from kinolab.methods import GuidanceConfig, InversionConfig
from kinolab.metrics.reconstruction import psnr
from kinolab.models import Request, VideoModel
from kinolab.models.stage import StageCodec


@dataclass(frozen=True)
class Returned:
    """What came back in so many steps each way.

    error: root mean square error of the latents as a share of their standard deviation. psnr: of the decoded pixels
    against the clip's own latents decoded, in dB, mean over frames and clips. seconds: there and back.
    """

    steps: int
    error: float
    psnr: float
    seconds: float


def returned(
    config: GenerateConfig, steps: Sequence[int], *, model: VideoModel | None = None, events: Listener = None
) -> list[Returned]:
    """There and back with each number of steps, for the source of a request, told what its source is said to show.

    Raises:
        InputError: for a request without a source, and for what `generate` refuses.
    """
    if config.source is None or config.source.way != "invert":
        raise InputError("what comes back is asked of a source whose way is invert")
    model = load_asked(config, events_of(events)) if model is None else model
    settled = settle(config, model)
    source = settled.source
    assert source is not None and settled.frames is not None and settled.size is not None and settled.fps is not None
    clip = read_source(source, settled.frames, settled.fps, settled.size)
    request = source_request(make_requests(settled)[0], source.prompt, source.label)
    inversion = source.inversion
    return there_and_back(model, clip, [request], steps, inversion, settled, events=events)


@torch.no_grad()
def there_and_back(
    model: VideoModel,
    clip: Tensor,
    requests: Sequence[Request],
    steps: Sequence[int],
    inversion: InversionConfig,
    sampling: GenerateConfig,
    *,
    events: Listener = None,
) -> list[Returned]:
    """The same of clips (B, 3, T, H, W) in [-1, 1], each with its request; by the sampler of settled settings."""
    told, found = events_of(events), list[Returned]()
    assert sampling.sampler is not None
    codec = StageCodec(model)
    clean = codec.encode(clip)
    for number, count in enumerate(steps):
        began = time.perf_counter()
        there, back = (Turn(told, 2 * number + way, 2 * len(steps)) for way in (0, 1))
        method = inversion_of(inversion, model, clip, requests, there)
        latents = model.sample_latents(
            requests,
            sampler=sampling.sampler.model_copy(update={"steps": count}),
            guidance=GuidanceConfig(),
            methods=[*sampling.wrappers, method],
            events=back,
        )
        seconds = time.perf_counter() - began
        error = float((latents - clean).double().square().mean().sqrt() / clean.double().std())
        pixels = float(psnr(model.decode(clean).cpu(), model.decode(latents).cpu()).mean())
        found.append(Returned(count, error, pixels, seconds))
    return found
