"""Stable Diffusion's U-Net against the same model in diffusers: time, memory, and how far apart the outputs lie."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Aim, Entrant, Result, compared, diffusers_class, faster, forward_of, race
from benchmarks.odvae import peak_memory
from kinolab.checkpoints import load
from kinolab.denoisers import Conditions, Unet

THEIRS, FLOAT32, AUTO = "diffusers, float32", "Kinolab, float32", "Kinolab, auto"
"""The entrants."""


@dataclass(frozen=True)
class Case:
    """A size to compare at; the default has half of Stable Diffusion 1.5's widths, on the latents of 512 px."""

    widths: tuple[int, ...] = (160, 320, 640, 640)
    layers: int = 2
    side: int = 64
    batch: int = 1
    text_dim: int = 768
    tokens: int = 77


def inputs_of(case: Case) -> tuple[Tensor, Tensor, Conditions]:
    """Noisy latents of single images, times and prompts: the same ones for every entrant."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(case.batch, 4, 1, case.side, case.side, generator=generator)
    text = torch.randn(case.batch, case.tokens, case.text_dim, generator=generator)
    return z, torch.full((case.batch,), 500.0), Conditions(text=text)


def diffusers_unet(case: Case) -> Any:
    """diffusers' UNet2DConditionModel with random weights."""
    build = diffusers_class("UNet2DConditionModel")
    torch.manual_seed(0)
    levels = len(case.widths) - 1
    return build(
        sample_size=case.side,
        block_out_channels=case.widths,
        layers_per_block=case.layers,
        down_block_types=("CrossAttnDownBlock2D",) * levels + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * levels,
        cross_attention_dim=case.text_dim,
        attention_head_dim=8,
    ).eval()


def theirs_of(model: Any, inputs: tuple[Tensor, Tensor, Conditions]) -> Callable[[], Tensor]:
    """One forward of diffusers' class."""

    def run() -> Tensor:
        z, t, told = inputs
        with torch.no_grad():
            return model(z[:, :, 0], t, told.text, return_dict=False)[0][:, :, None]

    return run


def forward(case: Case, repeats: int, say: Callable[[str], None]) -> Result:
    """One forward of an image, diffusers' weights in both."""
    theirs, inputs = diffusers_unet(case), inputs_of(case)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours: Unet = load(Path(folder))
    entrants = [
        Entrant(THEIRS, theirs_of(theirs, inputs)),
        Entrant(FLOAT32, forward_of(ours, "float32", *inputs)),
        Entrant(AUTO, forward_of(ours, "auto", *inputs)),
    ]
    timings = race(entrants, repeats, say)
    error = next(t for t in timings if t.name == FLOAT32).error
    near = Aim(f"{FLOAT32}: relative error below 1e-4", error, error < 1e-4)
    aims = [faster(timings, FLOAT32, 1.3), near]
    title = "Stable Diffusion's U-Net, one forward of an image, against diffusers"
    return compared("unet_forward", title, describe(case), timings, aims)


def memory(case: Case, say: Callable[[str], None]) -> Result:
    """What one forward adds to the memory of a process that holds the weights, each in a process of its own."""
    found = {}
    for who in (THEIRS, FLOAT32):
        say(f"  {who}")
        argument = json.dumps({"case": asdict(case), "who": who})
        command = [sys.executable, "-m", "benchmarks.unet", argument, str(torch.get_num_threads())]
        root = Path(__file__).parent.parent
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        found[who] = json.loads(done.stdout.splitlines()[-1])
    ratio = found[FLOAT32]["forward"] / found[THEIRS]["forward"]
    rows = [
        [who, f"{p['peak']:.0f} MB", f"{p['forward']:.0f} MB", f"{p['forward'] / found[THEIRS]['forward']:.2f}"]
        for who, p in found.items()
    ]
    aim = Aim(f"{FLOAT32}: a forward takes at most {THEIRS}'s memory", ratio, ratio <= 1.0)
    columns = ["", "peak of the process", "of it for the forward", "times the first"]
    title = "Stable Diffusion's U-Net, memory of one forward, against diffusers"
    return Result("unet_memory", title, describe(case), columns, rows, [aim], {"peaks": found})


def forward_alone(argument: str) -> dict[str, float]:
    """What the fresh process does: one forward; gives the peak, and what the forward added to it, in MB."""
    given = json.loads(argument)
    case = Case(**{**given["case"], "widths": tuple(given["case"]["widths"])})
    small = inputs_of(Case(**{**given["case"], "widths": case.widths, "side": 8}))
    theirs = diffusers_unet(case)
    if given["who"] == THEIRS:
        first, run = theirs_of(theirs, small), theirs_of(theirs, inputs_of(case))
    else:
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            ours: Unet = load(Path(folder))
        del theirs
        first, run = forward_of(ours, "float32", *small), forward_of(ours, "float32", *inputs_of(case))
    first()  # what libraries keep from their first use on
    before = held_memory()
    run()
    peak = peak_memory()
    return {"peak": peak, "forward": peak - before}


def held_memory() -> float:
    """Memory that this process holds now, in MB; the peak so far where the system doesn't tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from now on
    lines = status.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6


def describe(case: Case) -> str:
    """The case in words."""
    return (
        f"widths {', '.join(map(str, case.widths))}, {case.layers} layers each, 8 heads; latents {case.side} x "
        f"{case.side}, batch {case.batch}, prompts of {case.tokens} tokens of width {case.text_dim}"
    )


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps(forward_alone(sys.argv[1])))
