"""Stable Video Diffusion beside diffusers' classes, and the memory of its decoder, which takes a clip in chunks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Aim, Entrant, Result, closer, compared, diffusers_class, faster, race
from benchmarks.odvae import peak_memory
from kinolab.autoencoders import TemporalDecoderAutoencoder, TemporalDecoderConfig
from kinolab.checkpoints.base import public_tensors
from kinolab.checkpoints.formats import find_format
from kinolab.contracts.conditions import Conditions, Value
from kinolab.denoisers import Svd, SvdConfig
from kinolab.denoisers.svd import IMAGE, IMAGE_TOKENS


@dataclass(frozen=True)
class Case:
    """The public U-Net, narrower: both branches of guidance at once, as in sampling."""

    widths: tuple[int, ...] = (64, 128, 256, 256)
    frames: int = 14
    size: tuple[int, int] = (18, 32)
    rows: int = 2


NUMBERS = (6.0, 127.0, 0.02)
"""Frames per second less one, motion bucket, noise augmentation."""


def networks(case: Case) -> tuple[Svd, Any]:
    """Ours and diffusers', with the same random weights."""
    cls = diffusers_class("UNetSpatioTemporalConditionModel")
    torch.manual_seed(0)
    attending = tuple(range(len(case.widths) - 1))  # as in the public model: all but the coarsest
    fields: dict[str, Any] = {"block_out_channels": case.widths, "attention_levels": attending}
    ours = Svd(SvdConfig(**fields, text_dim=256, input_size=case.size)).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    heads = tuple(width // 64 for width in case.widths)
    cross = [*["CrossAttn"] * len(attending), ""]
    theirs = cls(
        block_out_channels=case.widths, num_attention_heads=heads, cross_attention_dim=256,
        down_block_types=[f"{kind}DownBlockSpatioTemporal" for kind in cross],
        up_block_types=[f"{kind}UpBlockSpatioTemporal" for kind in reversed(cross)],
    ).eval()  # fmt: skip
    tensors = public_tensors(find_format("svd_diffusers"), ours)
    theirs.load_state_dict({name: tensors[name] for name in theirs.state_dict()})
    return ours, theirs


def calls(case: Case, ours: Svd, theirs: Any) -> dict[str, Callable[[], Tensor]]:
    """One forward of each, in the same layout of axes."""
    z, beside = (torch.randn(case.rows, 4, case.frames, *case.size) for _ in range(2))
    token, t = torch.randn(case.rows, 1, 256), torch.full((case.rows,), 0.5)
    ids = torch.tensor([NUMBERS] * case.rows)
    told = {IMAGE: Value("field", beside), IMAGE_TOKENS: Value("tokens", token), "fps": Value("vector", ids[:, 0] + 1)}
    told |= {name: Value("vector", ids[:, k]) for k, name in ((1, "motion_bucket"), (2, "noise_augmentation"))}
    sample = torch.cat([z, beside], 1).transpose(1, 2).contiguous()
    return {
        "diffusers": lambda: theirs(sample, t, token, ids).sample.transpose(1, 2),
        "Kinolab": lambda: ours(z, t, Conditions.of(told)),
    }


def forward(case: Case, repeats: int, say: Callable[[str], None]) -> Result:
    """One forward of the U-Net by both, float32."""
    runs = calls(case, *networks(case))
    with torch.no_grad():
        timings = race([Entrant(name, run) for name, run in runs.items()], repeats, say)
    setup = f"{case.rows} x {case.frames} latents of {case.size[0]} x {case.size[1]}, widths {case.widths}, float32"
    aims = [faster(timings, "Kinolab", 1.3), closer(timings, "Kinolab", 1e-4)]
    return compared("svd_forward", "Stable Video Diffusion, U-Net", setup, timings, aims)


DECODER = TemporalDecoderConfig(block_out_channels=(32, 64, 128, 128), chunk_frames=8)


def decoding(config: TemporalDecoderConfig, shape: tuple[int, int, int], repeats: int, say: Any) -> Result:
    """Decoding of latents (frames, height, width) by both, in the same chunks, float32."""
    cls = diffusers_class("AutoencoderKLTemporalDecoder")
    torch.manual_seed(0)
    ours = TemporalDecoderAutoencoder(config).eval()
    levels = len(config.block_out_channels)
    theirs = cls(
        block_out_channels=config.block_out_channels, layers_per_block=config.layers_per_block,
        down_block_types=("DownEncoderBlock2D",) * levels,
    ).eval()  # fmt: skip
    theirs.load_state_dict(public_tensors(find_format("svd_autoencoder"), ours))
    frames = shape[0]
    z = torch.randn(1, 4, *shape)
    raw = (z[0] / config.latent_scale).transpose(0, 1).contiguous()

    def chunks() -> Tensor:
        parts = [theirs.decode(part, num_frames=len(part)).sample for part in raw.split(config.chunk_frames)]
        return torch.cat(parts).transpose(0, 1)[None]

    runs: dict[str, Callable[[], Tensor]] = {"diffusers": chunks, "Kinolab": lambda: ours.decode(z)}
    with torch.no_grad():
        timings = race([Entrant(name, run) for name, run in runs.items()], repeats, say)
    ratio = ours.spec.spatial_ratio
    setup = f"{frames} frames of {shape[1] * ratio} x {shape[2] * ratio} in chunks of {config.chunk_frames}, float32"
    aims = [faster(timings, "Kinolab", 1.0), closer(timings, "Kinolab", 1e-4)]
    return compared("svd_decode", "Stable Video Diffusion, decoder", setup, timings, aims)


def memory(case: Case, side: int, say: Callable[[str], None], frames: tuple[int, int] = (16, 128)) -> Result:
    """Peak memory of a forward by both, and of decoding a short and a long stream; each in a process of its own."""
    asked = [
        ("U-Net, diffusers", {"unet": "diffusers", "case": vars(case)}),
        ("U-Net, Kinolab", {"unet": "Kinolab", "case": vars(case)}),
        *((f"decoder, {count} frames", {"frames": count, "side": side}) for count in frames),
    ]
    used = []
    for name, what in asked:
        say(f"  {name}")
        command = [sys.executable, "-m", "benchmarks.svd", json.dumps(what), str(torch.get_num_threads())]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
        used.append(float(done.stdout.splitlines()[-1]))
    rows = [[name, f"{peak:.0f} MB"] for (name, _), peak in zip(asked, used, strict=True)]
    networks, streams = used[1] / used[0], used[3] / used[2]
    aims = [
        Aim("U-Net: no more memory than diffusers", networks, networks <= 1.0),
        Aim(f"decoder: {frames[1]} frames within 10% of {frames[0]}", streams, streams <= 1.1),
    ]
    setup = (
        f"what the work adds to a fresh process; decoder: {side} x {side} pixels in chunks of {DECODER.chunk_frames}"
    )
    return Result("svd_memory", "Stable Video Diffusion, memory", setup, ["", "added"], rows, aims, {"peaks": used})


@torch.no_grad()
def added(what: dict[str, Any]) -> float:
    """The memory in MB that a fresh process needs on top of the weights."""
    if "unet" in what:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in what["case"].items()}
        case = Case(**fields)
        pair = networks(case)
        run = calls(case, *pair)[what["unet"]]
        before = peak_memory()
        run()
        return peak_memory() - before
    model = TemporalDecoderAutoencoder(DECODER).eval()
    side = what["side"] // model.spec.spatial_ratio
    before = peak_memory()
    made = model.decode_stream(torch.randn(1, 4, 1, side, side) for _ in range(what["frames"]))
    assert sum(video.shape[2] for video in made) == what["frames"]
    return peak_memory() - before


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    print(added(json.loads(sys.argv[1])))
