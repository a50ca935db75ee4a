"""Writes the variants of the net: models and public weights that a version stores, with their values left out.

    git worktree add --detach OLD COMMIT
    PYTHONPATH=OLD python tests/net/variants.py NET tests/net/variants.json.xz

NET is an unpacked folder of the net, of whose autoencoder most variants are made. A folder's `model.yaml` stands there
as that version writes it; of every weights file the names, types and shapes, as the values can be drawn anew from the
names alone (`benchmarks/folders.py`, `unfold`), alike on all processors. So dozens of models take kilobytes.
"""

from __future__ import annotations

import json
import lzma
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

GRID = {"in_channels": 4, "input_size": 8, "num_frames": 2, "patch_size": 4}
SMALL = {**GRID, "hidden_size": 16, "depth": 2, "num_heads": 2}
FLOW = {"schedule": "flow", "prediction": "flow", "time_sampling": "logit_normal"}
NOISE = {"schedule": "linear", "prediction": "noise", "learned_variance": True, "loss": "mse_vb"}
TEXT = {"text_encoder": "minilm"}
TASKS = {"tasks": {"unconditional": 1, "predict": 2, "past": 1, "interpolate": 1, "animate": 1, "complete": 1}}
IMAGE = {"kind": "image", "block_out_channels": [4, 4, 4], "layers_per_block": 1, "latent_channels": 4,
         "norm_num_groups": 2, "latent_shift": 0.06, "latent_scale": 0.5}  # fmt: skip
AUTOENCODERS: dict[str, dict[str, Any]] = {
    "image": IMAGE,
    "odvae": {"kind": "odvae", "hidden_size": 4, "hidden_size_mult": [1, 1, 1], "num_res_blocks": 1,
              "latent_channels": 4, "norm_num_groups": 2, "norm": "clip", "upsampling": "trilinear",
              "resampling": "separate", "mid_attention": "scrambled", "variant": "half2d"},
    "dpvae": {"kind": "dpvae", "temporal_ratio": 4, "group_frames": 5, "image": IMAGE,
              "regularisation": {"samples": 16}},
    "vqgan": {"kind": "vqgan", "ch": 4, "ch_mult": [1, 1, 2], "num_res_blocks": 1, "resolution": 32,
              "attn_resolutions": [8], "z_channels": 4, "embed_dim": 4, "n_embed": 16, "norm_num_groups": 2},
    "tats": {"kind": "tats", "n_hiddens": 4, "downsample": [2, 4, 4], "embedding_dim": 4, "n_codes": 16},
}  # fmt: skip
SD3 = {"kind": "mmdit", "hidden_size": 24, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 8,
       "num_frames": 1, "patch_size": 2, "attention": "2d", "temporal_position": "none", "pos_embed_max_size": 6,
       "text_dim": 384, "pooled_dim": 384, "null": "prompt", "pooled_norm": False, "qk_norm": True,
       "dual_attention_layers": [0]}  # fmt: skip
DENOISERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "latte-joint": ({"kind": "latte", "variant": "joint_block", "injection": "all_tokens", "num_classes": 6},
                    {"diffusion": FLOW}, "odvae"),
    "latte-late": ({"kind": "latte", "variant": "late_fusion", "temporal_position": "rotary", "qk_norm": True,
                    "adaln": "single"}, {"diffusion": FLOW}, "odvae"),
    "latte-split": ({"kind": "latte", "variant": "split_heads", "patch_embedding": "compression",
                     "temporal_patch": 2, "num_classes": 6, "learned_variance": True}, {"diffusion": NOISE}, "odvae"),
    "latte-text": ({"kind": "latte", "adaln": "single", "text_dim": 384},
                   {"diffusion": FLOW, "null_prompt": "empty", **TEXT}, "odvae"),
    "vdt-text": ({"kind": "vdt", "temporal_attention": "last", "adaln": "single", "num_classes": 6, "text_dim": 384,
                  "pooled_dim": 384}, {"diffusion": FLOW, **TEXT}, "odvae"),
    "vdt-public": ({"kind": "vdt", "num_classes": 6, "learned_variance": True}, {"diffusion": NOISE}, "odvae"),
    "mmdit-both": ({"kind": "mmdit", "attention": "2d+3d", "spatial_position": "rotary",
                    "temporal_position": "sincos", "qk_norm": True, "text_dim": 384, "fps_condition": True,
                    "num_classes": 6}, {"diffusion": FLOW, **TEXT}, "odvae"),
    "mmdit-sd3": (SD3, {"diffusion": FLOW | {"time_shift": 3.0}, "null_prompt": "empty", **TEXT}, "image"),
    "dit": ({"kind": "dit", "num_classes": 6, "learned_variance": True, "num_frames": None}, {"diffusion": NOISE},
            "image"),
    **{f"vdt-{given}": ({"kind": "vdt", "given": given, "mask_channels": 4}, {"diffusion": FLOW, **TASKS}, "odvae")
       for given in ("tokens", "mask", "adaln", "cross_attention")},
}  # fmt: skip
"""Name -> denoiser, the rest of the model, and its autoencoder: the net's `models/odvae`, or `image` from above."""
FORMATS = {
    "latte": "inflated/latte", "dit": "dit", "vdt": "vdt-public", "autoencoder_kl": "image", "ldm_autoencoder": "image",
    "causal_vae": "inflated/odvae", "vqgan": "vqgan", "tats": "tats", "latte_diffusers": "latte-text",
    "sd3": "mmdit-sd3", "sd3_diffusers": "mmdit-sd3",
}  # fmt: skip
"""Public format -> the folder that is written in it."""


def described(path: Path) -> dict[str, Any]:
    """Names, types and shapes of a weights file, and its header."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        header = file.metadata() or {}
    shapes = {k: [str(v.dtype).removeprefix("torch."), list(v.shape)] for k, v in tensors.items()}
    return {"header": header, "tensors": shapes}


def folder_of(path: Path) -> dict[str, Any]:
    """Every file of a folder: text as it is, weights by their shapes."""
    return {
        file.relative_to(path).as_posix(): described(file)
        if file.suffix == ".safetensors"
        else file.read_text(encoding="utf-8")
        for file in sorted(path.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }


def write_models(net: Path, out: Path) -> None:
    """Every variant's model folder with fresh weights."""
    from pydantic import TypeAdapter

    from kinolab.autoencoders import AutoencoderConfig, build
    from kinolab.cli.convert import model_config
    from kinolab.denoisers import DenoiserConfig
    from kinolab.denoisers import build as build_denoiser
    from kinolab.models import ModelConfig, VideoModel, load_autoencoder, save_autoencoder

    for name, values in AUTOENCODERS.items():
        config = TypeAdapter(AutoencoderConfig).validate_python(values)
        save_autoencoder(build(config), out / name, trained=f"{name}, a variant of the net")
    for name, (values, rest, pixels) in DENOISERS.items():
        whole = {k: v for k, v in {**SMALL, **values}.items() if v is not None}
        denoiser = build_denoiser(TypeAdapter(DenoiserConfig).validate_python(whole))
        coder = load_autoencoder(net / "models/odvae" if pixels == "odvae" else out / "image")
        base = model_config(denoiser.config, coder, f"{name}, a variant of the net").model_dump(mode="json")
        sampler = {"name": "euler", "steps": 3}
        chosen = ModelConfig.model_validate(base | {"sampler": sampler} | rest)
        VideoModel(chosen, coder, denoiser).save(out / name)


def write_public(net: Path, models: Path, out: Path) -> None:
    """One of every public format, as `convert --to public` and `--to diffusers` write it."""
    from kinolab.checkpoints import save
    from kinolab.models import VideoModel, load_autoencoder

    for name, source in FORMATS.items():
        folder = net / source if "/" in source else models / source
        whole = (folder / "denoiser.safetensors").exists()
        module: Any = VideoModel.load(folder).denoiser if whole else load_autoencoder(folder)
        target = out / name
        diffusers = name in ("autoencoder_kl", "latte_diffusers", "sd3_diffusers")
        target.mkdir(parents=True)
        save(module, target if diffusers else target / "weights.safetensors", name)


def main(net: str, out: str) -> None:
    """Write the JSON file."""
    torch.manual_seed(0)
    place = Path(net).resolve()
    with tempfile.TemporaryDirectory() as work:
        os.environ["HOME"] = work
        models, public = Path(work) / "models", Path(work) / "public"
        write_models(place, models)
        write_public(place, models, public)
        record = {
            f"{kind}/{path.name}": folder_of(path)
            for kind, root in (("variants", models), ("public", public))
            for path in sorted(root.iterdir())
        }
    text = json.dumps(record, separators=(",", ":"), sort_keys=True)
    Path(out).write_bytes(lzma.compress(text.encode("utf-8"), preset=9))


if __name__ == "__main__":
    main(*sys.argv[1:])
