"""What `probe` says is what a read shows: frames, seconds, rate, also of variable rates and of headers that lie."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from kinolab import video
from kinolab.cli import probe as probe_command
from kinolab.video import survey
from kinolab.video.sources import mean_rate
from tests.closeness import assert_within
from tests.video.clips import CASES, FRAMES, MATRIX, RATE, copy, encode, seen


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "container"), [pair for pair in MATRIX if pair[1] in ("avi", "webm", "mp4")])
def test_packets_count_what_decoding_counts(tmp_path: Path, codec: str, container: str) -> None:
    path = encode(tmp_path / f"a.{container}", codec, numbers=range(20))
    quick, exact = video.probe(path), video.probe(path, exact=True)
    assert (quick.frames, quick.fps) == (exact.frames, exact.fps) == (20, 25.0)
    assert_within(quick.duration, exact.duration, 1e-6, "seconds")
    assert_within(exact.duration, 0.8, 0.0011, "seconds")
    assert quick.notes == exact.notes == ()


def test_a_variable_rate_is_counted(tmp_path: Path) -> None:
    path = CASES / "vfr.webm"
    for exact in (False, True):
        info = video.probe(path, exact=exact)
        assert (info.frames, info.fps, info.duration) == (86, 21.5, 4.0) and info.notes == ("variable rate",)
    clip = video.read(path)
    assert clip.fps == 21.5 and len(clip.frames) == 86
    video.write(tmp_path / "copy.mp4", clip.frames, clip.fps)
    assert_within(video.probe(tmp_path / "copy.mp4").duration, 4.0, 1e-3, "seconds")
    assert len(video.read(path, fps=10).frames) == 40


@pytest.mark.parametrize("container", ["mkv", "mp4", "webm"])
def test_a_last_frame_that_lasts(tmp_path: Path, container: str) -> None:
    """As in slides: the header, or the length of the frame, says until when it is shown."""
    path = tmp_path / f"a.{container}"
    slides(path)
    clip = video.read(path, fps=10)
    assert len(clip.frames) == 40 and np.array_equal(clip.frames[39], clip.frames[20])
    info = video.probe(path)
    assert info.frames == 4 and info.duration == pytest.approx(4.0, abs=0.02) and info.fps == pytest.approx(1, abs=0.01)
    assert not any("damaged" in note for note in info.notes)


def slides(path: Path) -> None:
    """Frames at 0, 0.5, 1 and 1.5 s, the last of which is shown for 2.5 s."""
    from tests.video.clips import CODECS, picture

    encoder, options = CODECS["vp9" if path.suffix == ".webm" else "h264"]
    with av.open(str(path), "w") as out:
        stream = out.add_stream(encoder, rate=2, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        packets: list[Any] = []
        for index in range(4):
            frame = av.VideoFrame.from_ndarray(picture(index), "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base, frame.duration = 50 * index, Fraction(1, 100), 50
            packets += stream.encode(frame)
        packets += stream.encode(None)
        packets[-1].duration = round(2.5 / packets[-1].time_base)
        out.mux(packets)


def test_what_an_edit_list_leaves_out_is_not_counted() -> None:
    path = CASES / "trimmed-copy.mp4"
    info = video.probe(path)
    assert (info.frames, info.fps, info.duration) == (67, 25.0, pytest.approx(2.68)) and info.notes == ()
    assert video.probe(path, exact=True).frames == 67 == len(list(video.iter_frames(path)))


def test_trimmed_and_turned(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.mp4", "h264", turn=90)
    path = copy(whole, tmp_path / "cut.mp4", 3)
    info = video.probe(path)
    assert (info.width, info.height, info.rotation) == (64, 96, 90)
    assert info.frames == len(list(video.iter_frames(path))) == FRAMES - 8


def test_large_files_are_not_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "SMALL", 10)
    path = encode(tmp_path / "a.mp4")
    info = video.probe(path)
    assert (info.frames, info.fps) == (FRAMES, RATE) and "large" in info.notes[0]
    assert video.probe(CASES / "trimmed-copy.mp4").frames == 67  # by its index
    assert video.probe(CASES / "vfr.webm").frames is None and video.probe(CASES / "vfr.webm", exact=True).frames == 86


def test_a_header_that_counts_wrong(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.avi", "mpeg4")
    data = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 24), (b"strh", 40)):  # total frames; length of the stream
        place = data.index(tag) + offset
        data[place : place + 4] = (9000).to_bytes(4, "little")
    path.write_bytes(data)
    info = video.probe(path)
    assert info.frames == FRAMES == len(seen(path)[0]) and info.fps == pytest.approx(RATE)
    assert not any("damaged" in note for note in info.notes)


def test_frames_that_a_writer_dropped_are_missing(tmp_path: Path) -> None:
    pts = [k for k in range(FRAMES + 2) if k not in (20, 21)]
    path = encode(tmp_path / "a.mkv", "h264", pts=pts)
    info = video.probe(path)
    assert info.notes == ("2 frames missing, the first after 0.760 s",)
    assert info.duration == pytest.approx((FRAMES + 2) / RATE) and info.fps == pytest.approx(FRAMES / 1.68)


def test_gif_delays(tmp_path: Path) -> None:
    """A delay of 0 or 1 counts as a tenth of a second, as in browsers."""
    pictures = [Image.fromarray(np.full((8, 8, 3), 50 * k, np.uint8)) for k in range(4)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[0, 50, 0, 200])
    times = [frame.time for frame in video.iter_frames(tmp_path / "a.gif")]
    assert times == pytest.approx([0, 0.1, 0.15, 0.25]) and video.probe(tmp_path / "a.gif").frames == 4


def test_a_stated_rate_is_taken_where_it_is_true() -> None:
    ntsc = Fraction(30000, 1001)
    assert mean_rate(300, 300 / float(ntsc) + 0.001, ntsc) == float(ntsc)
    assert mean_rate(86, 4.0, Fraction(25)) == 21.5
    assert mean_rate(7, 3.2, Fraction(20, 9)) == 7 / 3.2


# --- the command ---------------------------------------------------------------------------------------------------


def lines_of(*arguments: str, code: int = 0) -> list[str]:
    app = typer.Typer()
    app.command()(probe_command.probe)
    run = CliRunner().invoke(app, list(arguments))
    assert run.exit_code == code, run.output
    return run.stdout.splitlines()


def test_names_are_printed_whole_and_first(tmp_path: Path) -> None:
    folder = tmp_path / ("a long name, " * 12) / "[bold]"
    folder.mkdir(parents=True)
    path = folder / "clip with spaces.mp4"
    path.write_bytes((CASES / "trimmed-copy.mp4").read_bytes())
    header, line = lines_of(str(path))
    assert line.startswith(f"{path}  128x96 ") and line.split("  ")[-1].startswith("h264 in mov")
    assert header.startswith("file ") and " 67 " in line and " 2.680 " in line


def test_names_that_are_no_text_are_printed_too(tmp_path: Path) -> None:
    path = tmp_path / b"caf\xe9\n.mp4".decode("utf-8", "surrogateescape")
    path.write_bytes((CASES / "trimmed-copy.mp4").read_bytes())
    assert len(lines_of(str(path))) == 2 and "caf\\udce9\\n.mp4  128x96" in lines_of(str(path))[1]


def test_probe_says_what_is_lost() -> None:
    assert (
        "damaged: the frames end at 2.000 s (the header says 4.000 s"
        in lines_of(str(CASES / "damaged-half-lost.webm"))[1]
    )
