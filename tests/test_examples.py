"""The examples that need no run of their own: what they draw is what the logs say."""

from __future__ import annotations

import json
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinolab import video
from kinolab.errors import InputError
from kinolab.reports.charts import BOTTOM, LEFT, RIGHT, TOP
from kinolab.toyworld.words import COLOURS
from tests.reports.reading import NASTY, elements

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def loss_curves() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "examples" / "loss_curves.py"))


def write_log(path: Path, values: dict[int, float], heldout: dict[int, float] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"step": s, "kind": "train", "loss": v} for s, v in values.items()]
    rows += [{"step": s, "kind": "heldout", "loss": v} for s, v in (heldout or {}).items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def drawn(path: Path) -> ElementTree.Element:
    return ElementTree.fromstring(path.read_text(encoding="utf-8"))


def points(line: ElementTree.Element) -> list[tuple[float, float]]:
    pairs = [pair.split(",") for pair in line.attrib["points"].split()]
    return [(float(x), float(y)) for x, y in pairs]


def test_a_window_holds_the_steps_that_it_says(loss_curves: dict[str, Any]) -> None:
    smoothed = loss_curves["smoothed"]
    values = [(10.0, 1.0), (20.0, 3.0), (30.0, 8.0), (60.0, 4.0)]
    assert smoothed(values, 20) == [(10.0, 1.0), (20.0, 2.0), (30.0, 5.5), (60.0, 4.0)]
    assert smoothed(values, 1) == values and smoothed(values, 100)[-1] == (60.0, 4.0)


def test_losses_of_several_runs_stand_in_one_picture(loss_curves: dict[str, Any], tmp_path: Path) -> None:
    write_log(tmp_path / "run" / "log.jsonl", {10: 4.0, 20: 2.0, 40: 0.0}, {40: 9.0})
    log = write_log(tmp_path / "other.jsonl", {20: 1.0, 30: 3.0})
    out = tmp_path / "new" / "out.svg"
    words = [str(out), f"a={tmp_path / 'run'}", f"{NASTY}={log}", "--window", "10", "--title", NASTY]
    loss_curves["main"](words)
    picture = drawn(out)
    first, second = elements(picture, f"{SVG}polyline", "line")
    assert points(first)[0] == (LEFT, TOP) and points(first)[-1] == (RIGHT, BOTTOM)
    assert points(second) == [(pytest.approx(x, abs=0.01), pytest.approx(y, abs=0.01)) for x, y in at([20, 30], [1, 3])]
    texts = ["".join(text.itertext()) for text in picture.iter(f"{SVG}text")]
    assert NASTY in texts and "training loss, mean of 10 steps" in texts
    assert "a 0" in texts and f"{NASTY} 3" in texts, "the legend has the last values"
    left, _, width, height = map(float, picture.attrib["viewBox"].split())
    lowest = max(float(text.attrib["y"]) for text in picture.iter(f"{SVG}text"))
    assert lowest < height and left + width > RIGHT


def at(steps: list[int], values: list[float]) -> list[tuple[float, float]]:
    """Where points stand in the frame of steps 10 to 40 and losses 0 to 4."""
    across = [LEFT + (RIGHT - LEFT) * (s - 10) / 30 for s in steps]
    return list(zip(across, [BOTTOM + (TOP - BOTTOM) * v / 4 for v in values], strict=True))


def test_held_out_losses_are_drawn_as_they_were_logged(loss_curves: dict[str, Any], tmp_path: Path) -> None:
    log = write_log(tmp_path / "a.jsonl", {10: 4.0}, {10: 1.0, 20: 0.1, 30: 0.01})
    loss_curves["main"]([str(tmp_path / "out.svg"), f"a={log}", "--heldout", "--log"])
    (line,) = elements(drawn(tmp_path / "out.svg"), f"{SVG}polyline", "line")
    heights = [y for _, y in points(line)]
    assert len(heights) == 3 and heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.02)


def test_the_picture_needs_nothing_beside_it(loss_curves: dict[str, Any], tmp_path: Path) -> None:
    """All classes have a style inside, and the colours suit dark pages too."""
    log = write_log(tmp_path / "a.jsonl", {10 * k: float(k) for k in range(1, 80)})
    loss_curves["main"]([str(tmp_path / "out.svg"), f"a={log}"])
    text = (tmp_path / "out.svg").read_text(encoding="utf-8")
    picture = drawn(tmp_path / "out.svg")
    style = picture.find(f"{SVG}style")
    assert style is not None and style.text is not None and "prefers-color-scheme: dark" in style.text
    used = {name for e in picture.iter() for name in e.get("class", "").split()}
    assert {name for name in used if f".{name}" not in style.text} <= {"tick", "name"}
    assert "href" not in text and "url(" not in text and "@import" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "expected NAME=RUN"),
        (["a=LOG", "a=LOG"], "each name once"),
        (["a=LOG", "--window", "0"], "a window from 1"),
        (["a=LOG", "--heldout"], "no heldout loss in its log; it has train loss"),
        (["a=nowhere"], "nowhere: no such file"),
    ],
)
def test_mistakes_are_explained(loss_curves: dict[str, Any], tmp_path: Path, words: list[str], message: str) -> None:
    log = write_log(tmp_path / "a.jsonl", {10: 4.0})
    with pytest.raises(InputError, match=message):
        loss_curves["main"]([str(tmp_path / "out.svg"), *(word.replace("LOG", str(log)) for word in words)])
    assert not (tmp_path / "out.svg").exists()


def test_the_colours_of_toy_videos_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "colours_picture.py"))
    frames = np.full((2, 16, 16, 3), 235, np.uint8)
    frames[:, :4, :8] = (132, 76, 196)
    frames[:, 4:8, :8] = (240, 214, 44)
    frames[1, 8:12, :8] = (70, 60, 50)  # too grey to be an object's
    assert example["shares"](frames) == {name: 0.5 if name in ("purple", "yellow") else 0.0 for name in COLOURS}
    for k in range(2):
        video.write(tmp_path / "weight1" / f"{k}.mkv", frames, fps=8, lossless=True)
    words = ["colours_picture.py", str(tmp_path / "weight1"), "--frame", "1", "--out", str(tmp_path / "a.png")]
    monkeypatch.setattr("sys.argv", words)
    example["main"]()
    assert capsys.readouterr().out == "weight1: yellow 50%, purple 50%\n" and (tmp_path / "a.png").exists()
    monkeypatch.setattr("sys.argv", ["colours_picture.py", str(tmp_path), "--out", str(tmp_path / "a.png")])
    with pytest.raises(InputError, match="expected videos"):
        example["main"]()


class Gradio:
    """What `examples/gradio_app.py` asks of Gradio: parts that keep what they were made of."""

    class Error(Exception):
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: (name, given, named)


@pytest.mark.slow
def test_the_gradio_page_makes_videos_by_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    example, gradio, told = runpy.run_path(str(ROOT / "examples" / "gradio_app.py")), Gradio(), []
    kind, (tabs, names), _ = example["build"](gradio)
    assert kind == "TabbedInterface" and len(names) == len(tabs) == 2
    (from_text, text, _), (from_clip, clip, _) = (given for _, given, _ in tabs)
    assert len(text) == 4 and len(clip) == 3
    path, request = from_text("a red ball falls to the floor", 3.0, 1, 2.0, lambda share: told.append(share))
    assert video.probe(Path(path)).frames == 17 and told[-1][0] == told[-1][1] > 0
    assert (request["seed"], request["sampler"]["steps"], request["guidance"]["scale"]) == (3, 1, 2)
    for what in example["GIVEN"]:
        with pytest.raises(Gradio.Error, match=r"nowhere\.mp4: no such file"):
            from_clip(str(tmp_path / "nowhere.mp4"), what, 0, print)


def test_rows_of_frames_are_of_the_same_moments(tmp_path: Path) -> None:
    from PIL import Image

    script = runpy.run_path(str(ROOT / "examples" / "rows_picture.py"))
    grey = np.arange(8, dtype=np.uint8)[:, None, None, None] * 30
    frames = np.broadcast_to(grey, (8, 16, 16, 3)).copy()
    video.write(tmp_path / "a.mkv", frames, fps=8, lossless=True)
    name, found = script["shown"](f"a={tmp_path / 'a.mkv'}", 16, 7, 3)
    assert name == "a" and [int(f.mean()) for f in found] == [0, 90, 180]
    halved = script["shown"](f"a={tmp_path / 'a.mkv'}@4", 16, 4, 4)[1]
    assert [int(f.mean()) for f in halved] == [0, 60, 120, 180], "every second frame of a clip that is re-timed"
    row = f"a={tmp_path / 'a.mkv'}"
    script["main"]([row, row, "--size", "16", "--shown", "4", "--margin", "20", "--out", str(tmp_path / "rows.webp")])
    with Image.open(tmp_path / "rows.webp") as picture:
        assert picture.format == "WEBP" and picture.size == (20 + 4 * 20, 2 * 20 + 4)
    with pytest.raises(InputError, match="has 8 frames; expected 9"):
        script["shown"](row, 16, 9, 3)
    with pytest.raises(InputError, match="expected NAME=VIDEO"):
        script["shown"]("a.mkv", 16, 4, 3)
