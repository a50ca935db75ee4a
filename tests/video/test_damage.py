"""Losses in the middle and at the end are said, in every container, and files that are whole are left in peace."""

from __future__ import annotations

import io
import re
from pathlib import Path

import av
import numpy as np
import pytest

from kinolab import video
from kinolab.errors import InputError
from kinolab.video import walk
from tests.video.clips import CASES, CODECS, FRAMES, RATE, copy, encode, number_of, picture, seen

pytestmark = pytest.mark.slow  # many short ones, which take long together

GARBAGE = 700


def damaged(path: Path, place: float) -> Path:
    """The file with random bytes at a share of its length."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * place)
    data[start : start + GARBAGE] = np.random.default_rng(3).bytes(GARBAGE)
    path.write_bytes(data)
    return path


def readable(path: Path) -> tuple[list[video.Frame], str]:
    """The frames that a read gives, and its last word."""
    frames: list[video.Frame] = []
    try:
        for frame in video.iter_frames(path, threads=1):
            frames.append(frame)
    except InputError as error:
        return frames, str(error)
    return frames, ""


SOUND = [
    ("vp8", "webm"), ("vp9", "webm"), ("h264-b", "mkv"), ("hevc-b", "mkv"), ("mjpeg", "mkv"), ("vp9", "flv"),
    ("h264-b", "ts"), ("mpeg2-b", "ts"), ("mjpeg", "avi"), ("mpeg4-b", "avi"), ("h264-b", "mp4"), ("av1", "mp4"),
    ("mpeg2-b", "mkv"), ("mpeg4", "ts"),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "container"), [case for case in SOUND if case[0] in CODECS])
def test_what_comes_before_damage_is_right_and_the_rest_is_said_to_be_lost(
    tmp_path: Path, codec: str, container: str
) -> None:
    path = encode(tmp_path / f"a.{container}", codec)
    whole = [frame.image for frame in video.iter_frames(path, threads=1)]
    given, said = readable(damaged(path, 0.5 if container in ("mp4", "mov") else 0.7))  # their index is at the end
    assert re.search(r"damaged: decoding stopped at [\d.]+ s after \d+ frames \(.+\)$", said), said
    assert 8 <= len(given) < FRAMES
    # The bytes hit one frame, which no decoder need notice, before they hit what the container says of the next; three
    # frames between it and an earlier one may be made of it.
    sound = given[: -4 if codec.endswith("-b") else -1]
    assert all(np.array_equal(frame.image, whole[k]) for k, frame in enumerate(sound))
    assert [round(frame.time * RATE) for frame in given] == list(range(len(given)))


def test_the_damaged_half_of_a_webm() -> None:
    path = CASES / "damaged-half-lost.webm"
    given, said = readable(path)
    assert len(given) == 50
    assert said == (
        f"{path}: damaged: decoding stopped at 2.000 s after 50 frames (the header says 4.000 s, and 31816 bytes are "
        "unreadable)"
    )
    for exact in (False, True):
        info = video.probe(path, exact=exact)
        assert (info.frames, info.duration, info.fps) == (50, 2.0, 25.0)
        assert any(note.startswith("damaged: ") for note in info.notes)


@pytest.mark.parametrize("container", ["mkv", "flv"])
def test_damage_is_seen_without_a_word_of_the_header_too(tmp_path: Path, container: str) -> None:
    """Bytes that a demuxer passes over are no elements of its container."""
    path = damaged(live(tmp_path / f"a.{container}"), 0.6)
    assert video.probe(path).frames in range(8, FRAMES)
    given, said = readable(path)
    assert "damaged: " in said and 8 <= len(given) < FRAMES


class Pipe(io.RawIOBase):
    """A place to write to that can't go back, as in a live recording: no header knows the length."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.data += bytes(data)  # type: ignore[call-overload]
        return len(bytes(data))  # type: ignore[call-overload]


def live(path: Path) -> Path:
    pipe = Pipe()
    kinds = {".mkv": ("matroska", "h264-b"), ".flv": ("flv", "h264-b")}
    container, codec = kinds[path.suffix]
    with av.open(pipe, "w", format=container) as out:
        stream = out.add_stream(CODECS[codec][0], rate=RATE, options=CODECS[codec][1])
        assert isinstance(stream, av.VideoStream)
        first = picture(0)
        stream.height, stream.width, stream.pix_fmt = *first.shape[:2], "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number), "rgb24").reformat(format="yuv420p")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    path.write_bytes(pipe.data)
    return path


@pytest.mark.parametrize("container", ["mkv", "flv"])
def test_live_recordings_are_whole(tmp_path: Path, container: str) -> None:
    path = live(tmp_path / f"a.{container}")
    assert video.probe(path).notes == () and readable(path)[1] == "" and video.probe(path).frames == FRAMES


@pytest.mark.parametrize("container", ["mkv", "mp4", "mov", "avi", "ts", "flv"])
def test_sound_between_the_pictures_and_after_them_is_no_loss(tmp_path: Path, container: str) -> None:
    """Sound lies between the packets of a video, and may be longer than it."""
    path = with_sound(encode(tmp_path / "silent.mkv", "h264"), tmp_path / f"a.{container}", seconds=4.0)
    numbers, _ = seen(path)
    assert numbers == list(range(FRAMES))
    info = video.probe(path)
    assert info.has_audio and info.frames == FRAMES and not any("damaged" in note for note in info.notes)
    assert info.fps == pytest.approx(RATE, rel=1e-3) and info.duration == pytest.approx(FRAMES / RATE, abs=0.05)


def with_sound(source: Path, target: Path, seconds: float) -> Path:
    """The pictures of a file with a tone, which goes on after them."""
    tone = np.sin(np.arange(int(16000 * seconds)) * 0.2).astype(np.float32)[None]
    with av.open(str(source)) as given, av.open(str(target), "w") as out:
        stream = given.streams.video[0]
        encoded = out.add_stream("libx264", rate=RATE, options=CODECS["h264"][1])
        assert isinstance(encoded, av.VideoStream)
        encoded.width, encoded.height, encoded.pix_fmt = stream.width, stream.height, "yuv420p"
        audio = out.add_stream("aac", rate=16000, layout="mono")
        sounds = []
        for start in range(0, tone.shape[1] - 1023, 1024):
            sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, start : start + 1024]), "fltp", "mono")
            sound.sample_rate, sound.pts = 16000, start
            sounds.append(sound)
        for frame in given.decode(stream):
            while sounds and (sounds[0].pts or 0) / 16000 <= float(frame.time):
                out.mux(audio.encode(sounds.pop(0)))
            out.mux(encoded.encode(frame))
        out.mux(encoded.encode(None))
        for sound in sounds:
            out.mux(audio.encode(sound))
        out.mux(audio.encode(None))
    return target


def test_frames_of_an_index_that_are_not_there_are_counted(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.avi", "mjpeg")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        places = [packet.pos for packet in file.demux(video=0) if packet.pos is not None]
    data[places[20] - 8 : places[20] - 4] = b"JUNK"  # frame 20 is passed over
    path.write_bytes(data)
    given, said = readable(path)
    assert len(given) == 20 and "1 frame of its index can't be found" in said


def test_a_copy_that_keeps_a_length_of_old_is_no_damage(tmp_path: Path) -> None:
    """Headers that promise more than there ever was are not believed, but said."""
    source = encode(tmp_path / "a.mkv", "h264")
    short = copy(source, tmp_path / "short.mkv", last=16)
    data = short.read_bytes()
    old = b"\x44\x89\x88"  # Duration, 8 bytes
    place = data.index(old) + 3
    lying = data[:place] + np.array([9000.0], ">f8").tobytes() + data[place + 8 :]
    short.write_bytes(lying.replace(b"00:00:00.640000000", b"00:00:09.000000000"))
    given, said = readable(short)
    assert len(given) == 16 and said == ""
    info = video.probe(short)
    assert info.frames == 16


@pytest.mark.parametrize("container", ["mkv", "flv", "ts", "mpg"])
def test_walks_lead_from_packet_to_packet_and_not_through_garbage(tmp_path: Path, container: str) -> None:
    path = encode(tmp_path / f"a.{container}", "mpeg2-b" if container in ("ts", "mpg") else "h264")
    with av.open(str(path)) as file:
        name = next(name for name in file.format.name.split(",") if name in walk.WALKS)
        places = sorted({packet.pos for packet in file.demux(video=0) if packet.pos is not None})
    step, size = walk.WALKS[name], path.stat().st_size
    spans = list(zip(places, [*places[1:], size], strict=True))
    with path.open("rb") as whole:
        assert all(step(whole, start, stop) for start, stop in spans)
    data = bytearray(path.read_bytes())
    start = places[len(places) // 2]
    data[start + 16 : start + 216] = np.random.default_rng(1).bytes(200)
    if container == "mpg":
        data[start : start + 4] = b"\1\2\3\4"
    with io.BytesIO(bytes(data)) as broken:
        assert not step(broken, start if container != "mkv" else places[len(places) // 2 - 1], places[-1])


def test_numbers_are_readable() -> None:
    assert [number_of(picture(number)) for number in (0, 1, 37, 255)] == [0, 1, 37, 255]
