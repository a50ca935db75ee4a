"""Weights on disk -> named tensors, without running any code that a file may carry.

Read are `.safetensors`, anything `torch.save` wrote (nothing in it runs), and folders of the diffusers kind, sharded or
not.
Nested mappings become dotted names, so that `{"ema": {"a.b": x}}` is `ema.a.b`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from kinolab.errors import InputError
from kinolab.runtime import modules as storage
from kinolab.runtime import reading, sets, weights
from kinolab.runtime.files import settled, write_text
from kinolab.runtime.hashes import scan
from kinolab.runtime.paths import inside, visible
from kinolab.runtime.torch_files import named_tensors, read_torch

EMA_WRAPPINGS = ("ema", "ema_state_dict", "ema_model", "model_ema", "params_ema")
"""Names that averaged weights are wrapped in; they are preferred to the raw ones beside them."""
WRAPPINGS = (
    *EMA_WRAPPINGS,
    *(
        "state_dict",
        "model_state_dict",
        "model",
        "gen_model",
        "generator",
        "module",
        "net",
        "params",
        "diffusion_model",
        "control_model",
        "denoise_fn",
    ),
)
"""Names that a whole state dict is wrapped in, most wanted first."""
LEFTOVERS = (
    *("opt", "optimizer", "optimizer_state", "optimizer_state_dict", "optimizer_states", "optim", "scaler"),
    *("scheduler", "lr_scheduler", "lr_schedulers", "scheduler_state_dict", "loops", "callbacks", "dics_model"),
    *("args", "config", "step", "steps", "epoch", "global_step", "current_epoch", "train_steps", "iteration", "rng"),
    # The schedule, as a diffusion process that is a module of its own keeps it beside its network.
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
)
"""What training leaves beside the weights; never part of a model."""
INNER_WRAPPINGS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Pieces that torch.compile, FSDP and checkpointing put anywhere into a name."""
HEADER_KEY = "kinolab"
"""Where our own writers put the config in a safetensors header."""
FOLDER_WEIGHTS = "diffusion_pytorch_model"
"""The name of the weights in a diffusers folder."""
TWO_FILES = "halves"
"""The set of files that a model in two files is written as."""
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class StoredWeights:
    """All tensors of a file or folder by dotted name, and what came with them.

    settings: the `config.json` of a diffusers folder; header: the metadata of a safetensors file.
    """

    path: Path
    container: str
    tensors: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    header: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unwrapped:
    """Tensors with the wrappings taken off their names, the wrappings, and how much of what else was left out."""

    tensors: dict[str, Tensor]
    wrappings: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)


def read_weights(path: Path) -> StoredWeights:
    """Read a weights file or a folder of the diffusers kind; tensors are mapped from disk where the format allows.

    Raises:
        InputError: where there is none, or it is damaged.
    """
    path = settled(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; expected weights (.safetensors or .pt) or a folder with config.json")
    _refuse_model_part(path)
    beside = path.parent / "config.json"
    belongs = path.name.startswith(FOLDER_WEIGHTS) and beside.exists()
    container, tensors, header = read_file(path)
    return StoredWeights(path, container, tensors, read_settings(beside) if belongs else {}, header)


def read_part(path: Path) -> StoredWeights:
    """The weights of one part of a model folder as they are stored: q of those in 8 bits, without their scales."""
    tensors, header = storage.read_tensors(path)
    return StoredWeights(path, "safetensors", storage.without_scales(path, tensors, header))


def read_file(path: Path) -> tuple[str, dict[str, Tensor], dict[str, str]]:
    """(kind of file, tensors, header), told apart by content: names of weights files are not to be trusted.

    Raises:
        InputError: where it is damaged, no file of weights, or holds NaN.
    """
    with reading.open_plain(path) as file:
        start = file.read(9)
    if not start:
        raise InputError(f"{path}: the file is empty")
    if start[8:9] == b"{":
        return "safetensors", *_read_safetensors(path)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        tensors = named_tensors(read_torch(path).value, str(path))
        _refuse_nan(path, tensors)
        return "torch.save", tensors, {}
    raise InputError(f"{path}: not a weights file; expected .safetensors, or a .pt written by torch.save")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, header = storage.read_tensors(path)
    return storage.decode(path, tensors, header), header


def _refuse_nan(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Weights with NaN make pictures of NaN; what training leaves beside them may hold what it likes."""
    for name, value in tensors.items():
        if name.split(".", 1)[0] not in LEFTOVERS and scan(value).nan:
            raise InputError(f"{path}: {name} holds NaN: damaged, or of a training that broke; get it again")


def _read_folder(folder: Path) -> StoredWeights:
    if (folder / "model.yaml").exists():
        raise InputError(f"{folder}: a model folder of Kinolab's own; load it with kinolab.models")
    if (folder / "model_index.json").exists():
        parts = ", ".join(p.parent.name for p in visible(folder, "*/config.json"))
        whole = "a whole diffusers pipeline, of which `kinolab convert` makes a model folder"
        raise InputError(f"{folder}: {whole}; here name the folder of one part inside it ({parts})")
    with suppress(OSError):  # a folder that can't be written is read as it stands
        sets.finish_set(folder, FOLDER_WEIGHTS)
    settings = read_settings(folder / "config.json") if (folder / "config.json").exists() else {}
    indices = [*visible(folder, "*.safetensors.index.json"), *visible(folder, "*.bin.index.json")]
    if indices:
        container, tensors = _read_shards(folder, indices[0])
        return StoredWeights(folder, container, tensors, settings)
    files = weights_in(folder)
    chosen = [p for p in files if p.name == f"{FOLDER_WEIGHTS}.safetensors"] or files
    if len(chosen) != 1:
        found = f"found {', '.join(p.name for p in files)}; name one of them" if files else "found none"
        raise InputError(f"{folder}: expected a folder with one weights file ({'/'.join(SUFFIXES)}), {found}")
    container, tensors, header = read_file(chosen[0])
    return StoredWeights(folder, f"folder with a {container} file", tensors, settings, header)


def weights_in(folder: Path) -> list[Path]:
    """The weights files of a folder, in order of their names."""
    return [p for p in visible(folder) if p.suffix in SUFFIXES]


def _read_shards(folder: Path, index: Path) -> tuple[str, dict[str, Tensor]]:
    """(kind of folder, tensors) of weights in several files, safetensors or torch.save's, listed by an index.

    Raises:
        InputError: for an index without a list of files, a file that is missing or lies elsewhere, and for tensors that
            the index names and their file does not hold.
    """
    listed = read_settings(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise InputError(f"{index}: no list of files; expected a weight_map from tensors' names to files' names")
    tensors: dict[str, Tensor] = {}
    names, kinds = sorted(set(listed.values())), set[str]()
    for name in names:
        path = inside(folder, name, links=True)  # folders of downloads hold links into a store beside them
        if not path.exists():
            raise InputError(f"{path}: missing; {index.name} lists {len(names)} files")
        kind, found, _ = read_file(path)
        kinds.add(kind)
        tensors |= found
    lost = sorted(listed.keys() - tensors.keys())
    if lost:
        raise InputError(f"{folder / listed[lost[0]]}: no tensor {lost[0]} in it ({len(lost)} that {index.name} names)")
    return f"folder of {len(names)} {' and '.join(sorted(kinds))} files", tensors


def read_settings(path: Path) -> dict[str, Any]:
    """The values of a JSON file such as config.json.

    Raises:
        InputError: where it is no JSON object.
    """
    loaded = reading.read_json(path)
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(loaded).__name__}")
    return loaded


def _refuse_model_part(path: Path) -> None:
    """A part of a model folder has names of a public layout and needs the config in model.yaml to mean the same."""
    if (path.parent / "model.yaml").exists() and path.suffix == ".safetensors":
        raise InputError(f"{path}: a part of a model folder of Kinolab's own; name the folder {path.parent}")


def own_header(stored: StoredWeights) -> dict[str, Any]:
    """What our own writer put into the header of the file: `format`, `config`, perhaps `shift` and `scale`."""
    name = f"{stored.path}: the {HEADER_KEY!r} entry of its header"
    loaded = reading.parse_json(stored.header.get(HEADER_KEY, "{}"), name)
    return loaded if isinstance(loaded, dict) else {}


def select(stored: StoredWeights, prefix: str) -> Unwrapped:
    """The tensors whose names start with `prefix` (as in the file, or as they are once unwrapped), unwrapped.

    Raises:
        InputError: where no name starts with it; lists the groups of names that there are.
    """
    if not prefix:
        return unwrap(stored.tensors)
    for names in (stored.tensors, unwrap(stored.tensors).tensors):
        found = {k.removeprefix(prefix).lstrip("."): v for k, v in names.items() if k.startswith(prefix)}
        if found:
            return unwrap(found)
    heads = ", ".join(f"{k} ({n})" for k, n in groups(stored.tensors).items())
    raise InputError(f"{stored.path}: no name starts with {prefix!r}; the names start with: {heads}")


def unwrap(tensors: Mapping[str, Tensor]) -> Unwrapped:
    """Take wrappings such as `ema.`, `module.` and `_orig_mod.` off the names, where nothing but weights is in them.

    Of several state dicts in one file the averaged one is taken. A level is a wrapping only if all that is beside it
    is another wrapping or what training leaves behind: other names are never dropped.
    """
    wrappings: list[str] = []
    left_out: dict[str, int] = {}
    current = dict(tensors)
    for piece in INNER_WRAPPINGS:
        if any(piece in name for name in current):
            wrappings.append(piece)
            current = {name.replace(piece, ""): value for name, value in current.items()}
    while True:
        counts = groups(current)
        if any(head not in WRAPPINGS and head not in LEFTOVERS for head in counts):
            break
        inside = [w for w in WRAPPINGS if w in counts and any(name.startswith(f"{w}.") for name in current)]
        if not inside:
            break
        chosen = inside[0]
        left_out |= {".".join([*wrappings, head]): n for head, n in counts.items() if head != chosen}
        wrappings.append(f"{chosen}.")
        current = {k.removeprefix(f"{chosen}."): v for k, v in current.items() if k.startswith(f"{chosen}.")}
    return Unwrapped(current, tuple(wrappings), left_out)


def groups(names: Mapping[str, Any]) -> dict[str, int]:
    """How many names there are under each first component."""
    counts: dict[str, int] = {}
    for name in names:
        head = name.split(".", 1)[0]
        counts[head] = counts.get(head, 0) + 1
    return counts


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors with `header` as JSON in the file's metadata.

    Raises:
        OSError: where they can't be written.
    """
    weights.write_weights(path, tensors, {"format": "pt", HEADER_KEY: json.dumps(header)})


def write_folder(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Write one part as diffusers stores it, both files or none: its weights with `header`, and config.json.

    Raises:
        InputError: where the path is a file's.
        OSError: where they can't be written.
    """
    if path.suffix in (".safetensors", ".json"):
        raise InputError(f"{path}: format {header['format']} is written to a folder; leave out {path.suffix!r}")
    with sets.new_set(path, FOLDER_WEIGHTS) as room:
        write_safetensors(room / f"{FOLDER_WEIGHTS}.safetensors", tensors, header)
        write_text(room / "config.json", json.dumps(config, indent=2) + "\n")
