"""The recipes whose first steps are compared: those of the net, and changed ones of every kind, family and option."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.computing import TASKS


def recipes(net: Path) -> dict[str, tuple[dict[str, Any], str | None]]:
    """Recipes of every family and task, and the model folder whose weights each one starts from."""
    stored = {p.stem: yaml.safe_load(p.read_text(encoding="utf-8")) for p in sorted((net / "recipes").glob("*.yaml"))}
    stored.pop("latte-sharded", None)  # the same computation on two processes
    clips = stored["image"]["data"]

    def changed(name: str, part: str, **changes: Any) -> dict[str, Any]:
        return {**stored[name], part: {**stored[name].get(part, {}), **changes}}

    made: dict[str, tuple[dict[str, Any], str | None]] = {
        name: (values, None if name == "encoder" else f"models/{name}") for name, values in stored.items()
    }
    for name in ("unconditional", *TASKS):
        made[f"vdt {name}"] = ({**stored["vdt"], "data": clips, "tasks": {"predict": 0, name: 1}}, "models/vdt")
    for given in GIVEN:
        made[f"vdt given {given}"] = ({**changed("vdt", "denoiser", given=given), "data": clips}, None)
    made["latte images"] = ({**stored["latte"], "image_frames": 2}, "models/latte")
    for variant in ("late_fusion", "split_heads"):
        made[f"latte {variant}"] = (changed("latte", "denoiser", variant=variant), None)
    made["mmdit 2d+3d"] = (changed("mmdit", "denoiser", attention="2d+3d"), None)
    image = {k: v for k, v in stored["image"]["autoencoder"].items() if k != "kind"}
    dpvae = {"kind": "dpvae", "temporal_ratio": 4, "group_frames": 5, "regularisation": {"samples": 16}, "image": image}
    made["dpvae"] = ({**stored["image"], "autoencoder": dpvae}, "models/image")
    for prediction in ("noise", "v", "sample"):
        how = {"schedule": "linear", "prediction": prediction, "time_sampling": "uniform"}
        made[f"latte {prediction}"] = ({**stored["latte"], "diffusion": how}, "models/latte")
    return made


GIVEN = ("tokens", "mask", "adaln", "cross_attention")
"""Ways of taking what is given besides `channels`."""


@dataclass(frozen=True)
class Start:
    """A recipe, what its first weights are, and how many steps of it say enough."""

    recipe: dict[str, Any]
    initial: str | None
    method: str = "weights"
    steps: int = 1


def variants(net: Path) -> dict[str, Start]:
    """Recipes with options that those of the net leave alone; all start from weights that are nowhere zero."""
    stored = {p.stem: yaml.safe_load(p.read_text(encoding="utf-8")) for p in sorted((net / "recipes").glob("*.yaml"))}
    return {**autoencoders(stored), **denoisers(stored, net), **tasks(stored, net)}


def changed(recipe: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A recipe with other fields; a mapping's fields join those that are there."""
    made = dict(recipe)
    for name, value in changes.items():
        old = made.get(name)
        made[name] = {**old, **value} if isinstance(value, dict) and isinstance(old, dict) else value
    return {name: value for name, value in made.items() if value is not None}


def model(net: Path, name: str) -> dict[str, Any]:
    """The `model.yaml` of a variant."""
    values: dict[str, Any] = yaml.safe_load((net / "variants" / name / "model.yaml").read_text(encoding="utf-8"))
    return values


def autoencoders(stored: dict[str, Any]) -> dict[str, Start]:
    """Critic and losses, what is trained, which frames."""
    image, odvae = stored["image"], stored["odvae"]
    critic = {"start_step": 0, "discriminator": {"width": 4, "layers": 2}}
    vanilla = {"start_step": 0, "loss": "vanilla", "discriminator": {"width": 4, "layers": 1, "norm": "batch"}}
    loss = {"reconstruction": "huber", "squared_weight": 0.5, "chroma_weight": 0.5, "kl_weight": 1e-3}
    return {
        "odvae critic": Start(changed(odvae, loss={"adversarial": critic}), "models/odvae", steps=2),
        "odvae vanilla critic": Start(changed(odvae, loss={"adversarial": vanilla}), "models/odvae", steps=2),
        "odvae decoder": Start(changed(odvae, trained="decoder", loss=None), "models/odvae"),
        "odvae window": Start(changed(odvae, window_frames=5, loss=loss, image_fraction=0.0), "models/odvae"),
        "image frames": Start(changed(image, frames_per_clip=2, loss={"reconstruction": "l2"}), "models/image"),
        "image muon": Start(changed(image, training={"optimizer": "muon"}), "models/image", steps=2),
    }


def denoisers(stored: dict[str, Any], net: Path) -> dict[str, Start]:
    """Every family with each way of modelling time, buckets, images, parts that are trained, and conditions."""
    latte, text, clips = stored["latte"], stored["mmdit"], stored["image"]["data"]
    plain = {k: v for k, v in changed(latte, samples={"labels": []}, class_names=None).items() if k != "samples"}
    adamw = {"optimizer": "adamw", "micro_batch": 1, "warmup": 1, "decay": "cosine", "weight_decay": 0.1}

    def of(name: str, base: dict[str, Any], **more: Any) -> Start:
        told = model(net, name)
        parts = {"denoiser": told["denoiser"], "diffusion": told["diffusion"], "null_prompt": told["null_prompt"]}
        return Start({**changed(base, **more), **parts}, f"variants/{name}")

    shapes = {"buckets": [{"frames": 5, "size": 32}, {"frames": 1, "size": 32}], "images": "use", "lengths": "all"}
    buckets = {k: v for k, v in clips.items() if k not in ("frames", "size")} | shapes
    mix = {"batch": "latents", "schedule": [{"at": 0, "weights": {"5": 1, "1": 1}}]}
    frames = {"autoencoder": "models/image", "data": clips, "frames_per_clip": 2}
    made = {
        "latte-joint": of("latte-joint", latte),
        "latte-joint images": of("latte-joint", latte, image_frames=2),
        "latte-late": of("latte-late", plain),
        "latte-split": of("latte-split", latte),
        "latte-text": of("latte-text", text, training={"optimizer": "adamw"}),
        "vdt-text": of("vdt-text", text, class_names=latte["class_names"], label_dropout=0.5),
        "vdt-public": of("vdt-public", latte),
        "mmdit-both": of("mmdit-both", text, class_names=latte["class_names"]),
        "mmdit-sd3 frames": of("mmdit-sd3", text, **frames),
        "dit frames": of("dit", latte, **frames),
    }
    return made | {
        "mmdit buckets": Start(text | {"data": buckets, "mix": mix}, "models/mmdit", steps=3),
        "latte lora": Start(changed(latte, trained="lora", lora_rank=2, training=adamw), "models/latte", steps=2),
        "latte temporal": Start(changed(latte, trained="temporal"), "models/latte"),
        "latte muon": Start(latte, "models/latte", steps=2),
        "latte adamw": Start(changed(latte, training=adamw), "models/latte", steps=2),
        "latte from an image": Start(changed(latte, denoiser={"depth": 4}), "variants/dit", method="image"),
        "latte min-snr": Start(changed(latte, diffusion=WEIGHED), "models/latte"),
    }


WEIGHED = {"schedule": "cosine", "prediction": "v", "loss": "min_snr", "time_sampling": "uniform", "stratified": True}


def tasks(stored: dict[str, Any], net: Path) -> dict[str, Start]:
    """Every task with every way of taking what is given; `channels` is the net's own vdt."""
    made = {}
    for given in GIVEN:
        told = model(net, f"vdt-{given}")
        recipe = {**changed(stored["vdt"]), "denoiser": told["denoiser"], "diffusion": told["diffusion"]}
        for name in ("predict", "complete"):
            drawn = {**recipe, "data": stored["image"]["data"], "tasks": {"predict": 0, name: 1}}
            made[f"vdt-{given} {name}"] = Start(drawn, f"variants/vdt-{given}")
    return made
