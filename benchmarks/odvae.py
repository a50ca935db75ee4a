"""OD-VAE's encode and decode against a plain float32 run of the same weights, and the memory of its stream."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Aim, Entrant, Result, compared, faster, race
from kinolab.autoencoders import OdVae, OdVaeConfig
from kinolab.runtime.precision import autocast

PLAIN, AUTO = "plain float32", "Kinolab, auto"
"""The entrants; plain = the module called as it is, without the precision policy."""
CONFIG = OdVaeConfig(hidden_size=64)
"""Half the paper's width, a quarter of its work: the paper's size would take minutes a turn on two cores."""


def build(config: OdVaeConfig) -> OdVae:
    """An OD-VAE of random weights."""
    torch.manual_seed(0)
    return OdVae(config).eval()


def coding(
    name: str, config: OdVaeConfig, shape: tuple[int, int, int], repeats: int, say: Callable[[str], None]
) -> Result:
    """Encode (name "encode") or decode ("decode") of a clip of `shape` = (frames, height, width)."""
    model, spec = build(config), build(config).spec
    generator = torch.Generator().manual_seed(1)
    if name == "encode":
        given = torch.rand(1, 3, *shape, generator=generator) * 2 - 1
    else:
        given = torch.randn(1, *spec.latent_shape(*shape), generator=generator)

    @torch.no_grad()
    def plain() -> Tensor:
        return model.encode(given).mean if name == "encode" else model.decode(given)

    def ours() -> Tensor:
        with autocast("auto"):
            return plain()

    entrants = [Entrant(PLAIN, plain), Entrant(AUTO, ours)]
    timings = race(entrants, repeats, say)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    setup = f"hidden_size {config.hidden_size} ({millions:.0f} M parameters), {' x '.join(map(str, shape))} pixels"
    title = f"OD-VAE, {name}"
    return compared(f"odvae_{name}", title, setup, timings, [faster(timings, AUTO, 2.0)])


def memory(config: OdVaeConfig, side: int, say: Callable[[str], None], frames: tuple[int, int] = (17, 257)) -> Result:
    """Peak memory of decoding a short and a long stream, each in a process of its own."""
    peaks = []
    for count in frames:
        say(f"  {count} frames")
        argument = json.dumps({"config": config.model_dump(mode="json"), "frames": count, "side": side})
        command = [sys.executable, "-m", "benchmarks.odvae", argument, str(torch.get_num_threads())]
        root = Path(__file__).parent.parent
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        peaks.append(json.loads(done.stdout.splitlines()[-1]))
    short, long = peaks
    ratio = long["peak"] / short["peak"]
    rows = [
        [f"{count} frames", f"{p['peak']:.0f} MB", f"{p['decoding']:.0f} MB", f"{p['peak'] / short['peak']:.3f}"]
        for count, p in zip(frames, peaks, strict=True)
    ]
    aim = Aim(f"peak of {frames[1]} frames within 10% of that of {frames[0]}", ratio, ratio <= 1.1)
    setup = f"hidden_size {config.hidden_size}, {side} x {side} pixels, two latents at a time, a fresh process each"
    columns = ["", "peak of the process", "of it for decoding", "times the first"]
    details = {"frames": list(frames), "peaks": peaks}
    return Result("odvae_memory", "OD-VAE, memory of a stream decode", setup, columns, rows, [aim], details)


def decode_stream_alone(argument: str) -> dict[str, float]:
    """What the fresh process does: decode a stream; gives the peak, and what decoding added to it, in MB."""
    given = json.loads(argument)
    model = build(OdVaeConfig.model_validate(given["config"]))
    shape = model.spec.latent_shape(given["frames"], given["side"], given["side"])
    chunks = (torch.randn(1, shape[0], min(2, shape[1] - k), *shape[2:]) for k in range(0, shape[1], 2))
    with torch.no_grad(), autocast("auto"):
        before = peak_memory()
        frames = sum(video.shape[2] for video in model.decode_stream(chunks))
    assert frames == given["frames"]
    peak = peak_memory()
    return {"peak": peak, "decoding": peak - before}


def peak_memory() -> float:
    """The most memory that this process ever held, in MB.

    Linux counts it from the start of the program; what `getrusage` gives there begins with that of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e6 if sys.platform == "darwin" else used * 1024 / 1e6


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps(decode_stream_alone(sys.argv[1])))
