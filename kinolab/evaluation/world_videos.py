"""The toy world's checks on a folder of videos that anything may have generated, by the prompts beside them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from kinolab import __version__, video
from kinolab.contracts.events import Listener, advance, events_of
from kinolab.errors import InputError
from kinolab.evaluation.clips import prompt_beside
from kinolab.evaluation.world import judge
from kinolab.evaluation.world_report import ClipResult, WorldReport
from kinolab.runtime.text import read_text
from kinolab.toyworld.reader import read_world, roughness
from kinolab.toyworld.words import WorldRequest, parse_caption


def evaluate_videos(folder: Path, events: Listener = None) -> WorldReport:
    """Read every video of a folder, and count how many show what their prompts ask for.

    The prompt is that of the `.json` beside a video (as `kinolab generate` writes it), of a `.txt`, or the video's own
    name (as VBench has it, with `-0` and so on behind the prompt).

    Raises:
        InputError: where there is no video, or none has a prompt in the words of the toy world.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of videos")
    files = [p for p in video.visible_files(folder) if p.suffix.lower() in video.VIDEO_SUFFIXES]
    if not files:
        raise InputError(f"{folder}: no videos; expected {', '.join(sorted(video.VIDEO_SUFFIXES))}")
    told = events_of(events)
    results, sizes, left = list[ClipResult](), set[tuple[int, ...]](), list[str]()
    for number, path in enumerate(files, start=1):
        request = _request(path)
        if request is None:
            left.append(path.name)
            continue
        frames = np.stack([f.image for f in video.iter_frames(path)])
        sizes.add(frames.shape[:3])
        reading, scenario = read_world(frames), request[1].scenario or "-"
        checks = judge(request[1], reading, "prompt", scenario)
        results.append(ClipResult("generated", scenario, request[0], -1, -1, checks, roughness(reading)))
        advance(told, number, len(files))
    if not results:
        raise InputError(
            f"{folder}: none of {len(files)} videos has a prompt of the toy world beside it; expected clip.json as "
            "`kinolab generate` writes it, clip.txt with a caption, or the caption as its name"
        )
    notes = (
        [f"{len(left)} videos without a prompt of the toy world are left out, the first is {left[0]}"] if left else []
    )
    protocol = {
        "kinolab": __version__, "model": str(folder), "count": len(results), "first": 0, "asked_with": "prompt",
        "shapes": sorted(" x ".join(map(str, s)) for s in sizes), "interval": "Wilson, 95%",
    }  # fmt: skip
    return WorldReport(protocol, tuple(results), None, None, None, tuple(notes))


def _request(path: Path) -> tuple[str, WorldRequest] | None:
    """A video's prompt and what it asks for; none where there is no prompt, or it is in other words."""
    beside = path.with_suffix(".txt")
    text = read_text(beside).strip() if beside.exists() else None
    for prompt in (prompt_beside(path), text, re.sub(r"-\d+$", "", path.stem)):
        if prompt:
            try:
                return prompt, parse_caption(prompt)
            except InputError:
                continue
    return None
