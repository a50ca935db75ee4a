"""CausalVAEModel of Open-Sora-Plan 1.1 and 1.2 (OD-VAE's published weights): a file, or a folder with config.json.

Which convolutions are 2D, where time is halved, and all widths follow from the shapes. What does not is assumed as in
the class's defaults, unless config.json says otherwise: its attention, and (in 1.1) the temporal ratio. The latents
are the raw ones, as the reference stores them: scale 1 and shift 0, unless `latent_scale` and `latent_shift` are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinolab.autoencoders.odvae import OdVae, OdVaeConfig
from kinolab.checkpoints.base import Format, Guess, Shapes, count
from kinolab.errors import InputError

ATTENTIONS = {"AttnBlock3D": "scrambled", "AttnBlock3DFix": "frame"}
"""Class in config.json -> mid_attention."""
PUBLIC: dict[str, Any] = {"norm": "clip", "upsampling": "trilinear"}
"""What the public class has no choice of."""


class CausalVaeFormat(Format):
    """The names are the module's own; a 2D convolution may stand for a 3D one with a kernel of one frame."""

    name = "causal_vae"
    title = "CausalVAEModel of Open-Sora-Plan (OD-VAE)"
    module_class = OdVae
    config_class = OdVaeConfig
    ignored = ("loss.",)

    def matches(self, shapes: Shapes) -> bool:
        return (
            len(shapes.get("encoder.conv_out.conv.weight", ())) == 5 and "encoder.down.0.block.0.norm1.weight" in shapes
        )

    def guess(self, shapes: Shapes, settings: Mapping[str, Any]) -> Guess:
        levels = count(shapes, "encoder.down.")
        widths = [_kernel(shapes, f"encoder.down.{i}.block.0.conv1")[0] for i in range(levels)]
        guess = Guess()
        guess.values = {
            "hidden_size": widths[0],
            "hidden_size_mult": [width // widths[0] for width in widths],
            "num_res_blocks": count(shapes, "encoder.down.0.block."),
            "latent_channels": shapes["encoder.conv_out.conv.weight"][0] // 2,
            "channels": _kernel(shapes, "encoder.conv_in")[1],
            "variant": _variant(shapes),
            "norm_num_groups": 32,
            "use_quant_conv": "quant_conv.conv.weight" in shapes,
            "use_post_quant_conv": "post_quant_conv.conv.weight" in shapes,
            **PUBLIC,
        }
        self._guess_time(guess, shapes, levels, settings)
        self._guess_attention(guess, shapes, settings)
        return guess

    def _guess_time(self, guess: Guess, shapes: Shapes, levels: int, settings: Mapping[str, Any]) -> None:
        """Where time is halved: by the convolutions with a kernel of three frames, by layers of their own, or by layers
        without weights."""
        kernels = [_kernel(shapes, f"encoder.down.{i}.downsample.conv") for i in range(levels - 1)]
        halves = [len(kernel) == 5 and kernel[2] > 1 for kernel in kernels]
        residual = [f"encoder.down.{i}.time_downsample.mix_factor" in shapes for i in range(levels - 1)]
        guess.values["resampling"] = "residual" if any(residual) else "merged" if any(halves) else "separate"
        halves = residual if any(residual) else halves
        if not any(halves):
            named = [bool(layer) for layer in settings.get("encoder_temporal_downsample", ())][: levels - 1]
            halves = named or [i >= levels - 3 for i in range(levels - 1)]
            if not named:
                guess.assumed["temporal_ratio"] = f"{2 ** sum(halves)}, as the class has it; no layer with weights says"
        guess.values["temporal_ratio"] = 2 ** sum(halves)
        if sum(halves) and halves[0] and not halves[-1]:
            guess.values["time_steps"] = "early"

    def _guess_attention(self, guess: Guess, shapes: Shapes, settings: Mapping[str, Any]) -> None:
        named = settings.get("encoder_attention", "")
        if not any(name.startswith("encoder.mid.attn_1.") for name in shapes):
            guess.values["mid_attention"] = "none"
        elif named in ATTENTIONS:
            guess.values["mid_attention"] = ATTENTIONS[named]
        elif named:
            raise InputError(
                f"config.json: encoder_attention {named!r} is not supported; known: {', '.join(ATTENTIONS)}"
            )
        else:
            guess.values["mid_attention"] = "scrambled"
            guess.assumed["mid_attention"] = "scrambled (AttnBlock3D); weights trained with AttnBlock3DFix need frame"

    def file_names(self, name: str, config: OdVaeConfig) -> tuple[str, ...]:
        layer, conv, last = name.rpartition(".conv.")
        return (name, f"{layer}.{last}") if conv else (name,)

    def check_writable(self, module: OdVae) -> None:
        """Raises InputError where the public class would compute something else with these weights."""
        differing = [f"{k}={getattr(module.config, k)}" for k, v in PUBLIC.items() if getattr(module.config, k) != v]
        if differing:
            raise InputError(
                f"the public CausalVAEModel computes with {PUBLIC}; with the weights of this model "
                f"({', '.join(differing)}) it would give other videos"
            )


def _kernel(shapes: Shapes, layer: str) -> tuple[int, ...]:
    """Shape of the weights of a convolution, 2D or 3D; zeros where there is none."""
    return tuple(shapes.get(f"{layer}.conv.weight", shapes.get(f"{layer}.weight", (0, 0))))


def _variant(shapes: Shapes) -> str:
    """Which of the paper's four variants: by the dimensions of three convolutions."""
    first, second, decoder = (
        len(_kernel(shapes, layer)) == 4
        for layer in ("encoder.down.0.block.0.conv1", "encoder.down.0.block.0.conv2", "decoder.up.0.block.0.conv1")
    )
    if first:
        return "outer2d" if decoder else "encoder_outer2d"
    return "half2d" if second else "all3d"
