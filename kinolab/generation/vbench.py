"""Videos in the folders that VBench's own tool reads (Huang et al. 2024), so that it can judge Kinolab's models.

VBench looks for `{prompt}-{index}.mp4`, index 0 to 4, in one folder, and asks there for the prompts of its
`VBench_full_info.json`: a list of {"prompt_en": ..., "dimension": [...]}. It takes the ending of the files from the
first one it happens to list, so nothing but videos may lie there: the provenance of each stands in a folder beside.

    OUT/videos/{prompt}-{index}.mp4          from a .txt or VBench_full_info.json
    OUT/videos/{list}/{prompt}-{index}.mp4   from a folder of lists (VBench's prompts_per_dimension)
    OUT/provenance/...                       the same names with .json; `kinolab rerun` takes them
    OUT/vbench.json                          what made all of them

    vbench evaluate --videos_path OUT/videos --dimension subject_consistency
    vbench evaluate --videos_path OUT/videos --dimension subject_consistency --mode=custom_input    # other prompts
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kinolab import __version__
from kinolab.contracts.events import Listener, advance, events_of
from kinolab.errors import InputError
from kinolab.generation.generate import generate
from kinolab.generation.matching import matching_world
from kinolab.generation.provenance import model_hash
from kinolab.generation.request import GenerateConfig, SamplingConfig, settle
from kinolab.models import VideoModel
from kinolab.runtime import files, text
from kinolab.runtime.paths import named, visible
from kinolab.runtime.reading import read_json
from kinolab.runtime.records import write_record
from kinolab.toyworld.clips import make_clip
from kinolab.toyworld.source import WorldSource, WorldSourceConfig

VIDEOS_PER_PROMPT = 5
"""What VBench expects; with fewer it warns of missing videos."""
FULL_INFO = "VBench_full_info.json"
CUSTOM_DIMENSIONS = (
    "subject_consistency", "background_consistency", "motion_smoothness", "dynamic_degree", "aesthetic_quality",
    "imaging_quality",
)  # fmt: skip
"""What VBench judges on prompts other than its own."""
LONGEST_NAME = 255
"""Bytes of a file name that every common file system takes."""
WINDOWS = '\\:*?"<>|'
"""Characters that file names can't hold on Windows, besides the slash."""


@dataclass(frozen=True)
class VBenchReport:
    """What was written: the folder to give as `--videos_path`, its videos, and how many of them were made just now."""

    videos: Path
    files: tuple[Path, ...]
    made: int


def write_vbench(
    model: VideoModel,
    prompts: Path,
    out: Path,
    *,
    name: str,
    seed: int = 0,
    videos: int = VIDEOS_PER_PROMPT,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    sampling: SamplingConfig | None = None,
    events: Listener = None,
) -> VBenchReport:
    """Generate the videos of VBench's prompts. Stopped and called again, it makes those that are missing.

    Video k of every prompt draws its noise from seed + k, so that no seed is chosen and every video can be made again.

    Args:
        prompts: a .txt with one prompt per line, a `VBench_full_info.json`, or a folder of .txt files.
        out: the folder; made where it is missing.
        name: the folder or shipped name of the model, for the provenance.
        videos: videos per prompt; VBench expects 5.
        frames, size, sampling: the model's own where left out.
        events: counts videos; a stopped call keeps those that are there.

    Raises:
        InputError: for prompts that can't be file names, a model without a text encoder, or a folder that holds videos
            made otherwise; nothing is written then.
    """
    if videos < 1:
        raise InputError(f"expected at least one video per prompt, got {videos}")
    if model.text_encoder is None:
        raise InputError(f"{name}: takes no prompts, and VBench's videos are named after theirs")
    lists = read_prompts(prompts)
    for asked in lists.values():
        check_names(asked, videos)
    config = GenerateConfig(
        **dict(sampling or SamplingConfig()), model=name, count=videos, frames=frames, size=size, seed=seed,
        lora=model.adapters, precision=model.precision, device=str(model.device),
    )  # fmt: skip
    config = settle(config, model)
    _check_same(out, config)
    files.make_folder(out / "videos")
    _check_cases(out / "videos", lists)
    write_record(out / "vbench.json", _record(config, prompts, lists))
    jobs = [(part, prompt) for part, asked in lists.items() for prompt in asked]
    told, videos_made, made = events_of(events), list[Path](), 0
    for part, prompt in jobs:
        targets = [out / "videos" / part / f"{prompt}-{k}.mp4" for k in range(videos)]
        videos_made += targets
        made += _make(model, config.model_copy(update={"prompts": (prompt,)}), out, targets)
        advance(told, len(videos_made), len(jobs) * videos)
    if prompts.suffix == ".json":
        files.write_text(out / FULL_INFO, text.read_text(prompts))
    return VBenchReport(out / "videos", tuple(videos_made), made)


def read_prompts(path: Path) -> dict[str, list[str]]:
    """Lists of prompts by the sub-folder their videos go to ("" = none), each prompt once.

    A .txt (one prompt per line, blanks around it cut, as VBench does), a `VBench_full_info.json` (as they are), or a
    folder of .txt files, one sub-folder for each.

    Raises:
        InputError: where nothing can be read.
    """
    if not path.exists():
        raise InputError(
            f"{path}: no such file; expected a text file of prompts, a {FULL_INFO}, or a folder of .txt files"
        )
    if path.is_dir():
        files = [file for file in visible(path, "*.txt") if file.is_file()]
        if not files:
            raise InputError(f"{path}: expected a folder of .txt files with a prompt per line, found none")
        return {file.stem: _each_once(file) for file in files}
    if path.suffix.lower() != ".json":
        return {"": _each_once(path)}
    try:
        entries = read_json(path)
        found = [entry["prompt_en"] for entry in entries]
    except (InputError, TypeError, KeyError):
        found = []
    if not found or not all(isinstance(prompt, str) for prompt in found):
        raise InputError(f'{path}: expected a list of {{"prompt_en": ..., "dimension": [...]}}, as {FULL_INFO} has')
    return {"": list(dict.fromkeys(found))}


def check_names(prompts: Sequence[str], videos: int = VIDEOS_PER_PROMPT) -> None:
    """Refuse prompts that can't be file names: VBench finds a video by its prompt as it is, so none is changed.

    Raises:
        InputError: for a prompt that is empty, holds a slash, a line break or another control character (on Windows
            also one of \\ : * ? " < > |), or is too long.
    """
    forbidden = "/" + (WINDOWS if os.name == "nt" else "")
    for prompt in prompts:
        bad = next((c for c in prompt if c in forbidden or ord(c) < 32 or ord(c) == 127), None)
        length = len(f"{prompt}-{videos - 1}.json".encode(errors="replace"))
        if not prompt.strip():
            raise InputError("a prompt is empty: VBench names videos after their prompts; leave it out")
        if bad is not None:
            raise InputError(
                f"{prompt!r}: can't be a file name, as VBench needs it, because of {bad!r}; reword the prompt"
            )
        if length > LONGEST_NAME:
            raise InputError(
                f"{prompt[:40]!r}...: makes a file name of {length} bytes, {LONGEST_NAME} at most; shorten it"
            )


def prompts_of_world(model: VideoModel, folder: Path, *, count: int = 256, first: int = 0) -> Path:
    """Write the captions of held-out clips of the toy world as VBench has its prompts; returns the `.json`.

    `folder` gets `all_dimension.txt` and `VBench_full_info.json` (with the dimensions that VBench judges on any
    prompt), for `write_vbench` and for VBench's `--full_json_dir`. The requests are those of `kinolab evaluate world`;
    a caption that comes again is left out.

    Raises:
        InputError: for counts below 1.
    """
    if count < 1 or first < 0:
        raise InputError(f"expected a count of at least 1 and a first request of at least 0, got {count} and {first}")
    world, _ = matching_world(model)
    source = WorldSource(
        WorldSourceConfig(world=world, heldout_count=first + count, split="heldout"), model.output.autoencoder.spec
    )
    numbers = range(first, first + count)
    captions = list(dict.fromkeys(make_clip(source.world, source.seed(i)).caption for i in numbers))
    check_names(captions)
    files.write_text(folder / "all_dimension.txt", "".join(f"{caption}\n" for caption in captions))
    listed = [{"prompt_en": c, "dimension": list(CUSTOM_DIMENSIONS)} for c in captions]
    files.write_text(folder / FULL_INFO, json.dumps(listed, indent=1) + "\n")
    return folder / FULL_INFO


def _make(model: VideoModel, config: GenerateConfig, out: Path, targets: Sequence[Path]) -> int:
    """Make the videos of a prompt as one batch, unless all are there; returns how many were missing.

    They and their provenance are made aside, and each video is moved last: where it stands, all of it does.
    """
    missing = [k for k, path in enumerate(targets) if not path.exists()]
    if not missing:
        return 0
    with files.scratch(out) as aside:
        made = generate(config, aside / "clip.mp4", model=model)
        for k in missing:
            record = out / "provenance" / targets[k].relative_to(out / "videos").with_suffix(".json")
            files.place(made[k].with_suffix(".json"), record)
            files.place(made[k], targets[k])
    return len(missing)


def _record(config: GenerateConfig, prompts: Path, lists: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "kinolab": __version__,
        "torch": torch.__version__,
        "model_sha256": model_hash(config.model),
        "request": config.model_dump(mode="json", exclude={"prompts"}),
        "prompts": str(prompts),
        "prompt_count": sum(len(asked) for asked in lists.values()),
        "threads": torch.get_num_threads(),
    }


def _check_same(out: Path, config: GenerateConfig) -> None:
    """Refuse to go on with a folder whose videos another model or other settings made."""
    path = out / "vbench.json"
    if not path.exists():
        if (out / "videos").exists() and visible(out / "videos"):
            raise InputError(f"{out}: holds videos, but no vbench.json that says what made them; choose another folder")
        return
    try:
        record = read_json(path)
        then, sha = dict(record["request"]), record["model_sha256"]
    except (InputError, KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not a record of VBench's videos; choose another folder") from None
    now = config.model_dump(mode="json", exclude={"prompts"})
    # Where the model lies and how many videos there are to be of a prompt changes none of them.
    # What an older version had no field for was left at its default.
    then = GenerateConfig(model=config.model).model_dump(mode="json") | then
    other = [key for key in now if key not in ("model", "device", "count") and then[key] != now[key]]
    if sha != model_hash(config.model):
        other.insert(0, "model")
    if other:
        raise InputError(f"{out}: holds videos made with another {', '.join(other)}; choose another folder")


def _check_cases(folder: Path, lists: dict[str, list[str]]) -> None:
    """Refuse prompts that differ in capitals alone where file names don't."""
    probe = named(folder).with_name(named(folder).name.upper())
    if not probe.exists():
        return
    for asked in lists.values():
        seen: dict[str, str] = {}
        for prompt in asked:
            other = seen.setdefault(prompt.casefold(), prompt)
            if other != prompt:
                raise InputError(f"{folder}: file names here ignore capitals, so {other!r} and {prompt!r} are one file")


def _each_once(path: Path) -> list[str]:
    return list(dict.fromkeys(text.read_prompts(path)))
