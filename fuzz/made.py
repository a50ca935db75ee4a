"""Seeds that are made: small files of every kind that the archive lacks or has only large ones of."""

from __future__ import annotations

import json
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fuzz.readers import HASH

if TYPE_CHECKING:
    from kinolab.denoisers import Denoiser
    from kinolab.training.state import RunState

CAPTIONS = ("a red ball falls", "two boxes", "")


def frames(count: int = 5, size: int = 16) -> np.ndarray:
    """Frames (T, H, W, 3) with a bar that moves."""
    made = np.zeros((count, size, size, 3), np.uint8)
    for k in range(count):
        made[k, :, 2 * k : 2 * k + 4] = (200, 40 * k, 90)
    return made


def media(folder: Path) -> None:
    """One folder for each way to store a clip."""
    from kinolab import video

    for ending in (".mp4", ".mkv", ".webm", ".avi", ".gif", ".webp", ".mov", ""):
        video.write(folder / (ending.removeprefix(".") or "images") / f"clip{ending}", frames(), 8.0)
    stills = folder / "stills"
    stills.mkdir()
    still = Image.fromarray(frames()[2])
    for ending in (".png", ".jpg", ".bmp", ".tiff"):
        still.save(folder / _made(folder / ending[1:]) / f"clip{ending}")
    others = [Image.fromarray(f) for f in frames()[1:]]
    still.save(_made(folder / "apng") / "clip.png", save_all=True, append_images=others, duration=100)
    stills.rmdir()


def masks(folder: Path) -> None:
    """Masks as images with palettes, transparency and shades, and as a video."""
    from kinolab import video

    shade = Image.fromarray(frames()[2]).convert("L")
    for mode in ("L", "1", "P", "RGBA", "LA", "I;16"):
        shade.convert(mode).save(_made(folder / mode.replace(";", "-")) / "clip.png")
    Image.fromarray(frames()[2][..., 0] // 100).save(_made(folder / "few") / "clip.png")
    video.write(folder / "video" / "clip.mkv", np.where(frames() > 0, 255, 0).astype(np.uint8), 8.0, lossless=True)


def clips(folder: Path) -> None:
    """A folder of two clips with a table of captions."""
    from kinolab import video

    for k in range(2):
        video.write(folder / "table" / f"clip{k}.mp4", frames(6) // (k + 1), 8.0)
    rows = ["file,caption,label", "clip0.mp4,a red bar,bar", 'clip1.mp4,"a bar, dark",dark']
    (folder / "table" / "captions.csv").write_text("\n".join(rows) + "\n")


def tables(folder: Path) -> None:
    """Tables of captions in every form, with the names of clips beside them."""
    rows = [
        {"file": f"{k}.mp4", "caption": ["a bar", "bär"] if k else "a, bar", "label": f"c{k % 2}"} for k in range(4)
    ]
    texts = {
        "captions.jsonl": "\n".join(json.dumps(row) for row in rows) + "\n",
        "metadata.json": json.dumps(rows),
        "captions.csv": "file,caption,label\n" + "".join(f'{k}.mp4,"a ""bar"", {k}",{k}\n' for k in range(4)),
        "labels.tsv": "video\tclass\n" + "".join(f"{k}.mp4\tc{k}\n" for k in range(4)),
        "captions.json": json.dumps({f"{k}.mp4": f"a bar {k}" for k in range(4)}),
    }
    for name, text in texts.items():
        room = _made(folder / name.replace(".", "-"))
        (room / name).write_text(text)
        for k in range(4):
            (room / f"{k}.mp4").touch()
    room = _made(folder / "txt")
    for k in range(3):
        (room / f"{k}.mp4").touch()
        (room / f"{k}.txt").write_text(f"a bar {k}\n")


def prompts(folder: Path) -> None:
    """Lists of prompts, as text and as VBench's own."""
    (_made(folder / "text") / "prompts.txt").write_text("a red ball falls\ntwo boxes\n")
    listed = [{"prompt_en": "a red ball", "dimension": ["overall_consistency"]}]
    (_made(folder / "vbench") / "VBench_full_info.json").write_text(json.dumps(listed))


class Callback:
    """What foreign checkpoints hold beside their weights."""

    def __init__(self) -> None:
        self.best = 0.5


def tensors() -> dict[str, Tensor]:
    """Tensors of several types."""
    return {
        "blocks.0.attn.qkv.weight": torch.arange(48.0).view(6, 8) / 50,
        "blocks.0.attn.qkv.bias": torch.ones(6),
        "half": torch.arange(8.0).half(),
        "brain": torch.arange(8.0).bfloat16(),
        "count": torch.arange(5),
    }


def small_denoiser() -> Denoiser:
    """A Latte of some hundred weights."""
    from kinolab import denoisers

    return denoisers.build(denoisers.LatteConfig(hidden_size=8, depth=2, num_heads=2, input_size=2, num_frames=1))


def adapters(folder: Path) -> None:
    """LoRA adapters in every form."""
    from kinolab.checkpoints.adapters import LowRank, write_adapter

    down, up = torch.linspace(-1, 1, 16).view(2, 8), torch.linspace(0, 1, 48).view(24, 2)
    layers = {"blocks.0.attn.qkv": LowRank(down, up, 1.0), "blocks.0.attn.proj": LowRank(down, up[:8], 4.0)}
    write_adapter(folder / "peft", layers, "peft", "transformer")
    write_adapter(_made(folder / "kohya") / "a.safetensors", layers, "kohya", "transformer")
    write_adapter(_made(folder / "diffusers") / "a.safetensors", layers, "diffusers", "transformer")


def weights(folder: Path) -> None:
    """Weights as Kinolab, safetensors and torch (new, old) write them; a Lightning checkpoint; parts with an index."""
    from safetensors.torch import save_file

    from kinolab.runtime.modules import encode
    from kinolab.runtime.weights import write_weights

    state = tensors()
    write_weights(_made(folder / "own") / "a.safetensors", state)
    large = {"w": torch.linspace(-1, 1, 2048).view(32, 64)}
    write_weights(_made(folder / "int8") / "a.safetensors", *encode(large, torch.int8))
    save_file(state, _made(folder / "public") / "a.safetensors", {"format": "pt"})
    torch.save(state, _made(folder / "zip") / "a.pt")
    old = _made(folder / "old") / "a.pth"
    torch.save({"half": state["half"]}, old, _use_new_zipfile_serialization=False)
    # It names storages by where they lay in memory, which differs from time to time.
    data = old.read_bytes()
    (key,) = set(re.findall(rb"X.\0\0\0(\d{12,16})", data))
    old.write_bytes(data.replace(b"X%c\0\0\0%s" % (len(key), key), b"X\x0c" + bytes(3) + b"0" * 12))
    lightning = {"state_dict": OrderedDict(state), "epoch": 3, "callbacks": {"best": Callback()}, "lr": [1e-4]}
    torch.save(lightning, _made(folder / "lightning") / "a.ckpt")
    linear = nn.Linear(3, 2)
    nn.init.constant_(linear.weight, 0.5)
    nn.init.constant_(linear.bias, 0.25)
    module = nn.Sequential(linear, nn.LayerNorm(2))
    torch.save(module.state_dict(), _made(folder / "module") / "a.pt")
    parts = _made(folder / "parts" / "transformer")
    save_file({"a": state["half"]}, parts / "diffusion_pytorch_model-00001-of-00002.safetensors")
    save_file({"b": state["brain"]}, parts / "diffusion_pytorch_model-00002-of-00002.safetensors")
    places = {name: f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for name, k in (("a", 1), ("b", 2))}
    index = {"metadata": {"total_size": 32}, "weight_map": places}
    (parts / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (parts / "config.json").write_text(json.dumps({"_class_name": "Transformer3DModel", "num_layers": 1}))


def run_state() -> dict[str, Any]:
    """The state of a small run, as `training` hands it to be stored."""
    state: dict[str, Any] = {"net": {"weights": {"w": torch.arange(12.0).view(3, 4), "b": torch.zeros(3)}}}
    state["net"]["optimizer"] = {
        "state": {"w": {"step": torch.tensor(3.0), "exp_avg": torch.ones(3, 4)}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99), "params": ["w", "b"]}],
    }
    state["net.ema"] = {"w": torch.arange(12.0).view(3, 4)}
    return state


def small_run(step: int = 0) -> RunState:
    """A linear layer, its optimiser and its average, in training for some steps."""
    from kinolab.runtime.ranks import Ranks
    from kinolab.training.ema import Ema
    from kinolab.training.state import RunState

    net = nn.Linear(3, 2)
    nn.init.constant_(net.weight, 0.5)
    nn.init.constant_(net.bias, 0.25)
    optimizer, average = torch.optim.AdamW(net.parameters(), lr=0.01), Ema(net, 0.9)
    for k in range(step):
        optimizer.zero_grad()
        net(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        average.update(k)
    return RunState({"net": net}, {"net": optimizer}, {"net": average}, Ranks(0, 1, torch.device("cpu")))


def run_states(folder: Path) -> None:
    """A run's checkpoints: two as they are written now, of which the newest may be damaged, and one alone."""
    for name, steps in (("two", (1, 2)), ("one", (1,))):
        for step in steps:
            small_run(step).save(folder / name / "checkpoints", step, keep=2)


def checkpoints(folder: Path) -> None:
    """A checkpoint as it is written now, and one as torch.distributed.checkpoint used to write it."""
    import torch.distributed.checkpoint as dcp

    from kinolab.runtime import sharded

    record = json.dumps({"step": 3, "processes": 1, "optimizers": ["net"]})
    for name in ("now", "before"):
        room = _made(folder / name / "step-00000003")
        (room / "state.json").write_text(record)
        if name == "now":
            sharded.save(run_state(), room, alone=True)
            sharded.seal(room)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dcp.save(run_state(), checkpoint_id=room, no_dist=True)


def embeddings(folder: Path) -> None:
    """Embeddings of captions beside a cache, as they are written now."""
    from kinolab.data.prompts import caption_key
    from kinolab.runtime.weights import write_weights

    found: dict[str, torch.Tensor] = {}
    for caption in CAPTIONS:
        key = caption_key(caption)
        found |= {f"{key}.states": torch.ones(3, 8).half(), f"{key}.pooled": torch.ones(4).half()}
    write_weights(_made(folder / "now" / "text" / ("0" * 24)) / "a.safetensors", found)


def records(folder: Path, archive: Path) -> None:
    """Records of videos as `generate` writes them, of a model that is not there."""
    for path in sorted((archive / "videos").glob("*.json")):
        value = json.loads(path.read_text(encoding="utf-8"))
        request = value.get("request")
        if isinstance(request, dict) and not request.get("given"):
            value["model_sha256"], request["model"] = HASH, "models/none"
            (_made(folder / path.stem) / "clip.json").write_text(json.dumps(value, indent=1))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
