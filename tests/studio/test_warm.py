"""The sampler that stays gives bit for bit what `kinolab generate` gives, whatever it made before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kinolab.generation import warm
from kinolab.models import VideoModel
from kinolab.studio import jobs, work
from kinolab.studio.project import Project


@pytest.mark.wide
def test_what_it_makes_is_what_the_command_makes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.open(tmp_path / "p")
    shutil.copytree(tiny_model, project.models / "tiny")
    asked: list[dict[str, Any]] = [
        {"label": "0", "seed": 1}, {"label": "1", "seed": 5, "steps": 3, "guidance": 4.0}, {"label": "0", "seed": 1},
    ]  # fmt: skip
    loaded: list[str] = []
    load = VideoModel.load

    def counted(name: Any, **how: Any) -> VideoModel:
        loaded.append(str(name))
        return load(name, **how)

    monkeypatch.setattr(VideoModel, "load", counted)
    monkeypatch.chdir(project.folder)
    warm.keep()
    try:
        for k, values in enumerate(asked):
            out = {"model": "models/tiny", "out": f"samples/warm-{k}.mp4"}
            job = jobs.add(project, "generate", {**values, **out})
            assert work.do(project, job.id) == 0, jobs.ended(project, job.id)
    finally:
        warm.keep(False)
    assert len(loaded) == 1, "the model stayed"
    for k, values in enumerate(asked):
        options = [f"--{name}={value}" for name, value in values.items()]
        words = ["generate", *options, "--model=models/tiny", f"--out=samples/cold-{k}.mp4"]
        assert work.run(words) == (0, "")
        both = [(project.samples / f"{kind}-{k}.mp4").read_bytes() for kind in ("warm", "cold")]
        assert both[0] == both[1]
    assert (
        len(loaded) == 4
        and (project.samples / "warm-0.mp4").read_bytes() != (project.samples / "warm-1.mp4").read_bytes()
    )
