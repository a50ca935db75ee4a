"""Video files: what is written reads back, times and seeks are exact, bad files say why in one line."""

import io
import json
import re
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import typer
from av.video.reformatter import Colorspace, VideoReformatter
from PIL import Image
from typer.testing import CliRunner

from kinolab import video
from kinolab.cli import probe as probe_command
from kinolab.errors import InputError
from tests.closeness import assert_within
from tests.runtime.crashing import crashes

pytestmark = pytest.mark.slow  # many short ones, which take long together


def clip(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A bar that moves one step per frame over a brightness that tells the frame's number."""
    images = np.empty((frames, height, width, 3), np.uint8)
    for index in range(frames):
        images[index] = 40 + 6 * index % 180
        images[index, :, index % width : index % width + 6] = (230, 40, 40)
    return images


def encode(path: Any, images: np.ndarray, **settings: Any) -> None:
    """Write frames with PyAV directly, with settings that `video.write` never uses."""
    pts = settings.get("pts", range(len(images)))
    tick = settings.get("tick", Fraction(1, 10))
    pixels = settings.get("pixels", "yuv420p")
    reformatter = VideoReformatter()
    with av.open(path, "w", format=settings.get("container")) as out:
        stream = out.add_stream(settings.get("codec", "libx264"), rate=settings.get("rate", 10))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = images.shape[1], images.shape[2], pixels
        stream.options = settings.get("options", {"crf": "6"})
        context = stream.codec_context
        context.time_base = tick
        context.colorspace, context.color_range = settings.get("tags", (1, 1))
        if "aspect" in settings:
            context.sample_aspect_ratio = settings["aspect"]
        if "turn" in settings:
            stream.set_display_rotation(settings["turn"], hflip=settings.get("mirror", False))
        for time, image in zip(pts, images, strict=True):
            frame = reformatter.reformat(
                av.VideoFrame.from_ndarray(image, "rgb24"),
                format=pixels,
                dst_colorspace=settings.get("matrix", Colorspace.ITU709),
                dst_color_range=context.color_range,
            )
            frame.pts, frame.time_base = time, tick
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def add_audio(path: Path, source: Path | None, seconds: float = 1.0, spoil: bool = False) -> None:
    """An mp4 with a tone, and with the video of `source` where one is given; `spoil` fills the audio with noise."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        audio = out.add_stream("aac", rate=16000, layout="mono")
        if source is not None:
            with av.open(str(source)) as given:
                copied = out.add_stream_from_template(given.streams.video[0])
                for packet in given.demux(given.streams.video[0]):
                    if packet.dts is not None:
                        packet.stream = copied
                        out.mux(packet)
        tone = np.sin(np.arange(int(16000 * seconds)) * 0.2).astype(np.float32)[None]
        for start in range(0, tone.shape[1] - 1023, 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, start : start + 1024]), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            for sound in audio.encode(frame):
                if spoil:
                    noise: Any = av.Packet(rng.bytes(sound.size))
                    noise.pts, noise.dts, noise.time_base = sound.pts, sound.dts, sound.time_base
                    noise.stream = audio
                    sound = noise
                out.mux(sound)


# --- writing and reading back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.webm", "a.gif", "a.webp"])
@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_write_reads_back(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    images = clip(13, *size)
    path = tmp_path / "new" / name
    video.write(path, images, 12.5)
    back = video.read(path)
    padded = name in ("a.mp4", "a.mov", "a.mkv", "a.avi")
    height, width = (s + s % 2 if padded else s for s in size)
    assert back.frames.shape == (13, height, width, 3)
    assert np.abs(back.frames[:, : size[0], : size[1]].astype(int) - images).mean() < 4
    assert back.fps == pytest.approx(12.5, rel=2e-3)
    assert_within(back.times, np.arange(13) / 12.5, 1e-3, "seconds")
    if padded:  # the extra row and column repeat the last
        assert np.abs(back.frames[:, -1].astype(int) - back.frames[:, -2]).mean() < 4
    info = video.probe(path, exact=True)
    assert (info.height, info.width, info.frames) == (height, width, 13)
    assert_within(info.duration, 13 / 12.5, 3e-3, "seconds")
    assert [p.name for p in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.webp", "folder"])
def test_lossless_is_exact(tmp_path: Path, name: str) -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, 19, 23, 3), dtype=np.uint8)
    video.write(tmp_path / name, iter(images), 10, lossless=True)
    np.testing.assert_array_equal(video.read(tmp_path / name).frames, images)


def test_mp4_is_what_browsers_play(tmp_path: Path) -> None:
    video.write(tmp_path / "a.mp4", clip(3), 29.97)
    with av.open(str(tmp_path / "a.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == (
            "h264",
            "yuv420p",
            Fraction(30000, 1001),
        )
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before all of it has come


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".gif", ".webp"])
def test_same_frames_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    images = clip(20, 64, 64)
    for name in "abc":
        video.write(tmp_path / (name + suffix), images, 8)
    assert len({(tmp_path / (name + suffix)).read_bytes() for name in "abc"}) == 1


def test_quality_orders_error_and_size(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), dtype=np.uint8).repeat(3, axis=3)
    for suffix in (".mp4", ".webm", ".webp"):
        errors, sizes = [], []
        for quality in (30, 95):
            path = tmp_path / f"{quality}{suffix}"
            video.write(path, noise, 10, quality=quality)
            errors.append(np.abs(video.read(path).frames.astype(int) - noise).mean())
            sizes.append(path.stat().st_size)
        assert errors[1] < errors[0] and sizes[1] > sizes[0]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "folder"])
def test_an_error_leaves_nothing_and_keeps_the_old_file(tmp_path: Path, name: str) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from clip(3)
        raise RuntimeError("the model failed")

    path = tmp_path / name
    with pytest.raises(RuntimeError, match="the model failed"):
        video.write(path, broken(), 10)
    assert list(tmp_path.iterdir()) == []
    video.write(path, clip(2), 10)
    with pytest.raises(RuntimeError, match="the model failed"):
        video.write(path, broken(), 10)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert len(video.read(path).frames) == 2
    video.write(path, clip(5), 10)
    assert len(video.read(path).frames) == 5


def test_a_single_frame_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    video.write(path, clip(1), 10)
    assert (video.read(path).frames == clip(1)).all()
    with pytest.raises(InputError, match=r"a \.png holds one frame, got 8"):
        video.check_ending(path, 8)  # before anything is made
    video.check_ending(path, 1)


def test_write_refuses(tmp_path: Path) -> None:
    good = clip(2)
    cases: list[tuple[str, Any, float, dict[str, Any], str]] = [
        ("a.mp4", [], 10, {}, "no frames"),
        ("a.mp4", [good[0], good[1, :16]], 10, {}, "frame 1 is 48x16, the first was 48x32"),
        ("a.mp4", good / 255.0, 10, {}, "float64"),
        ("a.mp4", good[..., :1], 10, {}, "expected uint8"),
        ("a.mp5", good, 10, {}, "cannot write '.mp5'"),
        ("a.png", good, 10, {}, "a .png holds one frame"),
        ("a.mp4", good, 0, {}, "frames per second"),
        ("a.mp4", good, float("nan"), {}, "frames per second"),
        ("a.mp4", good, 10, {"quality": 0}, "quality"),
        ("a.mp4", good, 10, {"lossless": True}, "lossless needs"),
        ("a.gif", good, 60, {}, "at most 50"),
    ]
    for name, frames, fps, options, message in cases:
        with pytest.raises(InputError, match=message):
            video.write(tmp_path / name, frames, fps, **options)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("keep me")
    with pytest.raises(InputError, match="something other"):
        video.write(tmp_path / "notes", good, 10)
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a.webm", "folder"])
def test_memory_is_bounded(tmp_path: Path, name: str) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    class Watched(np.ndarray):
        """An array that a WeakSet can hold."""

        __hash__ = object.__hash__  # type: ignore[assignment]

    def frames() -> Iterator[np.ndarray]:
        nonlocal most
        for image in clip(40):
            watched = image.copy().view(Watched)
            alive.add(watched)
            most = max(most, len(alive))
            yield watched

    video.write(tmp_path / name, frames(), 10)
    assert most <= 4
    times = [frame.time for frame in video.iter_frames(tmp_path / name)]
    assert len(times) == 40
    reader = video.iter_frames(tmp_path / name)
    images = [weakref.ref(next(reader).image) for _ in range(20)]
    assert sum(image() is not None for image in images) <= 2


# --- choosing frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"options": {"g": "20", "bf": "3"}}),
        ("a.mp4", {"options": {"g": "300", "x264-params": "open-gop=1:keyint=15:bframes=5"}}),
        ("a.mov", {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}}),
        ("a.mkv", {"options": {"g": "25", "bf": "3"}, "rate": 30, "tick": Fraction(1, 30)}),
        ("a.webm", {"codec": "libvpx-vp9", "options": {"g": "16", "cpu-used": "8"}}),
        ("a.avi", {"options": {"g": "16", "bf": "0"}}),
        ("a.avi", {"options": {"g": "16", "bf": "2"}}),
        ("a.ts", {"options": {"g": "16", "bf": "2"}}),
        ("a.gif", {"codec": "gif", "pixels": "rgb8", "options": {}}),
    ],
)
def test_seeks_are_exact(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = tmp_path / name
    encode(str(path), clip(60), **options)
    whole = list(video.iter_frames(path))
    assert len(whole) == 60
    assert [f.time for f in whole] == sorted({f.time for f in whole})
    rng = np.random.default_rng(0)
    for index in [0, 1, 15, 16, 59, *rng.integers(0, 60, 8)]:
        found = next(video.iter_frames(path, start=whole[index].time))
        assert found.time == whole[index].time
        np.testing.assert_array_equal(found.image, whole[index].image)


def test_ranges_are_half_open_and_strides_start_in_them(tmp_path: Path) -> None:
    video.write(tmp_path / "a.mp4", clip(30), 10)
    whole = video.read(tmp_path / "a.mp4")
    part = video.read(tmp_path / "a.mp4", start=0.5, end=2.0)
    np.testing.assert_array_equal(part.frames, whole.frames[5:20])
    np.testing.assert_array_equal(part.times, whole.times[5:20])
    between = video.read(tmp_path / "a.mp4", start=0.51, end=0.99)
    np.testing.assert_array_equal(between.frames, whole.frames[6:10])
    third = video.read(tmp_path / "a.mp4", start=0.5, every=3)
    np.testing.assert_array_equal(third.frames, whole.frames[5::3])
    assert third.fps == pytest.approx(10 / 3)


def shown_at(times: list[float], moments: np.ndarray) -> list[int]:
    return [max(i for i, time in enumerate(times) if time <= moment + 1e-6) for moment in moments]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_variable_frame_rate(tmp_path: Path, name: str) -> None:
    gaps = [1, 7, 2, 2, 30, 1, 1, 11, 5, 3, 3, 24]
    pts = np.cumsum([0, *gaps]).tolist()
    encode(str(tmp_path / name), clip(13), pts=pts, tick=Fraction(1, 100), rate=100)
    whole = video.read(tmp_path / name)
    assert_within(whole.times, np.array(pts) / 100, 1e-9, "seconds")
    for fps in (7.0, 10.0, 40.0):
        for start in (0.0, 0.33):
            sampled = video.read(tmp_path / name, start=start, end=0.9, fps=fps)
            moments = start + np.arange(len(sampled.frames)) / fps
            assert moments[-1] < 0.9 <= moments[-1] + 1 / fps + 1e-9
            assert_within(sampled.times, moments, 1e-6, "seconds")
            np.testing.assert_array_equal(sampled.frames, whole.frames[shown_at(whole.times.tolist(), moments)])
            assert sampled.fps == fps


def test_frame_rates_that_time_stamps_round(tmp_path: Path) -> None:
    """Webm stores milliseconds: 29.97 frames per second read at that rate must give every frame once."""
    for name in ("a.webm", "a.gif"):
        rate = 29.97 if name == "a.webm" else 24
        video.write(tmp_path / name, clip(40), rate)
        whole = video.read(tmp_path / name)
        np.testing.assert_array_equal(video.read(tmp_path / name, fps=whole.fps).frames, whole.frames)
        doubled = video.read(tmp_path / name, fps=2 * whole.fps).frames
        np.testing.assert_array_equal(doubled, whole.frames.repeat(2, axis=0))
        third = next(video.iter_frames(tmp_path / name, start=20 / whole.fps))
        np.testing.assert_array_equal(third.image, whole.frames[20])


def test_resampled_frames_are_separate_arrays(tmp_path: Path) -> None:
    video.write(tmp_path / "a.mp4", clip(3), 5)
    first, second = [f.image for f in video.iter_frames(tmp_path / "a.mp4", fps=10)][:2]
    first[:] = 0
    assert second.max() > 0


def test_display_order_is_repaired(tmp_path: Path) -> None:
    """Some writers store times of decoding only, though frames are reordered."""
    encode(str(tmp_path / "good.mp4"), clip(24), options={"bf": "3", "b_strategy": "0"})
    with av.open(str(tmp_path / "good.mp4")) as given, av.open(str(tmp_path / "bad.mp4"), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        reordered = 0
        for index, packet in enumerate(p for p in given.demux(video=0) if p.size):
            reordered += packet.pts != packet.dts
            packet.pts = packet.dts = index * 1024
            packet.stream = stream
            out.mux(packet)
    assert reordered > 10
    good, bad = video.read(tmp_path / "good.mp4"), video.read(tmp_path / "bad.mp4")
    np.testing.assert_array_equal(bad.frames, good.frames)
    assert (np.diff(bad.times) > 0).all()


def test_frames_at_rest(tmp_path: Path) -> None:
    """Equal frames count; webp stores them once, with the time they last."""
    images = clip(6).repeat([1, 4, 1, 3, 1, 2], axis=0)
    for suffix in (".mp4", ".gif", ".webm", ".webp"):
        video.write(tmp_path / f"a{suffix}", images, 10)
        read = video.read(tmp_path / f"a{suffix}", fps=10)
        assert len(read.frames) == 12
        assert np.abs(read.frames.astype(int) - images).mean() < 4


# --- pictures -----------------------------------------------------------------------------------------------------

COLOURS = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [128, 128, 128], [200, 100, 50]], np.uint8
)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le", "yuv422p10le"])
@pytest.mark.parametrize(("matrix", "tag"), [(Colorspace.ITU709, 1), (Colorspace.ITU601, 6), (Colorspace.ITU601, 2)])
@pytest.mark.parametrize("levels", [1, 2])
def test_known_colours(tmp_path: Path, pixels: str, matrix: Colorspace, tag: int, levels: int) -> None:
    """Both matrices, limited and full range, any depth; an unmarked small picture counts as BT.601."""
    image = COLOURS.repeat(16, axis=0)[None].repeat(32, axis=0)
    encode(
        str(tmp_path / "a.mp4"), image[None].repeat(2, axis=0), pixels=pixels, tags=(tag, levels), matrix=matrix,
        options={"crf": "1"},
    )  # fmt: skip
    found = video.read(tmp_path / "a.mp4").frames[1, 16, 8::16]
    assert np.abs(found.astype(int) - COLOURS).max() <= 3


def test_written_colours_read_back(tmp_path: Path) -> None:
    image = COLOURS.repeat(16, axis=0)[None].repeat(32, axis=0)
    for suffix in (".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif", ".webp"):
        video.write(tmp_path / f"a{suffix}", image[None].repeat(2, axis=0), 10, quality=95)
        found = video.read(tmp_path / f"a{suffix}").frames[-1, 16, 8::16]
        assert np.abs(found.astype(int) - COLOURS).max() <= 4, suffix


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_rotation(tmp_path: Path, turn: int, mirror: bool) -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :24], image[:16, 24:], image[16:, :24], image[16:, 24:] = COLOURS[:4]
    encode(str(tmp_path / "a.mp4"), image[None].repeat(2, axis=0), turn=turn, mirror=mirror)
    upright = np.rot90(image, turn // 90)
    upright = upright[:, ::-1] if mirror else upright
    found = video.read(tmp_path / "a.mp4").frames[0]
    assert found.shape == upright.shape
    rows, columns = np.array([6, -6]), np.array([6, -6])
    difference = found[np.ix_(rows, columns)].astype(int) - upright[np.ix_(rows, columns)]
    assert np.abs(difference).max() < 12
    info = video.probe(tmp_path / "a.mp4")
    assert (info.height, info.width) == upright.shape[:2]
    assert (info.stored_height, info.stored_width) == (32, 48)
    if not mirror:
        assert info.rotation == turn
    small = video.read(tmp_path / "a.mp4", size=(20, 10)).frames
    assert small.shape[1:3] == (20, 10)


def test_sizes(tmp_path: Path) -> None:
    image = np.zeros((2, 40, 80, 3), np.uint8)
    image[:, :, :20], image[:, :, 20:60], image[:, :, 60:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    video.write(tmp_path / "a.mkv", image, 10, lossless=True)

    def first(**options: Any) -> np.ndarray:
        return video.read(tmp_path / "a.mkv", **options).frames[0].astype(int)

    assert first(size=20).shape == (20, 40, 3)
    assert_within(first(size=20)[10, [5, 20, 35]], [[255, 0, 0], [0, 255, 0], [0, 0, 255]], 1, "grey levels")
    cropped = first(size=(20, 20))  # the middle 40 of 80 columns
    assert cropped.shape == (20, 20, 3) and (np.abs(cropped - (0, 255, 0)).max(axis=(0, 2))[2:-2] <= 1).all()
    padded = first(size=(40, 40), resize="pad")
    assert padded[:10].max() == 0 and padded[30:].max() == 0
    assert_within(padded[20, [3, 20, 36]], [[255, 0, 0], [0, 255, 0], [0, 0, 255]], 1, "grey levels")
    stretched = first(size=(30, 8), resize="stretch")
    assert_within(stretched[15, [0, 4, 7]], [[255, 0, 0], [0, 255, 0], [0, 0, 255]], 25, "grey levels")
    assert first(size=(45, 33)).shape == (45, 33, 3) and first(size=[8, 8]).shape == (8, 8, 3)
    for options in ({"size": 0}, {"size": (3, 4, 5)}, {"size": (0, 4)}, {"size": 8, "resize": "zoom"}):
        with pytest.raises(InputError, match=r"size|resize"):
            first(**options)


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    encode(str(tmp_path / "wide.mp4"), clip(2), aspect=Fraction(3, 2))
    encode(str(tmp_path / "tall.mp4"), clip(2), aspect=Fraction(1, 2))
    assert video.read(tmp_path / "wide.mp4").frames.shape[1:3] == (32, 72)
    assert video.read(tmp_path / "tall.mp4").frames.shape[1:3] == (64, 48)
    info = video.probe(tmp_path / "wide.mp4")
    assert (info.width, info.stored_width, info.pixel_aspect) == (72, 48, 1.5)


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (16, 8), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 8, 8))
    other = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    other.putpixel((15, 7), (0, 255, 0, 255))
    for name in ("a.gif", "a.webp", "a.png"):
        many: dict[str, Any] = {} if name == "a.png" else {"save_all": True, "append_images": [other], "duration": 120}
        if name == "a.webp":
            many["lossless"] = True
        picture.save(tmp_path / name, **many)
        read = video.read(tmp_path / name)
        np.testing.assert_array_equal(read.frames[0, 4, [2, 12]], [[255, 255, 255], [255, 0, 0]])
        if many:
            assert read.times.tolist() == [0, 0.12]


# --- folders of images --------------------------------------------------------------------------------------------


def test_folder_of_images(tmp_path: Path) -> None:
    images = clip(12)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"frame{index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    read = video.read(tmp_path, image_fps=4)
    np.testing.assert_array_equal(read.frames, images)  # frame10 comes after frame9
    assert_within(read.times, np.arange(12) / 4, 1e-6, "seconds")
    part = video.read(tmp_path, start=1, end=2, image_fps=4)
    np.testing.assert_array_equal(part.frames, images[4:8])
    info = video.probe(tmp_path, image_fps=4)
    assert (info.frames, info.duration, info.fps, info.codec) == (12, 3.0, 4.0, "png")
    Image.fromarray(images[0, :16]).save(tmp_path / "frame7.png")
    Image.fromarray(images[0, :16]).save(tmp_path / "frame10.png")
    with pytest.raises(InputError, match=r"frame7\.png: 48x16 pixels, but frame0\.png has 48x32"):
        video.read(tmp_path)
    (tmp_path / "frame3.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"frame3\.png: the file is empty"):
        video.read(tmp_path)


def test_still_images_and_deep_grey(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    read = video.read(tmp_path / "deep.png")
    assert read.frames.shape == (1, 4, 6, 3) and (read.frames == 128).all()
    turned = Image.fromarray(clip(1)[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    turned.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(video.read(tmp_path / "turned.png").frames[0], np.rot90(clip(1)[0], -1))


# --- files that are odd or bad ------------------------------------------------------------------------------------


def test_no_duration(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        """A place to write to that cannot go back, as in a live recording."""

        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    encode(pipe, clip(25), codec="libvpx-vp9", container="webm", options={"cpu-used": "8"})
    path = tmp_path / "live.webm"
    path.write_bytes(pipe.data)
    info = video.probe(path)
    assert (info.frames, info.duration) == (25, pytest.approx(2.5, abs=0.01))  # counted, as the header is silent
    exact = video.probe(path, exact=True)
    assert (exact.frames, exact.duration) == (25, pytest.approx(2.5, abs=0.01))
    whole = video.read(path)
    assert len(whole.frames) == 25
    np.testing.assert_array_equal(video.read(path, start=1.7).frames, whole.frames[17:])


@pytest.mark.parametrize("spoil", [False, True])
def test_broken_audio_is_no_matter(tmp_path: Path, spoil: bool, capfd: pytest.CaptureFixture[str]) -> None:
    video.write(tmp_path / "silent.mp4", clip(10), 10)
    add_audio(tmp_path / "a.mp4", tmp_path / "silent.mp4", spoil=spoil)
    np.testing.assert_array_equal(video.read(tmp_path / "a.mp4").frames, video.read(tmp_path / "silent.mp4").frames)
    assert video.probe(tmp_path / "a.mp4", exact=True).frames == 10
    assert video.probe(tmp_path / "a.mp4").has_audio and not video.probe(tmp_path / "silent.mp4").has_audio
    assert capfd.readouterr() == ("", "")


def one_line(error: pytest.ExceptionInfo[InputError], path: Path) -> str:
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


def make_bad_files(folder: Path) -> dict[str, str]:
    """Name -> what the message must say."""
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("hello, this is not a video\n" * 40)
    (folder / "noise.webm").write_bytes(np.random.default_rng(0).bytes(3000))
    (folder / "bad.webp").write_bytes(b"RIFF\x0c\x00\x00\x00WEBPxxxxxxxx")
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    (folder / "nothing").mkdir()
    add_audio(folder / "sound.mp4", None)
    with av.open(str(folder / "none.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = 32, 32
        out.start_encoding()
    encode(str(folder / "tail.mp4"), clip(20))  # index at the end, lost by the cut
    data = (folder / "tail.mp4").read_bytes()
    (folder / "tail.mp4").write_bytes(data[: len(data) // 2])
    return {
        "missing.mp4": "no such file",
        "empty.mp4": "empty",
        "text.mp4": "not a video",
        "noise.webm": "not a video",
        "bad.webp": "damaged|not a video",
        "list.m3u8": "not a video",
        "nothing": "without images",
        "sound.mp4": "no video stream, only audio",
        "none.mp4": "no video stream|no streams|without a single frame",
        "tail.mp4": "truncated.*index",
    }


def test_bad_files_say_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, message in make_bad_files(tmp_path).items():
        for action in (video.probe, video.read, lambda p: next(video.iter_frames(p))):
            with pytest.raises(InputError) as error:
                action(tmp_path / name)
            assert re.search(message, one_line(error, tmp_path / name)), name
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".webp"])
@pytest.mark.parametrize("part", [0.5, 0.85])
def test_truncated(tmp_path: Path, suffix: str, part: float, capfd: pytest.CaptureFixture[str]) -> None:
    """What is whole is given first; then one line says when it broke and after how many frames."""
    rng = np.random.default_rng(0)
    images = (clip(40) // 2 + rng.integers(0, 100, (40, 32, 48, 3))).astype(np.uint8)
    path = tmp_path / f"a{suffix}"
    video.write(path, images, 10)
    whole = video.read(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError) as error:
        video.probe(path)
    assert "truncated" in one_line(error, path)
    given: list[video.Frame] = []
    with pytest.raises(InputError) as error:
        given.extend(video.iter_frames(path))
    text = one_line(error, path)
    for frame in video.iter_frames(path, end=0.9) if suffix != ".webp" else ():
        np.testing.assert_array_equal(frame.image, whole.frames[round(frame.time * 10)])
    if suffix != ".webp":
        frames = int(text.split(" after ")[1].split()[0])
        seconds = float(text.split("stopped at ")[1].split()[0])
        assert 10 <= frames < 40
        assert seconds == pytest.approx(frames / 10, abs=0.11)
    assert "truncated" in text
    assert capfd.readouterr() == ("", "")


def test_arguments_are_checked_at_the_call(tmp_path: Path) -> None:
    video.write(tmp_path / "a.mp4", clip(5), 10)
    for options in (
        {"start": -1}, {"start": 2, "end": 1}, {"every": 0}, {"fps": 0}, {"fps": float("inf")}, {"image_fps": -3},
    ):  # fmt: skip
        with pytest.raises(InputError, match=next(iter(options)) if len(options) == 1 else "end"):
            video.iter_frames(tmp_path / "a.mp4", **options)
    with pytest.raises(InputError, match=r"no frame between 3 s and its end"):
        video.read(tmp_path / "a.mp4", start=3)


# --- tensors and the command --------------------------------------------------------------------------------------


def test_tensors_round_trip_every_value() -> None:
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)
    tensor = video.to_tensor(frames)
    assert tensor.shape == (3, 4, 8, 8) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1
    np.testing.assert_array_equal(video.to_uint8(tensor), frames)
    batch = np.stack([frames, frames[::-1]])
    np.testing.assert_array_equal(video.to_uint8(video.to_tensor(batch)), batch)
    assert video.to_uint8(torch.full((3, 1, 2, 2), 1.7)).min() == 255
    frames.flags.writeable = False
    assert torch.equal(video.to_tensor(frames), tensor)
    with pytest.raises(InputError, match="not finite"):
        video.to_uint8(torch.full((3, 1, 2, 2), float("nan")))
    with pytest.raises(InputError, match=r"expected uint8 frames \(T, H, W, 3\), got float64"):
        video.to_tensor(frames / 255)
    with pytest.raises(InputError, match=r"expected float video"):
        video.to_uint8(torch.zeros(4, 8, 8, 3))


def test_probe_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(probe_command.probe)
    video.write(tmp_path / "a.mp4", clip(5), 10)
    (tmp_path / "b.mp4").write_bytes(b"")
    run = CliRunner().invoke(app, ["--json", str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")])
    assert run.exit_code == 2
    assert run.stderr == f"kinolab: {tmp_path / 'b.mp4'}: the file is empty (0 bytes)\n"
    (info,) = json.loads(run.stdout)
    assert (info["width"], info["height"], info["frames"], info["fps"]) == (48, 32, 5, 10.0)
    table = CliRunner().invoke(app, [str(tmp_path / "a.mp4"), "--exact"])
    assert table.exit_code == 0 and "48x32" in table.stdout and "h264 in mov" in table.stdout


def test_probe_shows_all_clips_of_a_folder(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(probe_command.probe)

    def shown(folder: Path) -> list[str]:
        run = CliRunner().invoke(app, ["--json", str(folder)])
        assert run.exit_code == 0, run.stderr
        return [Path(info["path"]).relative_to(folder).as_posix() for info in json.loads(run.stdout)]

    Image.fromarray(clip(1)[0]).save(tmp_path / "poster.png")
    for name in ("a.mp4", "b.gif", "deep/c.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        video.write(tmp_path / name, clip(5), 10)
    video.write(tmp_path / "numbered", clip(5), 10)
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "._a.mp4").write_bytes(b"x")
    assert shown(tmp_path) == ["a.mp4", "b.gif", "deep/c.mkv", "numbered", "poster.png"]
    assert shown(tmp_path / "numbered") == ["."] and shown(tmp_path / "deep") == ["c.mkv"]
    for index in range(3):  # images that are no series are one clip where nothing else lies there, as for every command
        Image.fromarray(clip(1)[0]).save(tmp_path / "deep" / f"{'abc'[index]}.png")
    assert shown(tmp_path / "deep") == ["a.png", "b.png", "c.mkv", "c.png"]
    (tmp_path / "deep" / "c.mkv").unlink()
    assert shown(tmp_path / "deep") == ["."]


def test_a_folder_of_videos_is_no_clip(tmp_path: Path) -> None:
    Image.fromarray(clip(1)[0]).save(tmp_path / "poster.png")
    video.write(tmp_path / "a.mp4", clip(5), 10)
    for action in (video.probe, video.read, lambda p: next(video.iter_frames(p))):
        with pytest.raises(InputError, match=r"no clip, as it holds the video a\.mp4 beside 1 image; name one of them"):
            action(tmp_path)
    (tmp_path / "poster.png").unlink()
    video.write(tmp_path / "b.mp4", clip(5), 10)
    with pytest.raises(InputError, match=r"as it holds a\.mp4 and 1 more video; name one of them"):
        video.read(tmp_path)


def test_a_folder_of_images_is_the_old_or_the_new_one_whenever_its_writing_is_killed(tmp_path: Path) -> None:
    def write(shade: int) -> Callable[[Path], None]:
        return lambda root: video.write(root / "clip", np.full((2, 8, 8, 3), shade, np.uint8), 8.0)

    for after in crashes(write(10), write(200), tmp_path, ("kill", "names")):
        shades = {int(frame.mean()) for frame in video.read(after.root / "clip").frames}
        assert shades in ({10}, {200}), after
        assert (after.root / "clip").is_dir(), "who reads it puts it in its place"
