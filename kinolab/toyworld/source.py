"""The toy world as a source of windows: clip i is made from seed + i when it is asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pydantic import Field

from kinolab import video
from kinolab.contracts.examples import ClipRecord, ClipSource, Example, ShapeRules, SourceConfig, Split, Verdict
from kinolab.runtime.hashes import canonical, sha256
from kinolab.toyworld.clips import CLASSES, WorldConfig, make_clip

# Held-out clips take their seeds from here on, far from any that training reaches.
HELDOUT_SEEDS = 2**40


class WorldSourceConfig(SourceConfig):
    """Clips of the toy world, made when they are asked for."""

    kind: Literal["world"] = "world"
    world: WorldConfig = WorldConfig()
    """What the clips look like: size, frames, frame rate, objects, scenarios."""
    count: int = Field(10_000, ge=1)
    """Different clips to train on."""
    heldout_count: int = Field(256, ge=1)
    """Different clips that are held out; their seeds are never trained on."""
    seed: int = Field(0, ge=0, lt=HELDOUT_SEEDS // 2)
    """Seed of the first clip."""
    split: Split = "train"
    """Which side to yield: train, heldout, or all (train, then heldout)."""

    def clip_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of every clip."""
        return self.world.frames, self.world.size, self.world.size


class WorldSource(ClipSource):
    """The toy world as a source: `source[i]` is an `Example` of pixels, the same one whenever it is asked for.

    Args:
        config: what to make, and how many.
        spec: the autoencoder's shape rules; frame counts are snapped to them (`notes` says so).

    Raises:
        InputError: where the size breaks the autoencoder's rule.
    """

    Config = WorldSourceConfig
    classes: tuple[str, ...] = CLASSES

    def __init__(self, config: WorldSourceConfig, spec: ShapeRules | None = None) -> None:
        self.config = config
        self.world = config.world
        self._notes: list[str] = []
        if spec is not None:
            frames = spec.snap_frames(self.world.frames)
            spec.check(frames, self.world.size, self.world.size)
            if frames != self.world.frames:
                self._notes.append(
                    f"clips of {frames} frames instead of {self.world.frames}: "
                    f"the autoencoder takes {spec.frame_rule} frames"
                )
                self.world = self.world.model_copy(update={"frames": frames})
        self.frames, self.size = self.world.frames, (self.world.size, self.world.size)
        self._config_json = canonical(self.world.model_dump(mode="json"))

    def __len__(self) -> int:
        counts = {"train": self.config.count, "heldout": self.config.heldout_count}
        return sum(counts.values()) if self.config.split == "all" else counts[self.config.split]

    def seed(self, index: int) -> int:
        """The seed of clip `index`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        index %= len(self)
        if self.config.split == "all":
            heldout, index = index >= self.config.count, index - self.config.count * (index >= self.config.count)
        else:
            heldout = self.config.split == "heldout"
        return self.config.seed + index + HELDOUT_SEEDS * heldout

    def __getitem__(self, index: int) -> Example:
        """Clip `index`: video (3, T, S, S)."""
        clip = make_clip(self.world, self.seed(index))
        r = self.record(index)
        return Example(video.to_tensor(clip.frames), clip.fps, clip.caption, clip.label, r.source, r.time_range)

    def shape(self, index: int) -> tuple[int, int, int]:
        """Frames, height and width: all clips have the same."""
        return self.frames, *self.size

    def record(self, index: int) -> ClipRecord:
        """What is known of clip `index` without making it: not yet its caption and label."""
        seed = self.seed(index)
        return ClipRecord(
            source=f"world/{seed:013d}",
            source_hash=sha256(f"{self._config_json}:{seed}"),
            time_range=(0.0, self.frames / self.world.fps),
            frames=self.frames,
            fps=self.world.fps,
            caption=None,
            label=None,
            annotated=False,
        )

    def transform(self) -> dict[str, object]:
        """The config of the world, which decides the pixels."""
        return {"kind": "world", "world": self.world.model_dump(mode="json")}

    def verdicts(self) -> list[Verdict]:
        """One verdict per side: generated clips are all kept."""
        return self._verdicts

    @cached_property
    def _verdicts(self) -> list[Verdict]:
        sides: list[tuple[str, Split, int]] = [
            ("world (train)", "train", self.config.count),
            ("world (held out)", "heldout", self.config.heldout_count),
        ]
        return [
            Verdict(name, count, split, frames=self.frames, fps=self.world.fps, size=self.size)
            for name, split, count in sides
            if self.config.split in (split, "all")
        ]

    def notes(self) -> list[str]:
        """Whether the frame count was snapped."""
        return list(self._notes)
