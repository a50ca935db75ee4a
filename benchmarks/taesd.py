"""TAESD: beside diffusers' AutoencoderTiny, and `python -m benchmarks taesd_clips ENCODER DECODER CLIPS...`.

The latter measures released weights on the first frames of clips, brought to 256 x 256 by averaging areas (the aspect
is not kept): one PSNR over all pixels of a clip.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Entrant, Result, closer, compared, diffusers_class, faster, race
from kinolab import video
from kinolab.autoencoders import Taesd, TaesdConfig
from kinolab.checkpoints import load

FRAMES, SIDE = 4, 256


def coding(what: str, config: TaesdConfig, shape: tuple[int, int, int], repeats: int, say: Any) -> Result:
    """Encoding or decoding of a clip (frames, height, width) by both, with the same random weights, float32."""
    tiny = diffusers_class("AutoencoderTiny")
    torch.manual_seed(0)
    ours: Any = Taesd(config).eval()
    levels = len(config.encoder_blocks)
    theirs = tiny(
        latent_channels=config.latent_channels, encoder_block_out_channels=(config.width,) * levels,
        decoder_block_out_channels=config.decoder_widths, num_encoder_blocks=config.encoder_blocks,
        num_decoder_blocks=config.decoder_blocks,
    ).eval()  # fmt: skip
    theirs.load_state_dict(_their_names(ours))
    frames, height, width = shape
    clip = torch.rand(1, 3, frames, height, width) * 2 - 1
    images = clip[0].transpose(0, 1).contiguous()
    with torch.no_grad():
        latents = ours.encode(clip).mean
    grids = latents[0].transpose(0, 1).contiguous()
    encodes = what == "encode"
    runs: dict[str, Callable[[], Tensor]] = {
        "diffusers": lambda: theirs.encode(images).latents if encodes else theirs.decode(grids).sample,
        "Kinolab": lambda: (ours.encode(clip).mean if encodes else ours.decode(latents))[0].transpose(0, 1),
    }
    with torch.no_grad():
        timings = race([Entrant(name, run) for name, run in runs.items()], repeats, say)
    setup = f"{frames} frames of {height} x {width}, {config.latent_channels} channels, float32"
    aims = [faster(timings, "Kinolab", 1.0), closer(timings, "Kinolab", 0.01)]
    return compared(f"taesd_{what}", f"TAESD, {what}", setup, timings, aims)


def _their_names(ours: Taesd) -> dict[str, Tensor]:
    from kinolab.checkpoints.base import public_tensors
    from kinolab.checkpoints.formats import find_format

    return public_tensors(find_format("taesd_diffusers"), ours)


def main(arguments: Sequence[str], say: Callable[[str], None]) -> None:
    """Print the PSNR of each clip."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks taesd_clips", description=__doc__)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("decoder", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    model = load([options.encoder, options.decoder])
    for file in options.clips:
        print(f"{file.name}  {psnr(model, first_frames(file)):.2f} dB")


def first_frames(file: Path) -> Tensor:
    """The first frames of a file, (1, 3, T, 256, 256) in [-1, 1]."""
    images = [frame.image for frame, _ in zip(video.iter_frames(file), range(FRAMES), strict=False)]
    pixels = torch.from_numpy(np.stack(images)).permute(3, 0, 1, 2).float()  # (3, T, H, W)
    return (F.interpolate(pixels, (SIDE, SIDE), mode="area") / 127.5 - 1)[None]


@torch.no_grad()
def psnr(model: Taesd, clip: Tensor) -> float:
    """PSNR in dB of what is decoded, clamped, over all pixels."""
    rebuilt = model.decode(model.encode(clip).mean).clamp(-1, 1)
    return float(-10 * torch.log10(((rebuilt - clip) / 2).square().mean()))
