"""Small clips whose every frame says its number in its pixels, in any codec and container that PyAV writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from kinolab import video

CASES = Path(__file__).parent.parent / "video_cases"
FRAMES, GROUP, RATE = 40, 8, 25
HEIGHT, WIDTH = 64, 96

OUT_OF_ORDER = "b-adapt=0:scenecut=0"
QUIET = f"log-level=none:pools=1:bframes=3:{OUT_OF_ORDER}"
CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"bf": "0", "g": "8", "sc_threshold": "0", "preset": "veryfast"}),
    "h264-b": ("libx264", {"bf": "3", "g": "8", "preset": "veryfast", "x264-params": OUT_OF_ORDER}),
    "h264-open": ("libx264", {"bf": "3", "preset": "veryfast", "x264-params": f"open-gop=1:keyint=8:{OUT_OF_ORDER}"}),
    "hevc-b": ("libx265", {"preset": "ultrafast", "x265-params": f"keyint=8:open-gop=0:{QUIET}"}),
    "hevc-open": ("libx265", {"preset": "ultrafast", "x265-params": f"keyint=8:open-gop=1:{QUIET}"}),
    "mpeg4": ("mpeg4", {"g": "8", "sc_threshold": "1000000000"}),
    "mpeg4-b": ("mpeg4", {"g": "8", "bf": "2", "sc_threshold": "1000000000"}),
    "mpeg2-b": ("mpeg2video", {"g": "8", "bf": "2", "sc_threshold": "1000000000"}),
    "vp8": ("libvpx", {"g": "8", "cpu-used": "8", "deadline": "realtime"}),
    "vp8-hidden": ("libvpx", {"g": "8", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "6"}),
    "vp9": ("libvpx-vp9", {"g": "8", "cpu-used": "8"}),
    "av1": ("libsvtav1", {"preset": "12", "g": "8", "svtav1-params": "lp=1"}),
    "mjpeg": ("mjpeg", {}),
    "ffv1": ("ffv1", {"g": "8"}),
}  # fmt: skip
CODECS = {name: codec for name, codec in CODECS.items() if codec[0] in av.codecs_available}
"""Name -> encoder and its options: key frames at about every 8th frame, with and without frames out of order."""

CONTAINERS = {
    "avi": {*CODECS},
    "mp4": {*CODECS} - {"vp8", "vp8-hidden"},
    "mov": {*CODECS} - {"vp8", "vp8-hidden", "vp9", "av1", "ffv1"},
    "mkv": {*CODECS},
    "webm": {"vp8", "vp8-hidden", "vp9", "av1"},
    "ts": {"h264", "h264-b", "h264-open", "hevc-b", "hevc-open", "mpeg4", "mpeg4-b", "mpeg2-b"},
    "flv": {"h264", "h264-b", "h264-open", "hevc-b", "hevc-open", "vp9", "av1"},
}
CONTAINERS["avi"] -= {"hevc-b", "hevc-open"}
"""Which codecs a container takes."""
MATRIX = [(codec, container) for container, codecs in CONTAINERS.items() for codec in CODECS if codec in codecs]


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame (H, W, 3) that shows its number in eight blocks, white for one, above a bar that moves."""
    image = np.full((height, width, 3), 60, np.uint8)
    for bit in range(8):
        image[8:24, 8 + bit * 10 : 16 + bit * 10] = 235 if number >> bit & 1 else 20
    image[30:60, number * 3 % width : number * 3 % width + 8] = (200, 40, 40)
    return image


def number_of(image: np.ndarray) -> int:
    """The number that a frame shows."""
    return sum((image[11:21, 10 + bit * 10 : 14 + bit * 10].mean() > 127) << bit for bit in range(8))


def encode(
    path: Path,
    codec: str = "h264-b",
    *,
    numbers: Iterable[int] = range(FRAMES),
    pts: Sequence[int] | None = None,
    tick: Fraction = Fraction(1, RATE),
    turn: int = 0,
    **tags: Any,
) -> Path:
    """Write numbered frames, at 25 a second unless `pts` says otherwise; `tags` are set on the encoder's context."""
    encoder, options = CODECS[codec]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream(encoder, rate=RATE, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = tick
        # The threads of VP8 wait for each other by spinning: with more of them than cores, minutes for a small clip.
        stream.codec_context.thread_count = 1
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        if turn:
            stream.set_display_rotation(turn)
        for index, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(picture(number), "rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = index if pts is None else pts[index], tick
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def copy(source: Path, target: Path, first: int = 0, last: int | None = None, pts: Sequence[int] | None = None) -> Path:
    """Packets `first` to `last` of a file, as they are, in another container; at other times where `pts` says so."""
    with av.open(str(source)) as given, av.open(str(target), "w") as out:
        stream = given.streams.video[0]
        copied = out.add_stream_from_template(stream)
        for index, packet in enumerate([p for p in given.demux(stream) if p.size][first:last]):
            packet.stream = copied
            if pts is not None:
                packet.pts = packet.dts = pts[index]
            out.mux(packet)
    return target


def seen(path: Path, **options: Any) -> tuple[list[int], list[float]]:
    """The numbers that a read shows, and their times."""
    frames = list(video.iter_frames(path, threads=1, **options))
    return [number_of(frame.image) for frame in frames], [frame.time for frame in frames]
