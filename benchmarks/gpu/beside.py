"""Part 3: forward passes, sampling and autoencoders beside diffusers, with the same random weights in both.

All entrants run in turns in one process; the first one's output is what the others are held against. Where diffusers
is not there, Kinolab's precisions are compared among themselves, and the record says why.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import latte, mmdit
from benchmarks.gpu.cases import fresh, moved, seeded
from benchmarks.gpu.running import FAILED, Item, Place, Record, number
from benchmarks.measure import Entrant, diffusers_class, race
from kinolab.autoencoders import ImageAutoencoder, ImageConfig, OdVae, OdVaeConfig
from kinolab.checkpoints import load
from kinolab.denoisers import Conditions, Latte, LatteConfig, Mmdit, MmditConfig
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.runtime.compiling import compile_for_inference
from kinolab.runtime.precision import PrecisionPolicy, autocast

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32
COMPILED = "Kinolab, bfloat16, compiled"


@dataclass(frozen=True)
class Match:
    """The same weights in both, and what is run.

    theirs: diffusers' module, none = it is not there; run_theirs takes it, the inputs and the dtype they are in; run
    takes ours and the inputs. All in float32 on the CPU; `missing` says why there is no `theirs`.
    """

    ours: nn.Module
    inputs: tuple[Any, ...]
    run: Callable[..., Tensor]
    theirs: nn.Module | None = None
    run_theirs: Callable[..., Tensor] | None = None
    missing: str = ""


def entrants_of(match: Match, place: Place) -> list[Entrant]:
    """diffusers in both precisions, then Kinolab in both, then compiled."""
    device, inputs = place.device, moved(match.inputs, place.device)
    found = []
    if match.theirs is not None and match.run_theirs is not None:
        run_theirs = match.run_theirs
        for dtype in (FLOAT32, BFLOAT16):
            module = copy.deepcopy(match.theirs).to(device, dtype)
            given = _cast(inputs, dtype)
            name = f"diffusers, {str(dtype).removeprefix('torch.')}"
            found.append(Entrant(name, torch.no_grad()(lambda m=module, i=given, d=dtype: run_theirs(m, d, *i))))
    ours = match.ours.to(device).eval()
    policies: tuple[PrecisionPolicy, ...] = ("float32", "bfloat16")
    for policy in policies:
        found.append(Entrant(f"Kinolab, {policy}", _ours(match, ours, inputs, policy, device)))
    return found


def compiled_entrants(match: Match, place: Place) -> list[Entrant]:
    """Kinolab in both precisions, then compiled: a denoiser whole, an autoencoder's encoder and decoder each."""
    found = entrants_of(replace(match, theirs=None), place)
    module = copy.deepcopy(match.ours)
    for part in ("encoder", "decoder") if hasattr(module, "decoder") else ("",):
        compile_for_inference(module.get_submodule(part) if part else module, BFLOAT16, place.device)
    inputs = moved(match.inputs, place.device)
    return [*found, Entrant(COMPILED, _ours(match, module, inputs, "bfloat16", place.device))]


def _ours(
    match: Match, module: nn.Module, inputs: tuple[Any, ...], policy: PrecisionPolicy, device: torch.device
) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad(), autocast(policy, device):
            return match.run(module, *inputs)

    return run


def _cast(inputs: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    return tuple(v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for v in inputs)


MakeEntrants = Callable[[Match, Place], list[Entrant]]


def compare(make: Callable[[], Match], place: Place, make_entrants: MakeEntrants = entrants_of) -> Record:
    """Times of all entrants in turns, as medians, and how far their outputs lie from the first one's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of diffusers and of what is not compiled; the record has the rest
        match = make()
        entrants = make_entrants(match, place)
        cuda = place.device.type == "cuda"
        timings = race(entrants, 2 if place.small else 7, wait=place.wait)
        peaks = {}
        for entrant in entrants if cuda else []:
            torch.cuda.reset_peak_memory_stats(place.device)
            entrant.run()
            place.wait()
            peaks[entrant.name] = torch.cuda.max_memory_allocated(place.device) / 1e9
    first = timings[0]
    rows = {
        t.name: {
            "median": t.median, "faster": first.median / t.median, "relative": t.error, "largest": t.largest,
            "ready_after": t.warming, "peak_gb": peaks.get(t.name),
        }
        for t in timings
    }  # fmt: skip
    shapes = [list(v.shape) for v in match.inputs if isinstance(v, Tensor)]
    return {"entrants": rows, "inputs": shapes, **({"skipped": match.missing} if match.missing else {})}


def theirs_and_ours(build: Callable[[], Any], ours: Callable[[], nn.Module]) -> tuple[Any, Any, str]:
    """diffusers' module of random weights and ours with the same; or none, ours of its own weights, and why."""
    try:
        theirs = build()
    except Exception as error:  # whatever keeps an optional library from working
        return None, fresh(ours)(), f"diffusers can't be used here: {str(error).splitlines()[0]}"[:300]
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return theirs, load(Path(folder)), ""


def _latte(case: latte.Case, batch: int, steps: int = 0) -> Match:
    """A forward pass of Latte with text, or (with steps) DDIM."""
    fields = {"hidden_size": case.width, "depth": case.depth, "num_heads": case.heads, "text_dim": case.text_dim}
    config = LatteConfig(input_size=case.side, num_frames=case.frames, adaln="single", **fields)
    theirs, ours, missing = theirs_and_ours(lambda: latte.diffusers_latte(case), lambda: Latte(config))
    z = seeded(1, batch, *case.shape[1:])
    text = seeded(2, batch, case.tokens, case.text_dim)
    diffusion = Diffusion(DiffusionConfig(schedule="linear", prediction="noise"))

    def run(module: Any, z: Tensor, text: Tensor) -> Tensor:
        told = Conditions(text=text)
        if not steps:
            return module(z, torch.full((len(z),), 500.0, device=z.device), told)
        sampler = SamplerConfig(name="ddim", steps=steps, spacing="trailing")
        return diffusion.sample(module, z, told, sampler=sampler)

    def run_theirs(module: Any, dtype: torch.dtype, z: Tensor, text: Tensor) -> Tensor:
        if steps:
            return latte.ddim(lambda z, t: module(z.to(dtype), t, text, return_dict=False)[0], z.float(), steps)
        t = torch.full((len(z),), 500, device=z.device)
        return module(z, t, encoder_hidden_states=text, return_dict=False)[0]

    return Match(ours, (z, text), run, theirs, run_theirs, missing)


def _mmdit(case: mmdit.Case, batch: int) -> Match:
    config = MmditConfig(
        hidden_size=case.width, depth=case.depth, num_heads=case.heads, in_channels=16, input_size=case.side,
        num_frames=1, attention="2d", temporal_position="none", qk_norm=True, text_dim=case.text_dim,
        pooled_dim=case.pooled_dim,
    )  # fmt: skip
    theirs, ours, missing = theirs_and_ours(lambda: mmdit.diffusers_mmdit(case), lambda: Mmdit(config))
    inputs = (seeded(1, batch, *case.shape[1:]), seeded(2, batch, case.tokens, case.text_dim),
              seeded(3, batch, case.pooled_dim))  # fmt: skip

    def run(module: Any, z: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        return module(z, torch.full((len(z),), 500.0, device=z.device), Conditions(text=text, pooled=pooled))

    def run_theirs(module: Any, dtype: torch.dtype, z: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        t = torch.full((len(z),), 500.0, device=z.device)
        return module(z[:, :, 0], text, pooled, t, return_dict=False)[0][:, :, None]

    return Match(ours, inputs, run, theirs, run_theirs, missing)


def _image(widths: tuple[int, ...], what: str, side: int, batch: int) -> Match:
    """Encode or decode of Stable Diffusion's autoencoder on `batch` frames."""
    config = ImageConfig(block_out_channels=widths, norm_num_groups=min(32, widths[0]))

    def build() -> Any:
        made = diffusers_class("AutoencoderKL")
        torch.manual_seed(0)
        kinds: Any = {"down_block_types": ("DownEncoderBlock2D",) * len(widths),
                      "up_block_types": ("UpDecoderBlock2D",) * len(widths)}  # fmt: skip
        groups = config.norm_num_groups
        return made(
            block_out_channels=widths, layers_per_block=2, latent_channels=4, norm_num_groups=groups, **kinds
        ).eval()

    theirs, ours, missing = theirs_and_ours(build, lambda: ImageAutoencoder(config))
    ratio = 2 ** (len(widths) - 1)
    given = seeded(1, 1, 3, batch, side, side).clamp(-1, 1)
    if what == "decode":
        given = seeded(1, 1, 4, batch, side // ratio, side // ratio)

    def run(module: Any, given: Tensor) -> Tensor:
        return module.encode(given).mean if what == "encode" else module.decode(given)

    def run_theirs(module: Any, dtype: torch.dtype, given: Tensor) -> Tensor:
        frames = given[0].transpose(0, 1)
        # Ours normalises its latents by its scale, which theirs leaves to the pipeline.
        scale = module.config.scaling_factor
        found = (
            module.encode(frames).latent_dist.mean * scale if what == "encode" else module.decode(frames / scale).sample
        )
        return found.transpose(0, 1)[None]

    return Match(ours, (given,), run, theirs, run_theirs, missing)


def _odvae(config: OdVaeConfig, what: str, shape: tuple[int, int, int]) -> Match:
    """Encode or decode of OD-VAE, which diffusers has not."""
    torch.manual_seed(0)
    model = OdVae(config).eval()
    given = seeded(1, 1, 3, *shape).clamp(-1, 1) if what == "encode" else seeded(1, 1, *model.spec.latent_shape(*shape))

    def run(module: Any, given: Tensor) -> Tensor:
        return module.encode(given).mean if what == "encode" else module.decode(given)

    return Match(model, (given,), run, missing="diffusers has no OD-VAE")


def items(place: Place) -> Iterator[Item]:
    """The comparisons, at sizes for a card or small ones."""
    if place.small:
        case = latte.Case(width=24, heads=2, depth=2, frames=3, side=8, text_dim=8, tokens=4)
        picture = mmdit.Case(width=24, heads=2, depth=2, side=8, text_dim=10, pooled_dim=7, tokens=4)
        batch, steps, side, frames = 1, 4, 16, 2
        widths: tuple[int, ...] = (8, 16)
        odvae, clip = OdVaeConfig(hidden_size=8, hidden_size_mult=(1, 1), num_res_blocks=1, norm_num_groups=4,
                                  temporal_ratio=2), (5, 16, 16)  # fmt: skip
    else:
        case = latte.Case(width=768, heads=12, depth=12)
        picture = mmdit.Case(width=1536, heads=24, depth=8, text_dim=4096, pooled_dim=2048)  # a third of SD3 medium
        batch, steps, side, frames = 4, 50, 256, 8
        widths = (128, 256, 512, 512)
        odvae, clip = OdVaeConfig(), (25, 256, 256)
    matches: dict[str, Callable[[], Match]] = {
        "Latte, one forward": lambda: _latte(case, batch),
        f"Latte, {steps} steps of DDIM": lambda: _latte(case, 1, steps),
        "MMDiT, one forward of images": lambda: _mmdit(picture, batch),
        "AutoencoderKL, encode": lambda: _image(widths, "encode", side, frames),
        "AutoencoderKL, decode": lambda: _image(widths, "decode", side, frames),
        "OD-VAE, encode": lambda: _odvae(odvae, "encode", clip),
        "OD-VAE, decode": lambda: _odvae(odvae, "decode", clip),
    }
    for name, make in matches.items():
        yield name, lambda make=make: compare(make, place)  # type: ignore[misc]
    if place.device.type == "cuda":  # last, as compilation takes its time
        for name in ("Latte, one forward", "MMDiT, one forward of images", "OD-VAE, decode"):
            make = matches[name]
            yield f"{name}, compiled", lambda make=make: compare(make, place, compiled_entrants)  # type: ignore[misc]


def table(records: dict[str, Record]) -> tuple[list[str], list[list[str]]]:
    """Ratios to the first entrant of each comparison, with the differences of the outputs."""
    rows = []
    for name, record in records.items():
        if FAILED in record:
            rows.append([name, record[FAILED], *[""] * 5])
            continue
        for k, (entrant, row) in enumerate(record["entrants"].items()):
            peak = row["peak_gb"]
            rows.append([
                "" if k else name, entrant, f"{row['median'] * 1e3:.4g} ms", f"{row['faster']:.2f} x",
                "" if not k else number(row["relative"]), "" if not k else number(row["largest"]),
                f"{peak:.2f} GB" if peak else "",
            ])  # fmt: skip
        if "skipped" in record:
            rows.append(["", record["skipped"], *[""] * 5])
    return ["", "entrant", "median", "faster", "rel. error", "largest diff.", "peak memory"], rows
