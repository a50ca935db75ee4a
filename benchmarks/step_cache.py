"""Sampling with and without the step cache, and with as many fewer steps, each with its drift beside it.

The drift is that of the decoded clip from the one that all steps make in full. Fewer steps of the same sampler are the
plain way to be as fast; the cache is worth having where it drifts less for the same time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import Entrant, Result, compared, faster, race
from benchmarks.toy_clip import toy_model
from kinolab.diffusion import SamplerConfig
from kinolab.methods import StepCache, StepCacheConfig
from kinolab.metrics.reconstruction import psnr
from kinolab.models import Request, VideoModel

PROMPTS = (
    "a red ball falls to the floor",
    "a blue box and a yellow ball float to the right",
    "a green ball rolls down a ramp to the left",
    "someone throws a purple box to the right",
)
ALL = "all steps in full"
CACHES = {
    "cache 0.05": StepCacheConfig(threshold=0.05),
    "cache 0.1": StepCacheConfig(threshold=0.1),
    "cache 0.2": StepCacheConfig(threshold=0.2),
    "blocks every 2nd step": StepCacheConfig(method="interval", every=2),
    "guidance every 2nd step": StepCacheConfig(threshold=0.0, guidance_every=2),
}


def sampling(
    repeats: int, say: Callable[[str], None], steps: int | None = None, loaded: tuple[VideoModel, str] | None = None
) -> Result:
    """Clips of the toy world's model with each cache, from the same noise; sampling only, in auto precision."""
    model, which = loaded if loaded is not None else toy_model()
    config, worded = model.config, model.text_encoder is not None
    requests = [Request(prompt if worded else None, seed=k) for k, prompt in enumerate(PROMPTS)]
    own = config.sampler.model_copy(update={"steps": steps or config.sampler.steps})
    used: dict[str, StepCache] = {}

    def entrant(name: str, sampler: SamplerConfig, cache: StepCacheConfig | None = None) -> Entrant:
        def run(steps: int = sampler.steps) -> Tensor:
            chosen = sampler.model_copy(update={"steps": steps})
            state = None
            if cache is not None:
                state = used[name] = StepCache(cache)
            return model.sample_latents(requests, sampler=chosen, cache=state)

        return Entrant(name, run, lambda: run(1))

    entrants = [entrant(ALL, own), *(entrant(name, own, cache) for name, cache in CACHES.items())]
    entrants += [
        entrant(f"{count} steps", own.model_copy(update={"steps": count}))
        for count in dict.fromkeys(max(1, own.steps // part) for part in (2, 3))
    ]
    timings = race(entrants, repeats, say)
    frames = f"{config.frames} frames of {config.size[1]} x {config.size[0]}"
    setup = (
        f"{which}: {len(requests)} clips of {frames}, {own.steps} steps of {own.name}, guidance "
        f"{config.guidance.scale:g}; PSNR of decoded clips, mean and worst"
    )
    aims = [faster(timings, "cache 0.1", 1.5)]
    result = compared("step_cache", "Reuse of features between sampling steps", setup, timings, aims)
    with torch.no_grad():
        clips = [model.decode(e.run()) for e in entrants]
    result.columns[3:] = ["PSNR", "worst", "reused"]
    for row, clip in zip(result.rows, clips, strict=True):
        by_clip, cache = psnr(clips[0], clip).mean(1), used.get(row[0])
        calls = 0 if cache is None else cache.hits + cache.misses
        drift = ["", ""] if row[0] == ALL else [f"{float(by_clip.mean()):.1f} dB", f"{float(by_clip.min()):.1f} dB"]
        row[3:] = [*drift, f"{cache.hits / calls:.0%}" if cache is not None and calls else ""]
        result.details[row[0]] |= {"psnr": by_clip.tolist()}
    return result
