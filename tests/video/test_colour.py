"""What a picture's tags ask for: transparency, matrices, ranges, high dynamic range, interlacing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from kinolab import video
from kinolab.data import FolderConfig, FolderSource
from kinolab.errors import InputError
from kinolab.video import colour
from tests.video.clips import CASES, CODECS, encode

pytestmark = pytest.mark.slow  # many short ones, which take long together

HEIGHT, WIDTH = 64, 96


# --- transparency --------------------------------------------------------------------------------------------------


def test_a_transparent_webm_is_on_white() -> None:
    clip = video.read(CASES / "vp9-alpha.webm")
    assert len(clip.frames) == 20 and video.probe(CASES / "vp9-alpha.webm").pixel_format == "yuva420p"
    corners = clip.frames[:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert corners.min() >= 250
    middle = clip.frames[:, 32, 32].astype(int)
    assert (middle[:, 0] > 180).all() and (middle[:, 1:] < 90).all(), "a red disc"


@pytest.mark.parametrize("container", ["webm", "mkv"])
@pytest.mark.parametrize("codec", ["vp8", "vp9"])
def test_alpha_in_seeks_and_odd_sizes(tmp_path: Path, codec: str, container: str) -> None:
    path = tmp_path / f"a.{container}"
    write_alpha(path, CODECS[codec][0], 33, 47)
    clip = video.read(path)
    assert clip.frames.shape == (20, 33, 47, 3)
    for index, image in enumerate(clip.frames.astype(int)):
        assert image[4, 44].min() >= 245, "transparent"
        assert np.abs(image[25, 2 * index + 2] - (20, 60, 200)).max() < 60, "the bar"
    assert np.array_equal(next(video.iter_frames(path, start=1.5)).image, clip.frames[15])


def write_alpha(path: Path, encoder: str, height: int, width: int) -> None:
    """A blue bar that moves over nothing: pictures and transparency in two layers, as encoders of webm make them."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(encoder, rate=10, options={"auto-alt-ref": "0", "cpu-used": "8", "g": "8"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        for index in range(20):
            image = np.zeros((height, width, 4), np.uint8)
            image[16:, 2 * index : 2 * index + 6] = (20, 60, 200, 255)
            frame = av.VideoFrame.from_ndarray(image, "rgba").reformat(format="yuva420p")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


# --- matrices and ranges -------------------------------------------------------------------------------------------


def write_grey(path: Path, codes: np.ndarray, **tags: Any) -> Path:
    """Grey patches of 10-bit luma, 32 pixels wide each, in HEVC, with tags of H.273."""
    width = 32 * len(codes)
    with av.open(str(path), "w") as out:
        encoder = "libx265" if "libx265" in av.codecs_available else "ffv1"
        options = {"x265-params": "log-level=none:pools=1:qp=2:bframes=0"} if encoder == "libx265" else {}
        stream = out.add_stream(encoder, rate=10, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, 64, "yuv420p10le"
        for index in range(2):
            frame = av.VideoFrame(width, 64, "yuv420p10le")
            luma = np.zeros((64, frame.planes[0].line_size // 2), np.uint16)
            luma[:, :width] = np.repeat(codes, 32)
            frame.planes[0].update(luma.tobytes())
            for plane in frame.planes[1:]:
                plane.update(np.full(plane.buffer_size // 2, 512, np.uint16).tobytes())
            for name, value in tags.items():
                setattr(stream.codec_context, name, value)
                setattr(frame, name, value)
            frame.pts, frame.time_base = index, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("matrix", "name"), [(8, "YCgCo"), (14, "ICtCp"), (10, "BT.2020 with constant luminance")])
def test_colours_that_no_matrix_converts_name_the_file_and_the_cause(tmp_path: Path, matrix: int, name: str) -> None:
    path = write_grey(tmp_path / "a.mkv", np.array([512]), colorspace=matrix)
    message = f"{path}: its colours are {name}, which can't be converted to RGB; write it anew in BT.709"
    for action in (video.read, lambda p: next(video.iter_frames(p, size=16)), lambda p: video.read(p, start=0.1)):
        with pytest.raises(InputError) as error:
            action(path)
        assert str(error.value) == message
    assert f"colours {name}, which can't be converted to RGB" in video.probe(path).notes
    source = FolderSource(FolderConfig(path=tmp_path, frames=1, index="none"), allow_empty=True)
    assert source.verdicts()[0].dropped == (message.removeprefix(f"{path}: "),)


@pytest.mark.parametrize("matrix", [0, 1, 2, 3, 5, 6, 7, 9, 12])
def test_all_other_matrices_are_read(tmp_path: Path, matrix: int) -> None:
    """Grey is grey by any of them; 0 (RGB), 2 and 3 say nothing of YUV, 12 goes by the primaries."""
    frame = av.VideoFrame(32, 32, "yuv444p")
    frame.colorspace, frame.color_primaries = matrix, 9
    assert colour.unknown_matrix(frame) is None
    stated = colour.matrix(frame, tmp_path)
    assert stated == {0: 5, 2: 5, 3: 5, 12: 9}.get(matrix)


@pytest.mark.parametrize(("levels", "expected"), [(1, [0, 128, 255]), (2, [16, 126, 235])])
def test_full_and_limited_range(tmp_path: Path, levels: int, expected: list[int]) -> None:
    codes = np.array([64, 64 + 440, 940])
    path = write_grey(tmp_path / "a.mkv", codes, color_range=levels, colorspace=1)
    assert np.abs(video.read(path).frames[0, 32, 16::32].astype(int) - np.array(expected)[:, None]).max() <= 1


# --- high dynamic range --------------------------------------------------------------------------------------------

LIGHT = np.array([0, 1, 10, 50, 100, 203, 1000])  # cd/m2


def pq(light: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084, written anew from its equations."""
    power = (light / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(light: np.ndarray) -> np.ndarray:
    """BT.2100: grey light of a display of 1000 cd/m2, through its system gamma and back to the signal."""
    scene = (light / 1000) ** (1 / 1.2)
    with np.errstate(invalid="ignore"):
        upper = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), upper)


@pytest.mark.parametrize(("curve", "signal", "name"), [(16, pq, "HDR (PQ)"), (18, hlg, "HDR (HLG)")])
def test_high_dynamic_range_is_tone_mapped(tmp_path: Path, curve: int, signal: Any, name: str) -> None:
    codes = np.round(64 + 876 * signal(LIGHT)).astype(int)
    path = write_grey(tmp_path / "a.mkv", codes, color_trc=curve, color_primaries=9, colorspace=9, color_range=1)
    assert f"{name}, tone-mapped to BT.709" in video.probe(path).notes
    found = video.read(path).frames[0, 32, 16::32].astype(int)
    assert np.ptp(found, axis=1).max() <= 1, "grey stays grey"
    grey = found[:, 0]
    # Below the knee light is kept: 50 of 203 cd/m2, coded for a gamma of 2.4.
    assert abs(grey[3] - 255 * (50 / 203) ** (1 / 2.4)) <= 2
    assert grey[0] == 0 and 220 <= grey[5] <= 240 and grey[6] >= 254, "paper white is bright, the peak is white"
    assert (np.diff(grey) > 0).all()


def test_wide_primaries_become_those_of_bt709() -> None:
    """BT.709's red, in light of BT.2020 (BT.2087), is red again."""
    light = 100 * np.array([0.6274, 0.0691, 0.0164])
    coded = np.round(65535 * pq(light)).astype(np.uint16)[None, None]
    red, green, blue = colour.tone_mapped(coded, 16, 9)[0, 0].astype(int)
    assert red > 150 and green <= 25 and blue <= 25
    assert colour.tone_mapped(coded, 16, 1)[0, 0, 1] > 50, "and without that tag it is what it says"


# --- interlacing ---------------------------------------------------------------------------------------------------


def write_interlaced(path: Path, encoder: str, options: dict[str, str]) -> Path:
    """A square that moves on in every field."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(encoder, rate=25, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(30):
            image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
            for field in (0, 1):
                left = int(3 * (index + field / 2)) % (WIDTH - 24)
                image[16 + field : 48 : 2, left : left + 20] = 220
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


INTERLACED = {
    "h264.mp4": ("libx264", {"x264-params": "tff=1", "g": "8", "flags": "+ilme+ildct"}),
    "mpeg2.mkv": ("mpeg2video", {"flags": "+ilme+ildct", "g": "8", "bf": "2", "b": "4000k"}),
}


def combing(image: np.ndarray) -> float:
    grey = image.astype(float).mean(axis=2)
    return float(np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean())


@pytest.mark.parametrize("name", sorted(INTERLACED))
def test_interlaced_clips_are_noted_and_made_whole_on_request(tmp_path: Path, name: str) -> None:
    path = write_interlaced(tmp_path / name, *INTERLACED[name])
    assert "interlaced: moving edges are combed" in video.probe(path).notes
    stored, whole = video.read(path), video.read(path, deinterlace=True)
    assert stored.notes == ("interlaced: moving edges are combed",) and whole.notes == ("interlaced, made whole",)
    assert len(stored.frames) == len(whole.frames) == 30 and np.array_equal(stored.times, whole.times)
    assert all(combing(w) < 0.4 * combing(s) for s, w in zip(stored.frames[2:], whole.frames[2:], strict=True))
    for index in (13, 16, 17, 29):
        found = next(video.iter_frames(path, start=whole.times[index], deinterlace=True))
        assert found.time == whole.times[index] and np.array_equal(found.image, whole.frames[index])


def test_pictures_that_are_whole_are_left_alone(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", numbers=range(16))
    assert video.read(path).notes == ()
    assert np.array_equal(video.read(path).frames, video.read(path, deinterlace=True).frames)


def test_a_folder_says_and_mends_interlacing(tmp_path: Path) -> None:
    write_interlaced(tmp_path / "a.mp4", *INTERLACED["h264.mp4"])
    examples = {}
    for deinterlace in (False, True):
        config = FolderConfig(path=tmp_path, frames=5, size=64, index="none", deinterlace=deinterlace)
        source = FolderSource(config)
        examples[deinterlace] = video.to_uint8(source[4].video)
        said = "interlaced, made whole" if deinterlace else "interlaced: moving edges are combed"
        assert said in source.verdicts()[0].notes
        assert source.transform().get("deinterlace", False) is deinterlace
        [(_, walked)] = source.walk([4])
        assert np.array_equal(video.to_uint8(walked.video), examples[deinterlace])
    assert combing(examples[True][2]) < 0.5 * combing(examples[False][2])
