"""What a CLIP model of the user's says of a clip: agreement with its caption, how it looks, whether people are in it.

The trace is the embedding of each frame looked at; the texts come in where numbers are made of it, so that another
caption or another head reads no frame again. Agreement is the mean cosine of frames and caption (CLIPSIM, Wu et al.
2021). `looks` and `people` weigh two opposite texts against each other (CLIP-IQA, Wang et al. 2022). `aesthetic` is
what a head over the normalised embedding says, such as LAION's predictor of 1 to 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from kinolab.data.curate.frames import FrameConfig, FrameSignal, Part, Score, Trace, View, Watcher, inside
from kinolab.errors import InputError, MissingExtraError
from kinolab.runtime.hashes import file_sha256, sha256
from kinolab.runtime.paths import visible
from kinolab.runtime.reading import read_json
from kinolab.runtime.text import first_line
from kinolab.runtime.weights import read_weights

BATCH = 16
OPPOSITES = {"looks": ("Good photo.", "Bad photo."), "people": ("A photo of people.", "A photo without any people.")}
"""Score -> the text that it grows with, and the one that it falls with."""


class EncoderConfig(FrameConfig):
    """Which model, and how often it looks."""

    rate: float | None = 1.0
    """Frames per second that are looked at; none = all."""
    model: Path
    """Folder of a CLIP model as transformers saves it, with its tokenizer; read from disk only."""
    head: Path | None = None
    """A .safetensors of linear layers from the embedding to one number, for `aesthetic`: weights and biases in the
    order of their names, as LAION's predictor has them (layers.0.weight, ...)."""


class Encoder(FrameSignal):
    """Numbers by a text-image model."""

    Config = EncoderConfig
    scores: ClassVar[dict[str, Score]] = {
        "agreement": Score("cosine", "of frames and caption, mean over frames; none without a caption"),
        "aesthetic": Score("head", "mean over frames of what the head says; none without a head"),
        "looks": Score("share", "how much nearer frames are to 'Good photo.' than to 'Bad photo.'"),
        "people": Score("share", "how much nearer frames are to 'A photo of people.' than to one without"),
    }
    decides: ClassVar[frozenset[str]] = frozenset({"head", "head_sha256", "texts"})

    def check(self) -> None:
        """transformers is there, and the folder and the head can be read."""
        _network(self.config.model)
        if self.config.head is not None:
            layers_of(self.config.head)

    def content(self) -> dict[str, str]:
        """The weights' hashes, in place of where they lie."""
        found = {"model": weights_hash(self.config.model), "texts": str(OPPOSITES)}
        head = self.config.head
        return found if head is None else found | {"head": "", "head_sha256": file_sha256(head)}

    def watch(self) -> Watcher:
        """Begin a file."""
        return Watching(self.config.model)

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """Means over the frames looked at."""
        numbers: dict[str, float | None] = dict.fromkeys(self.scores)
        frames = torch.from_numpy(inside(trace, part)["embedding"])
        if not len(frames):
            return numbers
        if part.caption:
            numbers["agreement"] = float((frames @ _text(self.config.model, part.caption)).mean())
        if self.config.head is not None:
            numbers["aesthetic"] = float(_applied(frames, layers_of(self.config.head), self.config.head).mean())
        for name, texts in OPPOSITES.items():
            near = torch.stack([frames @ _text(self.config.model, text) for text in texts], -1)
            numbers[name] = float((_scale(self.config.model) * near).softmax(-1)[:, 0].mean())
        return numbers


class Watching(Watcher):
    """Frames, embedded a few at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._waiting = folder, list[torch.Tensor]()
        self._times, self._found = list[float](), list[torch.Tensor]()

    def see(self, view: View) -> None:
        """Keep a frame as the model takes it."""
        self._times.append(view.time)
        self._waiting.append(_pixels(view.image, self._folder))
        if len(self._waiting) == BATCH:
            self._embed()

    def _embed(self) -> None:
        model = _network(self._folder)[0]
        with torch.no_grad():
            pooled = model.vision_model(pixel_values=torch.stack(self._waiting)).pooler_output
            self._found.append(torch.nn.functional.normalize(model.visual_projection(pooled), dim=-1))
        self._waiting.clear()

    def trace(self) -> Trace:
        """Embeddings (N, D) float32 and their times."""
        if self._waiting:
            self._embed()
        found = torch.cat(self._found) if self._found else torch.zeros(0, 1)
        return {"time": np.array(self._times, np.float64), "embedding": found.float().numpy()}


def weights_hash(folder: Path) -> str:
    """sha256 over the weights of a folder. Raises InputError where there are none."""
    files = visible(folder, "*.safetensors") if folder.is_dir() else []
    if not files:
        raise InputError(f"signals.encoder.model: {folder}: no .safetensors in it; expected the folder of a CLIP model")
    return sha256("".join(f"{f.name} {_hash(f, f.stat().st_mtime_ns)}\n" for f in files))


@lru_cache(maxsize=16)
def _hash(path: Path, modified: int) -> str:
    return file_sha256(path)


@lru_cache(maxsize=2)
def _network(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The model, its tokenizer and how it takes pictures; read once in a process."""
    weights_hash(folder)
    settings = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if settings.get("model_type") != "clip":
        raise InputError(
            f"signals.encoder.model: {folder}: a model of type {settings.get('model_type')!r}, expected clip"
        )
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "interop", "signals.encoder") from None
    try:
        model = transformers.CLIPModel.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds for a folder that is not whole
        raise InputError(f"signals.encoder.model: {folder}: not a whole CLIP folder ({first_line(error)})") from None
    path = folder / "preprocessor_config.json"
    pictures = read_json(path) if path.is_file() else {}
    return model.eval().requires_grad_(False), tokenizer, pictures


def _pixels(image: np.ndarray, folder: Path) -> torch.Tensor:
    """A frame (H, W, 3) uint8 as the model takes it: shorter side to its size (bicubic), centre, normalised."""
    model, _, pictures = _network(folder)
    side = int(model.config.vision_config.image_size)
    height, width = image.shape[:2]
    short = min(height, width)
    size = (max(side, round(width * side / short)), max(side, round(height * side / short)))
    shown = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), np.float32) / 255
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    mean = np.array(pictures.get("image_mean", (0.48145466, 0.4578275, 0.40821073)), np.float32)
    deviation = np.array(pictures.get("image_std", (0.26862954, 0.26130258, 0.27577711)), np.float32)
    cropped = (shown[top : top + side, left : left + side] - mean) / deviation
    return torch.from_numpy(np.ascontiguousarray(cropped.transpose(2, 0, 1)))


@lru_cache(maxsize=4096)
def _text(folder: Path, text: str) -> torch.Tensor:
    """The normalised embedding (D,) of a text, cut to what the model takes."""
    model, tokenizer, _ = _network(folder)
    longest = int(model.config.text_config.max_position_embeddings)
    tokens = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
    wanted = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found = model.text_projection(model.text_model(**wanted).pooler_output)
    return torch.nn.functional.normalize(found, dim=-1)[0].float()


def _scale(folder: Path) -> float:
    """What the model multiplies cosines by."""
    return float(_network(folder)[0].logit_scale.exp())


@lru_cache(maxsize=4)
def layers_of(path: Path) -> Sequence[tuple[torch.Tensor, torch.Tensor | None]]:
    """Weights and biases of a head's linear layers, in the order of their names.

    Raises:
        InputError: where they are none that follow each other and end in one number.
    """
    tensors = read_weights(path).tensors
    names = sorted((n for n in tensors if n.endswith("weight")), key=_in_order)
    layers = [(tensors[n].float(), _bias(tensors, n)) for n in names]
    wide = [w.shape for w, _ in layers if w.ndim == 2]
    if len(wide) < max(1, len(layers)) or wide[-1][0] != 1 or any(a[0] != b[1] for a, b in pairwise(wide)):
        raise InputError(f"signals.encoder.head: {path}: expected linear layers that end in one number, got {wide}")
    return layers


def _bias(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor | None:
    found = tensors.get(name.removesuffix("weight") + "bias")
    return None if found is None else found.float()


def _in_order(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split(".") if part.isdecimal())


def _applied(
    frames: torch.Tensor, layers: Sequence[tuple[torch.Tensor, torch.Tensor | None]], path: Path
) -> torch.Tensor:
    """What a head says of embeddings (N, D): (N,)."""
    if layers[0][0].shape[1] != frames.shape[1]:
        takes, given = layers[0][0].shape[1], frames.shape[1]
        raise InputError(f"signals.encoder.head: {path}: takes {takes} numbers, and the model gives {given}")
    for weight, bias in layers:
        frames = torch.nn.functional.linear(frames, weight, bias)
    return frames[:, 0]
