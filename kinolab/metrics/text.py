"""Agreement of clips with their prompts, by a text-image or text-video encoder that the user has on disk.

CLIP (Radford et al. 2021) gives CLIPSIM (Wu et al. 2021, GODIVA): the mean over frames of the cosine similarity of
frame and prompt. It sees no motion. X-CLIP (Ni et al. 2022) embeds the whole clip, a fixed number of its frames.
Values are cosines in [-1, 1], not times 100, and compare only where the encoder's hash is the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.errors import InputError, MissingExtraError
from kinolab.metrics.base import Need, Setup
from kinolab.metrics.clips import ClipScores, Protocol, unit_pixels
from kinolab.metrics.extractors.base import Resize, resize_frames
from kinolab.metrics.weights import file_hash
from kinolab.runtime.hashes import sha256
from kinolab.runtime.paths import visible
from kinolab.runtime.reading import read_json
from kinolab.runtime.text import first_line

CLASSES = {"clip": "CLIPModel", "xclip": "XCLIPModel"}
"""A config.json's model_type -> the class of transformers that reads the folder."""
FILTERS: dict[int, Resize] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of filters, as preprocessor_config.json has them."""
CHUNK = 16
"""How many frames go through CLIP at a time."""


class PromptAgreement(ClipScores):
    """Mean over clips of the cosine similarity of a clip and its prompt; higher is better.

    folder: a CLIP or X-CLIP model as transformers saves it, with tokenizer and preprocessor_config.json. It is read
    from disk only; nothing is looked up elsewhere.
    """

    name = "prompt_agreement"
    better = "higher"
    needs = frozenset[Need]({"captions"})
    weights = "text"

    def __init__(self, folder: Path) -> None:
        """Raises InputError where the folder holds no such model, or not all of its weights."""
        super().__init__()
        settings = _settings_of(folder)
        self.kind = settings["model_type"]
        self.model, self.tokenizer = _load(folder, self.kind)
        self.sha256 = weights_hash(folder)
        vision, text = self.model.config.vision_config, self.model.config.text_config
        self.size: int = vision.image_size
        self.frames: int | None = vision.num_frames if self.kind == "xclip" else None
        self.tokens: int = text.max_position_embeddings
        self.mean, self.std, self.filter = _preprocessing(folder)

    @classmethod
    def build(cls, setup: Setup) -> PromptAgreement:
        """By the protocol's encoder."""
        assert setup.text is not None
        return cls(setup.text)

    def to(self, device: torch.device | str) -> PromptAgreement:
        """Move the encoder; clips may come on any device."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def update(self, video: Tensor, prompts: Sequence[str]) -> None:
        """Add clips (B, 3, T, H, W), float in [-1, 1] or uint8, and the prompt of each.

        Raises:
            InputError: unless there is one prompt per clip, and X-CLIP's number of frames at least.
        """
        clips = unit_pixels(video, self.frames or 1)
        if isinstance(prompts, str) or len(prompts) != len(clips) or not all(isinstance(p, str) for p in prompts):
            raise InputError(f"expected one prompt for each of {len(clips)} clips, got {prompts!r}")
        score = self._clip if self.kind == "clip" else self._xclip
        self._add([score(self._pixels(c), self._tokens(p)) for c, p in zip(clips, prompts, strict=True)], video)

    def _clip(self, frames: Tensor, tokens: dict[str, Tensor]) -> float:
        """Mean over frames (T, 3, S, S) of their cosine with the prompt."""
        text = self.model.text_projection(self.model.text_model(**tokens).pooler_output)
        pooled = [self.model.vision_model(pixel_values=chunk).pooler_output for chunk in frames.split(CHUNK)]
        images = self.model.visual_projection(torch.cat(pooled))
        return float(F.cosine_similarity(images, text).mean())

    def _xclip(self, frames: Tensor, tokens: dict[str, Tensor]) -> float:
        """Cosine of the clip with the prompt, which X-CLIP enriches with what the clip shows."""
        answer = self.model(pixel_values=frames[None], **tokens)
        return float(F.cosine_similarity(answer.video_embeds, answer.text_embeds[:, 0]).mean())

    def _pixels(self, clip: Tensor) -> Tensor:
        """A clip (3, T, H, W) in [0, 1] -> frames (T, 3, S, S) as the encoder takes them."""
        if self.frames is not None:
            clip = clip[:, torch.linspace(0, clip.shape[1] - 1, self.frames).round().long()]
        H, W = clip.shape[2:]
        short = min(H, W)
        size = (self.size * H // short, self.size * W // short)
        frames = resize_frames(clip[None] * 2 - 1, size, self.filter)[0].transpose(0, 1) / 2 + 0.5
        top, left = (size[0] - self.size) // 2, (size[1] - self.size) // 2
        frames = frames[..., top : top + self.size, left : left + self.size]
        normalised = (frames - self.mean.view(3, 1, 1)) / self.std.view(3, 1, 1)
        return normalised.to(self.model.device)

    def _tokens(self, prompt: str) -> dict[str, Tensor]:
        if len(self.tokenizer(prompt)["input_ids"]) > self.tokens:
            warnings.warn(f"the prompt is cut to {self.tokens} tokens: {prompt[:60]!r}...", stacklevel=3)
        encoded = self.tokenizer(prompt, truncation=True, max_length=self.tokens, return_tensors="pt")
        return {name: encoded[name].to(self.model.device) for name in ("input_ids", "attention_mask")}

    def _settings(self) -> Protocol:
        return {
            "encoder": self.kind,
            "encoder_sha256": self.sha256,
            "encoder_size": f"{self.size}x{self.size}",
            "encoder_resize": f"{self.filter}, shorter side, centre crop",
            "encoder_frames": self.frames or "all",
        }


def weights_hash(folder: Path) -> str:
    """sha256 of a folder's file of weights; of several, over their names and hashes. safetensors before .bin."""
    files = visible(folder, "*.safetensors") or visible(folder, "*.bin")
    if not files:
        raise InputError(f"{folder}: no weights; expected model.safetensors or pytorch_model.bin")
    if len(files) == 1:
        return file_hash(files[0])
    return sha256("".join(f"{f.name} {file_hash(f)}\n" for f in files))


def _settings_of(folder: Path) -> dict[str, Any]:
    settings = _json(folder / "config.json")
    if settings is None:
        raise InputError(f"{folder}: no config.json; expected the folder of a CLIP or X-CLIP model")
    if settings.get("model_type") not in CLASSES:
        raise InputError(f"{folder}: a model of type {settings.get('model_type')!r}, expected {' or '.join(CLASSES)}")
    return settings


def _load(folder: Path, kind: str) -> tuple[Any, Any]:
    """The frozen model and its tokenizer, from disk."""
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "interop", "agreement with the prompt") from None
    weights_hash(folder)  # says plainly where there are no weights
    try:
        model, info = getattr(transformers, CLASSES[kind]).from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds for a folder that is not whole
        raise InputError(f"{folder}: not a whole {CLASSES[kind]} folder ({first_line(error)})") from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(f"{folder}: {len(missing)} weights of {CLASSES[kind]} are missing: {', '.join(missing[:4])}")
    return model.eval().requires_grad_(False), tokenizer


def _preprocessing(folder: Path) -> tuple[Tensor, Tensor, Resize]:
    """Mean and standard deviation per channel of pixels in [0, 1], and the filter."""
    settings = _json(folder / "preprocessor_config.json")
    if settings is None:  # newer versions write one file for pictures, videos and text
        together = _json(folder / "processor_config.json") or {}
        settings = together.get("image_processor") or together.get("video_processor")
    if settings is None or "image_mean" not in settings or "image_std" not in settings:
        raise InputError(f"{folder}: no preprocessor_config.json with image_mean and image_std")
    resample = settings.get("resample", 3)
    if resample not in FILTERS:
        raise InputError(f"{folder}: resample is {resample!r}, expected 2 (bilinear) or 3 (bicubic)")
    return torch.tensor(settings["image_mean"]), torch.tensor(settings["image_std"]), FILTERS[resample]


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    loaded = read_json(path)
    return loaded if isinstance(loaded, dict) else None
