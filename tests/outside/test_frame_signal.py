"""A signal of frames from outside: traced, scored, decided by and cached like any other of `kinolab data curate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from kinolab import video
from kinolab.data.curate.frames import EachFrame, FrameSignal, Part, Score, Trace, View, Watcher, inside, mean_of
from kinolab.tables import FRAME_SIGNALS
from tests.outside.commands import run


class Warm(FrameSignal):
    """How much more red than blue there is."""

    scores: ClassVar[dict[str, Score]] = {"warmth": Score("levels", "red less blue")}

    def watch(self) -> Watcher:
        return EachFrame(["warmth"], lambda view: self._numbers(view))

    def _numbers(self, view: View) -> tuple[float]:
        return (float(view.image[..., 0].mean() - view.image[..., 2].mean()),)

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        return {"warmth": mean_of(inside(trace, part), "warmth")}


def test_it_decides_what_is_kept(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    FRAME_SIGNALS.register("warm")(Warm)
    request.addfinalizer(lambda: FRAME_SIGNALS.remove("warm"))
    for name, colour in {"fire": (200, 60, 20), "ice": (20, 60, 200)}.items():
        frames = np.full((8, 32, 32, 3), colour, np.uint8)
        video.write(tmp_path / "raw" / f"{name}.mkv", frames, fps=8, lossless=True)
    off = [word for name in ("motion", "text", "duplicates") for word in ("-s", f"signals.{name}=false")]
    words = ["data", "curate", tmp_path / "raw", "-o", tmp_path / "set", *off, "-s", "keep.warmth.min=0"]
    assert "warmth >= 0" in run(*words)
    rows = [json.loads(line) for line in (tmp_path / "set" / "table.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["clip"]: (row["warmth"], row["kept"]) for row in rows} == {
        "fire.mkv": (180, True), "ice.mkv": (-180, False),
    }  # fmt: skip
    assert len(list((tmp_path / "set" / "clips").iterdir())) == 1
    assert "(0 read now)" in run(*words)
