"""Which codecs this installation has: those that are written, tried on a few frames, and those that can be read."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.codec import Codec
from av.codec.codec import UnknownCodecError

WRITTEN = {"h264": ".mp4", "vp9": ".webm", "ffv1": ".mkv", "gif": ".gif", "webp": ".webp"}
"""The codecs that videos are written in, by an ending that asks for them; ffv1 without loss."""
READ = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "prores", "mjpeg", "ffv1", "gif")
"""The codecs of most clips that people have."""


def version() -> str:
    """PyAV's version and FFmpeg's libraries' beneath it."""
    return f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def unreadable() -> list[str]:
    """The codecs of `READ` that can't be decoded here."""
    missing = []
    for name in READ:
        try:
            Codec(name, "r")
        except UnknownCodecError:
            missing.append(name)
    return missing


def unwritable(folder: Path) -> dict[str, str]:
    """The codecs of `WRITTEN` that don't work here, and why: each writes a short clip into `folder` and reads it."""
    from kinolab import video

    frames = np.zeros((3, 32, 32, 3), np.uint8)
    for k, frame in enumerate(frames):  # a grey square that moves: every codec gives it back within some levels
        frame[8:24, 4 * k : 4 * k + 16] = 200
    found = {}
    for name, suffix in WRITTEN.items():
        path = folder / f"try{suffix}"
        try:
            video.write(path, frames, fps=8, lossless=name == "ffv1")
            back = video.read(path).frames
            if back.shape != frames.shape or np.abs(back.astype(int) - frames).mean() > 12:
                found[name] = "other pixels come back than were written"
        except Exception as error:  # whatever a broken library raises is what is to be said
            found[name] = " ".join(str(error).split()) or type(error).__name__
    return found
