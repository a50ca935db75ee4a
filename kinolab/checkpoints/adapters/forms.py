"""How adapters' files name their tensors: the forms of peft, of diffusers (now and before 0.22), and of kohya.

A name says the layer, which part of a model it is in, and what of the layer's change the tensor is. The layer is called
as in some public layout of the model (`names`): with dots between its parts, or with underscores in kohya's form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

FormName = Literal["peft", "diffusers", "kohya"]
Role = Literal["down", "up", "mid", "alpha"]

ENDINGS: dict[str, Role] = {
    ".lora_down.weight": "down", ".lora_up.weight": "up", ".lora_mid.weight": "mid",
    ".lora.down.weight": "down", ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down", ".lora_linear_layer.up.weight": "up",
}  # fmt: skip
"""What follows the name of a layer in kohya's form, in diffusers', and in that of its text encoders."""
KOHYA_ENDINGS = (".lora_down.weight", ".lora_up.weight", ".lora_mid.weight")
PEFT = re.compile(r"\.lora_([AB])(\.[A-Za-z0-9_-]{1,64})?\.weight$")
"""The same in peft's form; in memory the adapter's name stands between."""
PROCESSOR = re.compile(r"(?:\.processor)?\.([a-z_]{1,32})_lora\.(down|up)\.weight$")
"""The same in diffusers' form before 0.22, where the attention's processor holds the change."""
INNER = {"to_out": "to_out.0"}
"""What a processor calls a layer -> what the attention calls it."""
KOHYA = {"lora_unet_": 0, "lora_te_": 1, "lora_te1_": 1, "lora_te2_": 2, "lora_te3_": 3}
"""Beginnings in kohya's form -> the number of the text encoder that they are of; 0 = a denoiser."""
DOTTED = {
    "base_model.model.": 0, "model.diffusion_model.": 0, "diffusion_model.": 0, "unet.": 0, "transformer.": 0,
    "text_encoder.": 1, "text_encoder_2.": 2, "text_encoder_3.": 3,
}  # fmt: skip
"""The same in the other forms; several may stand one after the other."""
OTHERS = {
    "DoRA": r"lora_magnitude_vector|\.dora_scale$", "LoHa": r"\.hada_[wt]", "LoKr": r"\.lokr_[wt]", "OFT": r"\.oft_",
    "LoRA of an embedding": r"\.lora_embedding_[AB]", "IA3": r"\.ia3_l", "whole changes of weights": r"\.diff(_b)?$",
    "LoRA with biases": r"\.lora_(B|up)\.bias$",
}  # fmt: skip
"""Kinds of adapters that are not read, and what tells their names."""


@dataclass(frozen=True)
class Key:
    """What the name of a tensor says: layer, which text encoder's (0 = a denoiser's), what it is, and the form."""

    layer: str
    text: int
    role: Role
    form: FormName


def parse(name: str) -> Key | None:
    """What a name says, or None where it is of no form that is read."""
    if name.endswith(".alpha"):
        layer = name.removesuffix(".alpha").replace(".processor.", ".")
        whole = parse(layer)  # diffusers' network_alphas may hold the name of a tensor before it
        return _placed(layer, "alpha", "diffusers") if whole is None else replace(whole, role="alpha")
    peft, old = PEFT.search(name), PROCESSOR.search(name)
    if peft:
        return _placed(name[: peft.start()], "down" if peft[1] == "A" else "up", "peft")
    if old:
        inside = INNER.get(old[1], old[1])
        return _placed(f"{name[: old.start()]}.{inside}", "down" if old[2] == "down" else "up", "diffusers")
    for ending, role in ENDINGS.items():
        if name.endswith(ending):
            layer = name.removesuffix(ending).replace(".processor.", ".")
            return _placed(layer, role, "kohya" if ending in KOHYA_ENDINGS else "diffusers")
    return None


def _placed(layer: str, role: Role, form: FormName) -> Key:
    """A key without what its layer's name begins with."""
    for start, text in KOHYA.items():
        if layer.startswith(start):
            return Key(layer.removeprefix(start), text, role, "kohya")
    text, begun = 0, True
    while begun:
        start = next((s for s in DOTTED if layer.startswith(s)), "")
        begun = bool(start)
        if begun:
            text = DOTTED[start] or text
            layer = layer.removeprefix(start)
    return Key(layer, text, role, form)


def form_of(names: Iterable[str], *, settings: bool) -> FormName:
    """The form of a file by its tensors' names; `settings`: whether peft's adapter_config.json is with it."""
    listed = list(names)
    if any(name.startswith(tuple(KOHYA)) for name in listed):
        return "kohya"
    if settings or any(name.startswith("base_model.") for name in listed):
        return "peft"
    keys = [key for key in map(parse, listed) if key is not None]
    if keys and all(key.form == "kohya" for key in keys if key.role != "alpha"):
        return "kohya"
    return "diffusers"


def other_kind(names: Iterable[str]) -> str | None:
    """The kind of adapter that a file is, where it is one that is not read."""
    listed = list(names)
    return next((kind for kind, mark in OTHERS.items() if any(re.search(mark, name) for name in listed)), None)


def keys(layer: str, form: FormName) -> dict[Role, str]:
    """The names that a form gives the tensors of a layer: of one with dots, in diffusers' form with the part before it
    (`unet.`, `transformer.`)."""
    if form == "kohya":
        flat = f"lora_unet_{layer.replace('.', '_')}"
        return {"down": f"{flat}.lora_down.weight", "up": f"{flat}.lora_up.weight", "alpha": f"{flat}.alpha"}
    start = "base_model.model." if form == "peft" else ""
    return {"down": f"{start}{layer}.lora_A.weight", "up": f"{start}{layer}.lora_B.weight"}
