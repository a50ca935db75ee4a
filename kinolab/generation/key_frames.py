"""The groups of a dpvae when a clip is reconstructed: whose rule counts, where the cuts are, what to say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from kinolab import video
from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec
from kinolab.autoencoders.dpvae import DpVae
from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.layers.key_frames import Group, KeyFrameConfig
from kinolab.layers.scene_cuts import detector_cuts


def chosen_rule(autoencoder: Autoencoder, given: Mapping[str, Any]) -> KeyFrameConfig | None:
    """The autoencoder's own rule for key frames, changed in what is given; none where nothing is.

    Raises:
        InputError: for an autoencoder without key frames, and values that don't fit each other.
    """
    if not given:
        return None
    own = _own_rule(autoencoder).model_dump()
    settled = (own | dict(given)) if given.get("rule", "fixed") == "fixed" else (own | {"period": None} | dict(given))
    rule, cuts = settled["rule"], settled["cuts"]
    if (rule == "fixed") != (settled["period"] is not None):
        advice = "give --period FRAMES" if rule == "fixed" else "leave it out, or ask for fixed"
        raise InputError(f"key frames: a period belongs to rule fixed; got rule {rule}, {_period(settled)}; {advice}")
    finder = next((name for name in ("cuts", "cut_threshold") if name in given), None)
    if finder is not None and rule not in ("scene", "best"):
        raise InputError(f"key frames: {finder} is for rules scene and best, got rule {rule}; leave it out")
    if "cut_threshold" in given and cuts != "builtin":
        raise InputError(f"key frames: cut_threshold is for cuts builtin, got {cuts}; leave it out")
    if rule == "scene" and cuts == "none":
        raise InputError("key frames: without cuts rule scene is rule first; ask for that, or for cuts builtin")
    return load_config(KeyFrameConfig, settled, name="key frames")


def _period(settled: Mapping[str, Any]) -> str:
    return "no period" if settled["period"] is None else f"period {settled['period']}"


def key_frame_rule(autoencoder: Autoencoder, chosen: KeyFrameConfig | None) -> KeyFrameConfig | None:
    """How key frames are chosen: as asked for, else as the autoencoder's config says; none where it has no key frames.

    Raises:
        InputError: where a rule is asked of an autoencoder without key frames.
    """
    if chosen is None and not isinstance(autoencoder, DpVae):
        return None
    own = _own_rule(autoencoder)
    return own if chosen is None else chosen


def _own_rule(autoencoder: Autoencoder) -> KeyFrameConfig:
    if not isinstance(autoencoder, DpVae):
        raise InputError(f"key frames are chosen for autoencoders of kind dpvae, got {autoencoder.config.kind}")
    return autoencoder.config.key_frames


def known_cuts(
    clip: Path, rule: KeyFrameConfig | None, fps: float | None, frames: int | None
) -> tuple[int, ...] | None:
    """The cuts of a clip where PySceneDetect, which sees it whole, shall find them; none where they are found later.

    fps, frames: the rate that the clip is re-timed to, and its frames at most; none = its own.
    """
    if rule is None or not rule.finds_cuts or rule.cuts != "scenedetect":
        return None
    info = video.probe(clip)
    small = video.iter_frames(clip, fps=fps, size=(144, 256), resize="stretch")
    return detector_cuts((frame.image for frame in islice(small, frames)), fps or info.fps)


def group_notes(groups: Sequence[Group], spec: AutoencoderSpec, rule: KeyFrameConfig) -> list[str]:
    """What to know about the groups of a clip where they are not of the model's length."""
    frames, r = sum(group.frames for group in groups), spec.temporal_ratio
    longest, notes = rule.period or spec.group_frames or frames, list[str]()
    if frames < longest:
        notes.append(f"the clip's {frames} frame{'s are' if frames > 1 else ' is'} fewer than a group of {longest}")
    if spec.group_frames is not None and longest > spec.group_frames:
        notes.append(f"a period of {longest} makes groups longer than the model's own of {spec.group_frames} frames")
    if len(groups) == frames > 1 and longest > 1:
        notes.append("every frame is a group of its own, as a cut stands before each: nothing is saved along time")
    padded = sum((group.frames - 1 - group.key) % r != 0 for group in groups)
    if padded:
        notes.append(f"{padded} of {len(groups)} groups are not 1 + {r}*k frames long: their last frame is repeated")
    return notes


def listed(numbers: Sequence[int], most: int = 12) -> str:
    """Numbers in words, the first ones of many."""
    shown = ", ".join(str(n) for n in numbers[:most])
    return shown if len(numbers) <= most else f"{shown}, ... ({len(numbers) - most} more)"
