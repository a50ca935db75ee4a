"""What the helper says of people's clips: what they hold, how they look, and what training will make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinolab import video
from kinolab.errors import InputError

if TYPE_CHECKING:
    import numpy as np

Told = Callable[[int, int], None]
"""Hears how many pieces of how many are done."""
PLAYED = {
    "h264": ("mov", "mp4", "matroska"),
    "vp8": ("webm", "matroska"),
    "vp9": ("webm", "mp4", "mov", "matroska"),
    "av1": ("webm", "mp4", "mov", "matroska"),
}
"""Codec -> the containers in which every browser that the studio is tested in plays it."""
DEPTHS = ("yuv420p", "yuvj420p")
"""Pixel formats that all of them play."""
PROXY_SIDE = 480
"""Shorter side of a copy for the browser, in pixels."""


def untold(done: int, total: int) -> None:
    """Nobody listens."""


def probe(path: str) -> dict[str, Any]:
    """What a file holds, and whether a browser plays it as it is."""
    info = video.probe(Path(path))
    found = {
        "width": info.width, "height": info.height, "frames": info.frames, "fps": round(info.fps, 4),
        "seconds": info.duration, "codec": info.codec, "container": info.container, "pixels": info.pixel_format,
        "audio": info.has_audio, "notes": list(info.notes),
    }  # fmt: skip
    containers = PLAYED.get(info.codec, ())
    plays = any(name in info.container for name in containers) and info.pixel_format in DEPTHS
    return found | {"plays": plays and info.rotation == 0}


def poster(path: str, out: str, side: int = 240) -> dict[str, Any]:
    """Write the first frame of a clip as a small picture."""
    frame = next(video.iter_frames(Path(path), threads=1, size=side))
    video.write(Path(out), [frame.image], fps=1, quality=80)
    return {"height": frame.image.shape[0], "width": frame.image.shape[1]}


def proxy(path: str, out: str, told: Told = untold) -> dict[str, Any]:
    """Write a copy of a clip that browsers play: H.264, frames as stored and evenly spaced."""
    source = Path(path)
    info = video.probe(source)
    side = min(PROXY_SIDE, info.height, info.width)
    lost: list[str] = []
    total = info.frames or round((info.duration or 0) * info.fps)

    def frames() -> Iterator[np.ndarray]:
        for number, frame in enumerate(video.until_damage(video.iter_frames(source, size=side), lost)):
            told(number, total)
            yield frame.image

    video.write(Path(out), frames(), info.fps)
    return {"lost": lost}


def check(
    path: str, settings: dict[str, Any], recipe: str | None = None, overrides: tuple[str, ...] = (), told: Told = untold
) -> Any:
    """The verdict of `kinolab data check` on each clip of a folder, and its notes."""
    from kinolab.cli.data import plan
    from kinolab.data import FolderSource, summarise

    size = settings.get("size")
    config, spec, _ = plan(
        Path(path), recipe, settings.get("frames"), None if size is None else str(size), settings.get("fps"), None,
        list(overrides),
    )  # fmt: skip
    source = FolderSource(config.model_copy(update={"split": "all"}), spec, told, allow_empty=True, signals=True)
    totals = summarise(source.verdicts())
    return {
        "frames": source.frames, "size": list(source.size), "notes": source.notes(),
        "totals": asdict(totals), "verdicts": [_verdict(v) for v in source.verdicts()],
    }  # fmt: skip


def settings(path: str, name: str) -> dict[str, Any]:
    """What a made video says of itself: the request that made it, as it was settled."""
    from kinolab.generation.provenance import embedded

    return dict(embedded(Path(path), name))


def scenes(path: str, told: Told = untold) -> dict[str, Any]:
    """Where scenes of a clip begin: numbers of frames and seconds, and the times of all frames."""
    from kinolab.data.scan import scan_file

    info = video.probe(Path(path))
    total, read = 2 * (info.frames or round((info.duration or 0) * info.fps)), count(1)  # read once, and once more
    found = scan_file(Path(path), Path(path).name, scenes=True, seen=lambda: told(next(read), total))
    if not found.times:
        raise InputError(f"{path}: {found.damage or 'no frames'}")
    cuts = [0, *(found.cuts or ())]
    return {"cuts": [{"frame": k, "time": found.times[k]} for k in cuts], "frames": len(found.times),
            "seconds": found.times[-1] if len(found.times) > 1 else 0.0}  # fmt: skip


def _verdict(verdict: Any) -> dict[str, Any]:
    found = asdict(verdict)
    found["dropped"], found["notes"] = list(verdict.dropped), list(verdict.notes)
    return found
