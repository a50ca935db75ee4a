"""What made a video stands in the file itself, too: it can be read back, and it changes neither frames nor records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from kinolab.errors import InputError
from kinolab.generation.generate import generate, rerun
from kinolab.generation.provenance import embedded, frames_hash, read_provenance
from kinolab.runtime.files import copy
from tests.tiny_model import save_tiny_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    model = save_tiny_model(folder / "model")
    request = {
        "model": str(model),
        "prompts": ["it's a \u201cred\u201d ball\n=;#"],
        "device": "cpu",
        "precision": "float32",
    }
    return generate({**request, "sampler": {"steps": 2}}, folder / "a.mp4")[0]


def test_a_video_says_how_it_was_made_wherever_it_is_copied(made: Path, tmp_path: Path) -> None:
    copy(made, tmp_path / "b.mp4")
    record, found = read_provenance(made), embedded(tmp_path / "b.mp4")
    assert set(found) == {"kinolab", "torch", "threads", "model_sha256", "request", "index", "prompt", "seed"}
    assert all(found[name] == record[name] for name in found)


def test_the_frames_are_those_of_a_file_without_it(made: Path, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), np.uint8)
    for ending in (".mp4", ".mov", ".mkv", ".webm", ".gif"):
        with_it, without = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
        video.write(with_it, frames, 8, comment='{"kinolab": "' + "x" * 5000 + '"}')
        video.write(without, frames, 8)
        assert frames_hash(with_it) == frames_hash(without)
        assert video.comment_of(without) == "" and len(video.comment_of(with_it)) == (0 if ending == ".gif" else 5015)


def test_made_again_it_is_the_same_to_the_byte(made: Path, tmp_path: Path) -> None:
    again, changed = rerun(made, tmp_path / "again.mp4")
    assert not changed and again.read_bytes() == made.read_bytes()


@pytest.mark.parametrize("comment", ["", "Lavf", '{"kinolab": 1}', '{"kinolab": "0.1.0", "request": {}, "index": -1}',
                                     '{"kinolab": "0.1.0", "request": 3}', '{"kinolab": '])  # fmt: skip
def test_another_video_is_one_line(tmp_path: Path, comment: str) -> None:
    path = tmp_path / "a.mp4"
    video.write(path, np.zeros((2, 16, 16, 3), np.uint8), 8, comment=comment)
    with pytest.raises(InputError, match=r"dropped\.mp4"):
        embedded(path, "dropped.mp4")
