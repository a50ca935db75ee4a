"""The toy world's checks on a folder of videos that something else has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kinolab import video
from kinolab.errors import InputError
from kinolab.evaluation.world_report import summary_lines
from kinolab.evaluation.world_videos import evaluate_videos
from kinolab.toyworld.clips import WorldClip, WorldConfig, make_clip


@pytest.fixture(scope="module")
def clips() -> list[WorldClip]:
    return [make_clip(WorldConfig(), seed) for seed in range(6)]


def write(folder: Path, name: str, clip: WorldClip) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.mp4"
    video.write(path, clip.frames, fps=clip.fps, quality=95)
    return path


def test_prompts_are_found_beside_a_video_or_in_its_name(tmp_path: Path, clips: list[WorldClip]) -> None:
    folder = tmp_path / "videos"
    record = write(folder, "a", clips[0]).with_suffix(".json")
    record.write_text(json.dumps({"prompt": clips[0].caption}), encoding="utf-8")
    write(folder, "b", clips[1]).with_suffix(".txt").write_text(clips[1].caption + "\n", encoding="utf-8")
    write(folder, f"{clips[2].caption}-3", clips[2])
    write(folder, "holiday", clips[3])
    report = evaluate_videos(folder)
    assert {r.caption for r in report.results} == {c.caption for c in clips[:3]}
    assert report.notes == ("1 videos without a prompt of the toy world are left out, the first is holiday.mp4",)
    assert report.shares()["all"].passed == 3, "true clips show what their captions promise"
    stored = json.loads(report.to_json())
    assert stored["checks"]["generated"]["all"] == {"passed": 3, "count": 3, "share": 1.0, **_ends(stored)}
    assert stored["reconstruction"] == {"psnr": None, "ssim": None} and len(stored["protocol_hash"]) == 64
    assert summary_lines(report)[0].startswith("physics")


def _ends(stored: dict[str, Any]) -> dict[str, float]:
    return {k: stored["checks"]["generated"]["all"][k] for k in ("low", "high")}


def test_a_wrong_prompt_does_not_pass(tmp_path: Path, clips: list[WorldClip]) -> None:
    folder = tmp_path / "videos"
    for k, clip in enumerate(clips):
        other = clips[(k + 1) % len(clips)].caption
        write(folder, str(k), clip).with_suffix(".txt").write_text(other, encoding="utf-8")
    assert evaluate_videos(folder).shares()["all"].passed == 0


def test_nothing_to_judge_is_one_line(tmp_path: Path, clips: list[WorldClip]) -> None:
    with pytest.raises(InputError, match="no such folder of videos"):
        evaluate_videos(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no videos; expected"):
        evaluate_videos(tmp_path)
    write(tmp_path / "videos", "holiday", clips[0])
    with pytest.raises(InputError, match="none of 1 videos has a prompt"):
        evaluate_videos(tmp_path / "videos")
