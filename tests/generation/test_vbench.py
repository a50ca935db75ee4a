"""VBench's folders: names it finds, prompts it can't have, and going on where it stopped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kinolab import video
from kinolab.contracts.events import Stopped
from kinolab.errors import InputError
from kinolab.generation import vbench
from kinolab.generation.generate import rerun
from kinolab.generation.vbench import check_names, prompts_of_world, read_prompts, write_vbench
from kinolab.models import VideoModel
from kinolab.toyworld.clips import parse_caption
from tests.listening import Listening
from tests.tiny_model import save_tiny_model, tiny_model

pytestmark = pytest.mark.slow  # many short ones, which take long together

PROMPTS = ("A 3D model of a 1800s victorian house.", "a café, 'in the style' of Ukiyo-e: really?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoModel:
    return VideoModel.load(folder, precision="float32")


def listing(path: Path, *prompts: str) -> Path:
    path.write_text("".join(f"  {p} \n" for p in prompts), encoding="utf-8")
    return path


def found_by_vbench(videos: Path, full_info: Path, dimension: str) -> dict[str, list[str]]:
    """What the standard mode of VBench's tool looks up: names made of the prompt, the number, and the ending of the
    first file that the folder happens to list."""
    names = [p.name for p in videos.iterdir()]
    endings = {Path(name).suffix for name in names}
    assert len(endings) == 1, "any other file may be the first, and hides all videos"
    found: dict[str, list[str]] = {}
    for entry in json.loads(full_info.read_text()):
        if dimension in entry["dimension"]:
            wanted = [f"{entry['prompt_en']}-{i}{next(iter(endings))}" for i in range(5)]
            found[entry["prompt_en"]] = [name for name in wanted if name in names]
    return found


def test_vbench_finds_five_videos_of_every_prompt(folder: Path, model: VideoModel, tmp_path: Path) -> None:
    info = tmp_path / "info.json"
    entries = [{"prompt_en": p, "dimension": ["motion_smoothness"]} for p in PROMPTS]
    entries.append({"prompt_en": PROMPTS[0], "dimension": ["color"]})  # VBench's list has some prompts twice
    info.write_text(json.dumps(entries))
    report = write_vbench(model, info, tmp_path / "out", name=str(folder))
    assert report.videos == tmp_path / "out/videos" and report.made == len(report.files) == 10
    found = found_by_vbench(report.videos, tmp_path / "out/VBench_full_info.json", "motion_smoothness")
    assert {p: len(v) for p, v in found.items()} == dict.fromkeys(PROMPTS, 5)
    assert video.probe(report.files[0]).frames == 5
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "VBench_full_info.json", "provenance", "vbench.json", "videos",
    ]  # fmt: skip


def test_every_video_has_its_own_seed_and_can_be_made_again(folder: Path, model: VideoModel, tmp_path: Path) -> None:
    report = write_vbench(
        model, listing(tmp_path / "p.txt", *PROMPTS), tmp_path / "out", name=str(folder), seed=7, videos=2
    )
    records = [
        json.loads((tmp_path / "out/provenance" / f.with_suffix(".json").name).read_text()) for f in report.files
    ]
    assert [(r["prompt"], r["seed"]) for r in records] == [(p, s) for p in PROMPTS for s in (7, 8)]
    assert len({r["frames_sha256"] for r in records}) == 4
    _, changed = rerun(tmp_path / "out/provenance" / report.files[1].with_suffix(".json").name, tmp_path / "again.mp4")
    assert changed == []
    summary = json.loads((tmp_path / "out/vbench.json").read_text())
    assert (summary["prompt_count"], summary["request"]["count"]) == (2, 2)


def test_stopped_between_two_prompts_the_videos_stay(folder: Path, model: VideoModel, tmp_path: Path) -> None:
    prompts, out = listing(tmp_path / "p.txt", "a ball", "a box"), tmp_path / "out"
    with pytest.raises(Stopped):
        write_vbench(model, prompts, out, name=str(folder), videos=1, events=Listening(stop_after=1))
    assert sorted(p.name for p in (out / "videos").iterdir()) == ["a ball-0.mp4"]
    assert write_vbench(model, prompts, out, name=str(folder), videos=1).made == 1


def test_it_goes_on_where_it_stopped(
    folder: Path, model: VideoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, out = listing(tmp_path / "p.txt", "a ball", "a box"), tmp_path / "out"
    steps: list[tuple[int, int]] = []
    real = vbench.generate
    calls = []

    def stopping(config: object, target: Path, **rest: object) -> list[Path]:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(config, target, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(vbench, "generate", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_vbench(model, prompts, out, name=str(folder), videos=3)
    kept = {p.name: p.stat().st_mtime_ns for p in (out / "videos").iterdir()}
    assert sorted(kept) == ["a ball-0.mp4", "a ball-1.mp4", "a ball-2.mp4"]
    assert not (out / ".writing-vbench").exists()
    (out / "videos/a ball-1.mp4").unlink()
    report = write_vbench(
        model, prompts, out, name=str(folder), videos=3, events=lambda done, total: steps.append((done, total))
    )
    assert report.made == 4 and steps == [(3, 6), (6, 6)] and len(calls) == 4
    assert all(f.exists() for f in report.files)
    assert (out / "videos/a ball-0.mp4").stat().st_mtime_ns == kept["a ball-0.mp4"]
    assert write_vbench(model, prompts, out, name=str(folder), videos=3).made == 0


def test_a_folder_of_lists_gets_a_folder_each(folder: Path, model: VideoModel, tmp_path: Path) -> None:
    lists = tmp_path / "prompts_per_dimension"
    lists.mkdir()
    listing(lists / "color.txt", "a red ball")
    listing(lists / "scene.txt", "a beach", "", "a red ball", "a beach")
    report = write_vbench(model, lists, tmp_path / "out", name=str(folder), videos=1)
    names = [str(f.relative_to(report.videos)) for f in report.files]
    assert names == ["color/a red ball-0.mp4", "scene/a beach-0.mp4", "scene/a red ball-0.mp4"]
    assert (tmp_path / "out/provenance/scene/a beach-0.json").exists()


def test_another_model_or_other_settings_are_not_mixed_in(folder: Path, model: VideoModel, tmp_path: Path) -> None:
    prompts, out = listing(tmp_path / "p.txt", "a ball"), tmp_path / "out"
    write_vbench(model, prompts, out, name=str(folder), videos=1)
    with pytest.raises(InputError, match="made with another seed; choose another folder"):
        write_vbench(model, prompts, out, name=str(folder), videos=1, seed=3)
    other = tiny_model()
    other.config = other.config.model_copy(update={"trained": "otherwise"})
    other.save(tmp_path / "other")
    with pytest.raises(InputError, match="made with another model"):
        write_vbench(other, prompts, out, name=str(tmp_path / "other"), videos=1)
    (out / "vbench.json").unlink()
    with pytest.raises(InputError, match=r"no vbench\.json"):
        write_vbench(model, prompts, out, name=str(folder), videos=1)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a cat and/or a dog", "can't be a file name, as VBench needs it, because of '/'"),
        ("a cat\nand a dog", r"because of '\\n'"),
        ("a\0cat", "because of"),
        ("  ", "a prompt is empty"),
        ("é" * 130, "a file name of 267 bytes, 255 at most"),
    ],
)
def test_prompts_that_can_not_be_file_names_are_refused_in_one_line(prompt: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        check_names(["a ball", prompt])
    assert "\n" not in str(error.value)
    check_names(PROMPTS)
    check_names(["x" * 210])  # VBench's longest


def test_nothing_is_written_for_refused_prompts(folder: Path, model: VideoModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file name"):
        write_vbench(model, listing(tmp_path / "p.txt", "a ball", "a/b"), tmp_path / "out", name=str(folder))
    with pytest.raises(InputError, match="takes no prompts"):
        write_vbench(tiny_model(text=False), listing(tmp_path / "q.txt", "a"), tmp_path / "out", name="unlabelled")
    with pytest.raises(InputError, match="at least one video"):
        write_vbench(model, tmp_path / "q.txt", tmp_path / "out", name=str(folder), videos=0)
    with pytest.raises(InputError, match="frames"):
        write_vbench(model, tmp_path / "q.txt", tmp_path / "out", name=str(folder), frames=6)
    assert not (tmp_path / "out").exists()


def test_prompts_that_differ_in_capitals_alone_need_a_file_system_that_tells_them_apart(
    folder: Path, model: VideoModel, tmp_path: Path
) -> None:
    prompts, out = listing(tmp_path / "p.txt", "A fantasy landscape", "a fantasy landscape"), tmp_path / "out"
    assert len(write_vbench(model, prompts, out, name=str(folder), videos=1).files) == 2
    (out / "VIDEOS").mkdir()  # as it is where names ignore capitals
    with pytest.raises(InputError, match="file names here ignore capitals"):
        write_vbench(model, prompts, out, name=str(folder), videos=1)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '[{"prompt": "a"}]', '[{"prompt_en": 3}]', "[1]"])
def test_a_json_that_is_no_list_of_prompts_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    path.write_text(text)
    with pytest.raises(InputError, match="prompt_en"):
        read_prompts(path)


def test_missing_and_empty_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a text file of prompts"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(InputError, match="holds no prompts"):
        read_prompts(listing(tmp_path / "empty.txt", "", ""))
    (tmp_path / "lists").mkdir()
    with pytest.raises(InputError, match=r"a folder of \.txt files"):
        read_prompts(tmp_path / "lists")


def test_the_worlds_prompts_are_captions_in_vbenchs_layout(model: VideoModel, tmp_path: Path) -> None:
    path = prompts_of_world(model, tmp_path / "world", count=12)
    entries = json.loads(path.read_text())
    prompts = [entry["prompt_en"] for entry in entries]
    assert 6 < len(prompts) == len(set(prompts)) <= 12
    assert all(parse_caption(p).objects and not re.search(r"-\d+$", p) for p in prompts)
    assert all("subject_consistency" in entry["dimension"] for entry in entries)
    assert (tmp_path / "world/all_dimension.txt").read_text().splitlines() == prompts
    assert read_prompts(path) == read_prompts(tmp_path / "world/all_dimension.txt") == {"": prompts}
    later = json.loads(prompts_of_world(model, tmp_path / "later", count=3, first=4).read_text())
    assert later[0]["prompt_en"] in prompts
    with pytest.raises(InputError, match="count of at least 1"):
        prompts_of_world(model, tmp_path, count=0)


def test_what_systems_leave_behind_is_no_list_of_prompts(tmp_path: Path) -> None:
    listing(tmp_path / "colour.txt", "a red ball")
    for name in ("._colour.txt", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"\xff\x00")
    (tmp_path / "folder.txt").mkdir()
    assert read_prompts(tmp_path) == {"colour": ["a red ball"]}
