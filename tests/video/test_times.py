"""Frames in order of display at rising times, every seek the frame of the full read: codecs by containers by cuts."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from kinolab import video
from kinolab.errors import InputError
from kinolab.video import times
from kinolab.video.stream import Stream
from tests.closeness import assert_within
from tests.video.clips import CASES, CODECS, FRAMES, GROUP, MATRIX, RATE, copy, encode, number_of, seen

pytestmark = pytest.mark.slow  # many short ones, which take long together

Clips = Callable[[str, str], Path]
QUICK = [(codec, container) for codec, container in MATRIX if container in ("avi", "mkv", "ts") or codec == "h264-b"]


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Numbered clips by codec and container, each made once."""
    folder = tmp_path_factory.mktemp("matrix")

    def made(codec: str, container: str) -> Path:
        path = folder / f"{codec}.{container}"
        return path if path.exists() else encode(path, codec)

    return made


def check_seeks(path: Path, numbers: list[int], at: list[float], places: list[int], **options: Any) -> None:
    """Seeks to some frames, by a process that knows nothing of the file and by one that has read it."""
    seek = video.seeks(path)
    for forget in (False, True):
        for place in places:
            if forget:
                times._pasts.clear()
            found = next(video.iter_frames(path, start=at[place], seek=seek, **options))
            assert (number_of(found.image), found.time) == (numbers[place], at[place]), f"frame {place}"


@pytest.mark.parametrize(("codec", "container"), QUICK)
def test_frames_are_in_order_and_seeks_find_them(clips: Clips, codec: str, container: str) -> None:
    path = clips(codec, container)
    numbers, at = seen(path)
    assert numbers == list(range(FRAMES))
    assert_within(at, np.arange(FRAMES) / RATE, 0.0011, "seconds")  # milliseconds in some containers
    check_seeks(path, numbers, at, [13, 24, 30, FRAMES - 1], threads=1)


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov", "ts"])
def test_copies_of_an_avi_with_frames_out_of_order(clips: Clips, tmp_path: Path, container: str) -> None:
    """They bear the times at which they are decoded, whatever the container could store."""
    path = copy(clips("h264-b", "avi"), tmp_path / f"a.{container}")
    numbers, at = seen(path)
    assert numbers == list(range(FRAMES))
    assert_within(at, np.arange(FRAMES) / RATE, 0.0011, "seconds")
    check_seeks(path, numbers, at, [15, 16, 17, 31], threads=1)
    assert [f.time for f in video.iter_frames(path, fps=RATE)] == [k / RATE for k in range(FRAMES)]


CUTS = [
    ("h264-b", "mp4", "mkv", 5), ("h264-open", "mkv", "mp4", 17), ("h264-open", "avi", "avi", 9),
    ("mpeg4", "mp4", "mp4", 5), ("mpeg4-b", "avi", "avi", 12), ("mpeg2-b", "ts", "ts", 17),
    ("hevc-open", "mkv", "mov", 12), ("vp9", "webm", "mkv", 5), ("vp8", "webm", "webm", 12), ("ffv1", "mkv", "mkv", 3),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "source", "container", "first"), [cut for cut in CUTS if cut[0] in CODECS])
def test_a_copy_from_the_middle_begins_at_its_first_key_frame(
    clips: Clips, tmp_path: Path, codec: str, source: str, container: str, first: int
) -> None:
    check_cut(clips(codec, source), tmp_path / f"cut.{container}", first)


def first_key_frame(source: Path, first: int) -> tuple[int, int]:
    """The number of the frame that the first key packet from packet `first` on makes, and the packets before that."""
    with av.open(str(source)) as file:
        packets = [packet.is_keyframe for packet in file.demux(video=0) if packet.size]
    with av.open(str(source)) as file:
        frames = [number for number, frame in enumerate(file.decode(video=0)) if frame.key_frame]
    place = packets.index(True, first)
    return frames[sum(packets[:place])], place - first


def check_cut(source: Path, path: Path, first: int) -> None:
    numbers, at = seen(copy(source, path, first))
    key, lost = first_key_frame(source, first)
    assert numbers == list(range(key, FRAMES))
    assert at[0] == 0 and (np.diff(at) > 0).all()
    check_seeks(path, numbers, at, [k for k in (1, 9, 13, 16, 17) if k < len(at)] + [len(at) - 1], threads=1)
    info = video.probe(path)
    assert info.frames == len(numbers)
    assert not lost or any("can't be decoded: no key frame comes before" in note for note in info.notes)


def unwritable(codec: str, source: str, container: str) -> str | None:
    """Why a copy can't be made, or isn't one that any decoder could begin."""
    if (codec, container) not in MATRIX:
        return "not in this container"
    if codec == "av1":
        return "PyAV takes no template of a decoder that isn't an encoder too"
    if container == "avi" and codec.startswith("h264") and source in ("mp4", "mov", "mkv", "flv"):
        return "needs start codes"
    if codec == "vp9" and source == "flv" and container in ("mp4", "mov"):
        return "the last frame has no length, and is cut off by the edit list"
    if container == "ts" and source not in ("ts", "avi") and (codec.startswith("mpeg4") or codec == "h264-open"):
        return "loses the headers"
    return None


COPIES = [
    (codec, source, container, first)
    for codec, source in MATRIX
    for container in ("avi", "mp4", "mkv", "mov", "webm", "ts")
    for first in (0, 5, 8, 17)
    if not unwritable(codec, source, container) and (first or source != container)
]


@pytest.mark.wide
@pytest.mark.parametrize(("codec", "source", "container", "first"), COPIES)
def test_every_copy(clips: Clips, tmp_path: Path, codec: str, source: str, container: str, first: int) -> None:
    check_cut(clips(codec, source), tmp_path / f"copy.{container}", first)


@pytest.mark.wide
@pytest.mark.parametrize(("codec", "container"), MATRIX)
@pytest.mark.parametrize("threads", [1, 4])
def test_every_seek_in_every_codec_and_container(clips: Clips, codec: str, container: str, threads: int) -> None:
    path = clips(codec, container)
    numbers, at = seen(path)
    assert numbers == list(range(FRAMES))
    check_seeks(path, numbers, at, list(range(13, FRAMES)), threads=threads)


def test_the_avi_of_ffmpeg() -> None:
    path = CASES / "h264-bframes.avi"
    with av.open(str(path)) as file:  # a decoder gives the order of display, whatever times its frames bear
        shown = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    whole = video.read(path)
    assert whole.times.tolist() == [k / 25 for k in range(75)] and whole.fps == 25 and len(shown) == 75
    small = [image[::8, ::8].astype(int) for image in shown]

    def place(frame: video.Frame) -> int:
        return int(np.argmin([np.abs(frame.image[::8, ::8].astype(int) - image).mean() for image in small]))

    assert [place(f) for f in video.iter_frames(path, fps=25)] == list(range(75))
    assert [place(f) for f in video.iter_frames(path, start=1.12, end=1.24)] == [28, 29, 30]
    assert video.probe(path).fps == 25 and "variable rate" not in video.probe(path).notes


def test_a_seek_in_an_avi_decodes_from_the_key_frame_that_an_earlier_read_knew(clips: Clips) -> None:
    path = clips("h264-open", "avi")
    for stream, most in ((Stream(path, 1), FRAMES), (Stream(path, 1), 2 * GROUP)):
        try:
            found = next(item for item in stream.frames(35 / RATE) if item.time >= 35 / RATE)
            assert number_of(found.load().to_ndarray(format="rgb24")) == 35 and stream.whole.decoded <= most
        finally:
            stream.close()


@pytest.mark.parametrize("container", ["mkv", "ts"])
def test_recordings_that_are_joined_stop_where_the_second_begins(clips: Clips, tmp_path: Path, container: str) -> None:
    path = tmp_path / f"joined.{container}"
    path.write_bytes(clips("mpeg2-b", container).read_bytes() * 2)
    given: list[int] = []
    with pytest.raises(
        InputError, match=r"damaged: decoding stopped at 1\.\d+ s .*(jump back to 0.000 s|damaged data)"
    ):
        for frame in video.iter_frames(path, threads=1):
            given.append(number_of(frame.image))
    assert given == list(range(len(given))) and len(given) >= FRAMES - 4  # the last ones may hang on what follows
    times._pasts.clear()
    assert number_of(next(video.iter_frames(path, start=30 / RATE)).image) == 30


@pytest.mark.parametrize(("first", "container"), [(250, "mkv"), (-6, "mp4"), (250, "ts"), (-6, "ts")])
def test_streams_that_do_not_begin_at_zero(tmp_path: Path, first: int, container: str) -> None:
    path = encode(tmp_path / f"a.{container}", pts=range(first, first + FRAMES))
    numbers, at = seen(path)
    assert at[0] == 0 and numbers == list(range(numbers[0], FRAMES))  # an mp4 begins at time 0 and not before
    assert_within(np.diff(at), 1 / RATE, 0.0011, "seconds")
    check_seeks(path, numbers, at, [13, 20, len(at) - 1], threads=1)


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_variable_rates_out_of_order(tmp_path: Path, codec: str, container: str) -> None:
    pts = np.cumsum([0, *([1, 3, 1, 9, 2] * 8)])[:FRAMES].tolist()
    for name in (codec, f"{codec}-b"):
        path = encode(tmp_path / f"{name}.{container}", name, pts=pts, tick=Fraction(1, 100))
        numbers, at = seen(path)
        assert numbers == list(range(FRAMES))
        assert_within(at, np.array(pts) / 100, 0.0011, "seconds")
        check_seeks(path, numbers, at, [17, 20, 33, FRAMES - 1], threads=1)


# --- streams whose times can't be what they are, made of packets and frames of no codec -----------------------------


def given_times(stamps: list[int | None], shown: list[int], reorders: bool) -> tuple[list[int], times.Past]:
    """Times given to frames whose packets come with `stamps` and are shown in the order of `shown`."""
    past = times.Past()
    context: Any = SimpleNamespace(has_b_frames=reorders)
    clock = times.Times(context, Fraction(40), Fraction(1, 1000), past, anchored=True)
    packets: list[Any] = [
        SimpleNamespace(pts=stamp, dts=None, size=1, is_discard=False, is_keyframe=k == 0)
        for k, stamp in enumerate(stamps)
    ]
    for packet in packets:
        clock.packet(packet)
    found: list[int] = []
    for place in shown:
        frame: Any = SimpleNamespace(pts=packets[place].pts, duration=0)
        assert clock.frame(frame)
        found.append(frame.pts)
    return found, past


def test_first_frames_without_times_are_counted_back_from_the_first_that_has_one() -> None:
    found, past = given_times([None, None, None, 1120, 1160, 1200], [0, 1, 2, 3, 4, 5], reorders=False)
    assert found == [0, 40, 80, 120, 160, 200] and past.counted


def test_no_times_at_all_are_counted() -> None:
    found, past = given_times([None] * 5, [0, 2, 1, 3, 4], reorders=True)
    assert found == [0, 40, 80, 120, 160] and past.counted


def test_times_of_decoding_belong_to_the_frames_in_sorted_order() -> None:
    found, past = given_times([0, 40, 80, 120, 160], [0, 3, 2, 1, 4], reorders=True)
    assert found == [0, 40, 80, 120, 160] and not past.counted


def test_a_time_that_repeats_is_moved_on_and_rules_out_seeks() -> None:
    found, past = given_times([0, 40, 40, 80, 120], [0, 1, 2, 3, 4], reorders=False)
    assert found == [0, 40, 60, 80, 120] and past.counted


def test_times_that_begin_anew_are_an_error() -> None:
    with pytest.raises(times.JumpBackError):
        given_times([0, 40, 80, 5000, 0, 40], [0, 1, 2, 3, 4, 5], reorders=False)


def test_missing_frames_and_regular_rates() -> None:
    steady = [k / 25 for k in range(60)]
    assert video.missing_frames(steady) == [] and video.is_regular(steady)
    lossy = [t for k, t in enumerate(steady) if k not in (20, 21, 40)]
    assert video.missing_frames(lossy) == [(19 / 25, 2), (39 / 25, 1)] and not video.is_regular(lossy)
    uneven = np.cumsum([0.03, 0.05, 0.04, 0.09] * 10).tolist()
    assert video.missing_frames(uneven) == [] and not video.is_regular(uneven)
    rounded = [round(k / 29.97, 3) for k in range(200)]
    assert video.missing_frames(rounded) == [] and video.is_regular(rounded)
