"""Files and folders of LoRA adapters, read and written.

Read are `.safetensors` files and those of torch.save in any of the forms (`forms`), and folders: peft's
(adapter_config.json beside adapter_model.safetensors) and those that hold one file. The change of a layer, with r the
rank: alpha / r up @ down; alpha / sqrt(r) where peft's `use_rslora` says so; alpha = r where a file tells none.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinolab.checkpoints.adapters.forms import FormName, Role, form_of, keys, other_kind, parse
from kinolab.checkpoints.files import read_file, read_settings, unwrap
from kinolab.errors import InputError
from kinolab.layers.lora import Change
from kinolab.runtime import reading, sets, weights
from kinolab.runtime.files import settled, write_text
from kinolab.runtime.paths import visible
from kinolab.runtime.records import Record

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model"
"""What peft calls the files of a folder."""
DIFFUSERS = "pytorch_lora_weights"
"""What diffusers calls its file in a folder."""
METADATA = "lora_adapter_metadata"
"""The entry of a safetensors header in which diffusers keeps peft's settings."""
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
LARGEST = 2**26
"""Numbers of a change that is made of a kernel and of what stands before it."""
SHOWN = 8
"""Names that an error lists."""


@dataclass(frozen=True)
class LowRank:
    """The change of one layer as a file has it.

    down: (r, in) or (r, in, kh, kw); up: (out, r); alpha: None = the file tells none; stable: rank-stabilised.
    """

    down: Tensor
    up: Tensor
    alpha: float | None = None
    stable: bool = False

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return len(self.down)

    @property
    def scale(self) -> float:
        """What up @ down is multiplied with."""
        if self.alpha is None:
            return 1.0
        return self.alpha / (math.sqrt(self.rank) if self.stable else self.rank)

    @property
    def change(self) -> Change:
        """With its scale."""
        return Change(self.down.float(), self.up.float() * self.scale)


@dataclass(frozen=True)
class Adapter:
    """What a file or folder holds.

    layers: changes of a denoiser's layers, by the names that the file calls them (kohya's have underscores for dots).
    text: those of text encoders, by the encoder's number from 1 on. unexpected: names of tensors that are of no form.
    header: the entries of a safetensors header.
    """

    path: Path
    form: FormName
    container: str
    layers: dict[str, LowRank]
    text: dict[int, dict[str, LowRank]] = field(default_factory=dict)
    unexpected: tuple[str, ...] = ()
    dtypes: dict[str, int] = field(default_factory=dict)
    header: dict[str, str] = field(default_factory=dict)

    @property
    def ranks(self) -> dict[int, int]:
        """Rank -> layers of it."""
        return dict(Counter(layer.rank for layer in self.layers.values()))

    @property
    def alphas(self) -> dict[float | None, int]:
        """Alpha -> layers of it; None = not told."""
        return dict(Counter(layer.alpha for layer in self.layers.values()))


def adapter_files(path: Path) -> list[Path]:
    """The files that an adapter is read from: its weights, and peft's settings where they are with it.

    Raises:
        InputError: where there is none; says what was expected.
    """
    path = settled(path)
    if path.is_dir():
        found = [p for p in visible(path) if p.suffix in SUFFIXES and not p.is_dir()]
        named = [p for stem in (WEIGHTS, DIFFUSERS) for p in found if p.stem == stem] or found
        if not named or (len(named) > 1 and named[0].stem not in (WEIGHTS, DIFFUSERS)):
            what = f"{len(named)}: {', '.join(p.name for p in named[:SHOWN])}; name one of them" if named else "none"
            raise InputError(
                f"{path}: expected a folder with an adapter's weights ({WEIGHTS}.safetensors), found {what}"
            )
        path = named[0]
    elif not path.exists():
        raise InputError(f"{path}: no such file; expected a LoRA adapter, a .safetensors file or peft's folder")
    config = path.parent / CONFIG
    return [path, config] if path.stem == WEIGHTS and config.exists() else [path]


def is_adapter(names: Mapping[str, Any]) -> bool:
    """Whether tensors of these names are (mostly) an adapter, of a kind that is read or not."""
    told = [key for key in map(parse, names) if key is not None and key.role != "alpha"]
    return 2 * len(told) > len(names) or other_kind(names) is not None


def read_adapter(path: Path | str) -> Adapter:
    """An adapter, whatever its form.

    Raises:
        InputError: where there is none, or it is damaged, of another kind, or holds NaN or infinite values; and for
            changes whose halves are missing or don't fit each other.
    """
    path = Path(path)
    files = adapter_files(path)
    container, tensors, header = read_file(files[0])
    tensors = unwrap(tensors).tensors
    kind = other_kind(tensors)
    if kind is not None:
        raise InputError(f"{path}: an adapter of another kind, {kind}; LoRA alone is read")
    settings = _settings(files[1:], header)
    form = form_of(tensors, settings=len(files) > 1)
    found: dict[int, dict[str, dict[Role, Tensor]]] = {}
    unexpected = []
    for name, tensor in tensors.items():
        key = parse(name)
        if key is None:
            unexpected.append(name)
        else:
            layer = found.setdefault(key.text, {}).setdefault(key.layer, {})
            if key.role in layer:
                raise InputError(f"{path}: {name}: the file holds this layer's {key.role} twice")
            layer[key.role] = tensor
    if not found:
        heads = ", ".join(list(tensors)[:3])
        raise InputError(f"{path}: no LoRA adapter in a known form (peft, diffusers, kohya); its names begin {heads}")
    made = {
        part: {name: _layer(path, name, pieces, settings) for name, pieces in layers.items()}
        for part, layers in found.items()
    }
    layers = made.pop(0, {})
    dtypes = Counter(str(t.dtype).removeprefix("torch.") for t in tensors.values())
    return Adapter(path, form, container, layers, made, tuple(unexpected), dict(dtypes), header)


@dataclass(frozen=True)
class _Settings:
    """What peft's settings say of alpha; the names of a pattern are those of layers, or their ends."""

    alpha: float | None = None
    pattern: Mapping[str, float] = field(default_factory=dict)
    stable: bool = False

    def of(self, layer: str) -> float | None:
        """A layer's alpha."""
        for name, value in self.pattern.items():
            if layer == name or layer.endswith(f".{name}"):
                return value
        return self.alpha


def _settings(configs: list[Path], header: Mapping[str, str]) -> _Settings:
    """The settings in peft's file, or those that diffusers put into the header.

    Raises:
        InputError: for settings that mean another equation than LoRA's.
    """
    if configs:
        return _checked(Record(read_settings(configs[0]), str(configs[0])))
    if METADATA not in header:
        return _Settings()
    values = reading.parse_json(header[METADATA], f"the {METADATA!r} entry of its header")
    # One set of settings for each part of a pipeline: transformer.r, text_encoder.r.
    parts = Record(values, METADATA).values
    own = {k.partition(".")[2]: v for k, v in parts.items() if k.startswith(("unet.", "transformer."))}
    return _checked(Record(own or parts, METADATA))


def _checked(record: Record) -> _Settings:
    kind = record.text("peft_type", None)
    if kind not in (None, "LORA"):
        raise record.wrong("peft_type", "LORA", kind)
    for name in ("use_dora", "fan_in_fan_out", "lora_bias"):
        if record.flag(name, False):
            raise record.wrong(name, "false: it means another equation than LoRA's", True)
    for name in ("modules_to_save", "target_parameters", "layer_replication", "trainable_token_indices"):
        if record.values.get(name):
            raise InputError(f"{record.name}: {name} is not supported; only low-rank changes of layers are")
    pattern = record.record("alpha_pattern", {})
    names = {name.removeprefix("^"): pattern.number(name) for name in pattern}
    odd = next((name for name in names if not name.replace("_", "").replace(".", "").replace("-", "").isalnum()), None)
    if odd is not None:
        raise InputError(f"{record.name}: alpha_pattern: {odd!r} is a regular expression; write the layers' names out")
    alpha = record.number("lora_alpha", None)
    for name, value in {**names, "lora_alpha": alpha or 0.0}.items():
        if not math.isfinite(value):
            raise record.wrong(name, "a finite number", value)
    return _Settings(alpha, names, bool(record.flag("use_rslora", False)))


def _layer(path: Path, name: str, pieces: Mapping[Role, Tensor], settings: _Settings) -> LowRank:
    """The change that a layer's tensors are.

    Raises:
        InputError: where a half is missing, shapes don't fit each other, or values are not finite.
    """
    for role in ("down", "up"):
        if role not in pieces:
            other = next(iter(pieces))
            raise InputError(f"{path}: {name}: holds {other} of a change and no {role}; cut off, or of another kind")
    down, up, mid = pieces["down"], pieces["up"], pieces.get("mid")
    for role, tensor in pieces.items():
        # alpha may be a whole number
        whole = role != "alpha" and not tensor.is_floating_point()
        if whole or not bool(torch.isfinite(tensor.float()).all()):
            raise InputError(f"{path}: {name}: expected finite numbers; damaged, or of a training that broke")
    fits = down.ndim >= 2 and up.ndim >= 2 and math.prod(up.shape[2:]) == 1 and len(down) > 0
    if fits and mid is not None:
        # LoCon's Tucker form: down is 1 x 1, the kernel stands between: (r, r', kh, kw)
        fits = math.prod(down.shape[2:]) == 1 and mid.ndim >= 3 and mid.shape[1] == len(down)
        if fits and mid.numel() // len(down) * down.shape[1] > LARGEST:  # small tensors may make a huge one
            raise InputError(
                f"{path}: {name}: its kernel of {tuple(mid.shape)} makes a change of more than {LARGEST:,}"
            )
        # By the kernel: (r, r', kh, kw) and (r', in) -> (r, in, kh, kw).
        down = torch.einsum("rs...,si->ri...", mid.float(), down.flatten(1).float()) if fits else down
    if not fits or up.shape[1] != len(down):
        shapes = ", ".join(f"{role} {tuple(tensor.shape)}" for role, tensor in pieces.items() if role != "alpha")
        raise InputError(f"{path}: {name}: ranks don't fit each other ({shapes}); expected down (r, in), up (out, r)")
    alpha = settings.of(name)
    if "alpha" in pieces:
        if pieces["alpha"].numel() != 1:
            raise InputError(f"{path}: {name}: alpha is {tuple(pieces['alpha'].shape)}, expected one number")
        alpha = float(pieces["alpha"].reshape(()))
    return LowRank(down, up.flatten(1), alpha, settings.stable and "alpha" not in pieces)


def check_target(path: Path, form: FormName) -> None:
    """Raises InputError for a file's name where the form is a folder, and the other way round."""
    if (path.suffix == ".safetensors") == (form == "peft"):
        what = "a folder" if form == "peft" else "a .safetensors file"
        raise InputError(f"{path}: an adapter in the form of {form} is {what}")


def write_adapter(path: Path, layers: Mapping[str, LowRank], form: FormName, part: str, note: str = "") -> None:
    """Write changes by the names of their layers, which have dots.

    Args:
        path: a folder for peft's form (adapter_config.json, adapter_model.safetensors), else a .safetensors file.
        part: what a pipeline of diffusers calls the model: unet or transformer.
        note: what made it, for the header.

    Raises:
        InputError: for a path of the other kind.
        OSError: where it can't be written.
    """
    check_target(path, form)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        layer = replace(layer, alpha=layer.scale * layer.rank, stable=False)
        names = keys(f"{part}.{name}" if form == "diffusers" else name, form)
        # A convolution's `up` is one of 1 x 1.
        up = layer.up.reshape(*layer.up.shape, *[1] * (layer.down.ndim - 2))
        tensors |= {names["down"]: layer.down.contiguous(), names["up"]: up.contiguous()}
        if "alpha" in names:
            tensors[names["alpha"]] = torch.tensor(layer.alpha)
    settings = peft_settings(layers)
    if form == "peft":
        with sets.new_set(path, WEIGHTS) as room:
            weights.write_weights(room / f"{WEIGHTS}.safetensors", tensors, {"format": "pt"})
            write_text(room / CONFIG, json.dumps(settings, indent=2) + "\n")
        return
    header = {"format": "pt"}
    if form == "kohya":
        header |= {
            "ss_network_module": "networks.lora", "ss_network_dim": str(settings["r"]),
            "ss_network_alpha": str(settings["lora_alpha"]),
        }  # fmt: skip
    else:
        header[METADATA] = json.dumps({f"{part}.{key}": value for key, value in settings.items()})
    weights.write_weights(path, tensors, header | ({"kinolab": json.dumps({"made": note})} if note else {}))


def peft_settings(layers: Mapping[str, LowRank]) -> dict[str, Any]:
    """What adapter_config.json says of changes."""
    ranks = {name: layer.rank for name, layer in layers.items()}
    alphas = {name: layer.scale * layer.rank for name, layer in layers.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: _whole(value) for name, value in alphas.items() if value != alpha},
        "target_modules": list(layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
    }


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value
