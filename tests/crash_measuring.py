"""More commands to be cut off (see `tests.command_crashes`): those that measure, show, convert and copy."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from kinolab import video
from kinolab.autoencoders import ImageConfig, OdVaeConfig, build
from kinolab.checkpoints import load
from kinolab.cli.convert import convert
from kinolab.cli.world import world
from kinolab.comparison.pages import write_tables
from kinolab.comparison.plan import load_plan
from kinolab.comparison.run import compare, finished_cells, states
from kinolab.data.curation import CurateConfig, curate
from kinolab.data.shrink import RECORD, shrink
from kinolab.generation.provenance import frames_hash
from kinolab.generation.reconstruct import reconstruct
from kinolab.generation.reconstruct_report import ReconstructConfig
from kinolab.models import load_autoencoder, save_autoencoder
from kinolab.reports import build_report, write_report
from kinolab.runtime import sharded
from kinolab.runtime.sets import finish_set_of
from kinolab.training.state import checkpoints
from tests.command_crashes import Command, copied, copy_of
from tests.comparison.tiny_plan import tiny_plan
from tests.data.clip_files import write_numbered
from tests.tiny_model import tiny_model

PAGES = {"table.md": "", "table.csv": "cell,kind,name,value", "report.html": "<!doctype html>"}
"""What a comparison writes, and how each begins."""


def measuring_commands(room: Path) -> Iterator[Command]:
    """All of them; what they share is made in `room`."""
    yield compare_command(room / "compare")
    yield reconstruct_command(room / "reconstruct")
    yield report_command(room / "report")
    yield convert_command(room / "convert")
    yield shrink_command(room / "shrink")
    yield world_command(room / "world")
    yield curate_command(room / "curate")


def compare_command(room: Path) -> Command:
    """A comparison of one autoencoder that is there and a denoiser that is trained in front of it, to the tables."""
    room.mkdir(parents=True)
    plan = tiny_plan(
        data={"world": {"kind": "world", "world": {"size": 32, "frames": 5}, "count": 4}},
        autoencoders={"image": {"path": str(room / "image")}},
        budgets={"small": {"autoencoder": {"steps": 1}, "denoiser": {"steps": 1}}}, cached_clips=2, videos=1,
        reconstruction_changes={"frames": 5, "samples": 4, "minimum": 4, "metrics": ["psnr"]},
        generation_changes={"frames": 5, "samples": 4, "minimum": 4, "metrics": ["temporal_flickering"]},
    )  # fmt: skip
    save_image_autoencoder(room / "image")
    (room / "plan.yaml").write_text(yaml.safe_dump(plan))

    def act(root: Path) -> None:
        assert not compare(room / "plan.yaml", root / "out", threads=1, device="cpu", isolate=False)
        write_tables(load_plan(room / "plan.yaml"), root / "out")

    def whole(root: Path) -> None:
        found = states(load_plan(room / "plan.yaml"), root / "out")
        assert len(found) == 2 and not any(state.problem for state in found)
        for path in root.rglob("*.json"):
            if not any(part.startswith(".") for part in path.relative_to(root).parts):  # what is not yet in its place
                assert json.loads(path.read_text() or "null"), f"{path} is empty"
        for run in root.rglob("run"):
            assert all(sharded.verify(checkpoint) == [] for checkpoint in checkpoints(run / "checkpoints"))
        for name, begin in PAGES.items():
            path = root / "out" / name
            assert not path.exists() or (path.read_text().startswith(begin) and path.read_text().endswith(("\n", ">")))

    def done(root: Path) -> None:
        whole(root)
        plan = load_plan(room / "plan.yaml")
        assert all(s.trained and s.measured for s in states(plan, root / "out"))
        assert not finished_cells(plan, root / "out"), "costs are missing"
        assert all((root / "out" / name).is_file() for name in PAGES)

    return Command("compare", lambda root: None, act, whole, done)


ODVAE = OdVaeConfig(
    hidden_size=8, hidden_size_mult=(1, 1, 1), num_res_blocks=1, latent_channels=4, norm_num_groups=4,
    mid_attention="none", norm="clip", upsampling="trilinear",
)  # fmt: skip
"""One that the published code could run."""


def save_image_autoencoder(folder: Path, factor: float = 1.0) -> None:
    torch.manual_seed(0)
    config = ImageConfig(
        block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, mid_block_attention=False
    )
    save_autoencoder(scaled(build(config), factor), folder)


def reconstruct_command(room: Path) -> Command:
    """A picture of a clip's reconstruction and its record, over those of another clip."""
    room.mkdir(parents=True)
    tiny_model(text=False).save(room / "model")
    autoencoder = load_autoencoder(room / "model", device="cpu")
    clips = [write_numbered(room / f"{mark}.mkv", 5, mark=90 * mark) for mark in range(2)]

    def write(root: Path, clip: Path) -> None:
        config = ReconstructConfig(autoencoder=str(room / "model"), size=16, precision="float32")
        reconstruct(clip, root / "r.mkv", autoencoder, config)

    def pair(root: Path) -> tuple[str, str]:
        """The clip that the record names, and the frames beside it."""
        finish_set_of(root / "r.json")  # as who reads records does
        return json.loads((root / "r.json").read_text())["clip"], frames_hash(root / "r.mkv")

    known = []
    for k, clip in enumerate(clips):
        write(room / f"made{k}", clip)
        known.append(pair(room / f"made{k}"))
    assert known[0][1] != known[1][1]

    def whole(root: Path) -> None:
        assert pair(root) in known, "a picture beside another's record"

    def done(root: Path) -> None:
        assert pair(root) == known[1]

    return Command(
        "reconstruct", copied(room / "made0"), lambda root: write(root, clips[1]), whole, done
    )  # fmt: skip


def report_command(room: Path) -> Command:
    """A page with its videos over another page with others."""
    room.mkdir(parents=True)
    tiny_model(text=False).save(room / "model")
    autoencoder = load_autoencoder(room / "model", device="cpu")
    for name, frames in (("a", 5), ("b", 9)):
        clip = write_numbered(room / f"{name}.mkv", frames)
        config = ReconstructConfig(autoencoder=str(room / "model"), size=16, precision="float32")
        reconstruct(clip, room / "made" / f"{name}.mp4", autoencoder, config)

    def write(root: Path, name: str) -> None:
        page, media = build_report([room / "made" / f"{name}.json"])
        media.write(root)
        write_report(page, root / "page.html")

    write(room / "before", "a")
    write(room / "after", "b")
    known = {name: (room / name / "page.html").read_text() for name in ("before", "after")}
    assert known["before"] != known["after"]

    def whole(root: Path) -> None:
        page = (root / "page.html").read_text()
        assert page in known.values(), "parts of two pages"
        names = set(re.findall(r"media/[\w./-]+", page))
        assert names
        for name in names:
            assert video.probe(root / name, exact=True).frames

    def done(root: Path) -> None:
        assert (root / "page.html").read_text() == known["after"]
        whole(root)

    return Command("report", copied(room / "before"), lambda root: write(root, "b"), whole, done)


def convert_command(room: Path) -> Command:
    """Autoencoders in the public layout, in that of diffusers and as a model folder, over those of another model."""
    for name, factor in (("old", 1.0), ("new", 1.5)):
        save_image_autoencoder(room / f"{name}-image", factor)
        save_autoencoder(scaled(build(ODVAE), factor), room / f"{name}-odvae")

    def write(root: Path, name: str) -> None:
        with redirect_stdout(io.StringIO()):
            convert([str(room / f"{name}-odvae")], root / "public.safetensors", to="public", overwrite=True)
            convert([str(room / f"{name}-image")], root / "diffusers", to="diffusers", overwrite=True)
            convert([str(room / f"{name}.safetensors")], root / "model", overwrite=True)

    def read(root: Path) -> dict[str, dict[str, torch.Tensor]]:
        found = {out: load(root / out).state_dict() for out in ("public.safetensors", "diffusers")}
        return found | {"model": load_autoencoder(root / "model", device="cpu").state_dict()}

    for name in ("old", "new"):
        with redirect_stdout(io.StringIO()):
            convert([str(room / f"{name}-odvae")], room / f"{name}.safetensors", to="public")
    write(room / "before", "old")
    write(room / "after", "new")
    known = [read(room / "before"), read(room / "after")]
    assert not any(equal(known[0][out], known[1][out]) for out in known[0])

    def is_one_of(root: Path, states: list[dict[str, dict[str, torch.Tensor]]]) -> None:
        for out, found in read(root).items():
            assert any(equal(found, state[out]) for state in states), f"{out}: parts of both"

    return Command(
        "convert", copied(room / "before"), lambda root: write(root, "new"),
        lambda root: is_one_of(root, known), lambda root: is_one_of(root, known[1:]),
    )  # fmt: skip


def scaled(module: Any, factor: float) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)
    return module


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def shrink_command(room: Path) -> Command:
    """Small copies of a folder of clips and its table, of which one is there already."""
    for mark in range(2):
        write_numbered(room / "before" / "clips" / f"{mark}.mkv", 5, mark=80 * mark)
    (room / "before" / "clips" / "captions.csv").write_text("file,caption\n0.mkv,zero\n1.mkv,one\n")
    act: Callable[[Path], Any] = lambda root: shrink(root / "clips", root / "small", 8)  # noqa: E731
    act(copy_of(room / "before", room / "done"))
    expected = {name: frames_hash(room / "done" / "small" / name) for name in ("0.mkv", "1.mkv")}

    def whole(root: Path) -> None:
        for name, frames in expected.items():
            path = root / "small" / name
            assert not path.exists() or frames_hash(path) == frames, name
        table = root / "small" / "captions.csv"
        assert not table.exists() or table.read_text() == (root / "clips" / "captions.csv").read_text()

    def done(root: Path) -> None:
        whole(root)
        lines = [json.loads(line) for line in (root / "small" / RECORD).read_text().splitlines()]
        assert {line["copy"] for line in lines} == expected.keys()
        assert all((root / "small" / name).exists() for name in (*expected, "captions.csv"))

    return Command("shrink", copied(room / "before"), act, whole, done)


def curate_command(room: Path) -> Command:
    """A curation of three clips, one of two scenes: the same bytes as one quiet call leaves."""
    room.mkdir(parents=True)
    for k, scenes in enumerate(((40,), (90,), (150, 220))):
        pictures = [np.full((32, 32, 3), level, np.uint8) for level in scenes for _ in range(4)]
        video.write(room / "before" / "raw" / f"{k}.mkv", pictures, fps=4, lossless=True)
    off = dict.fromkeys(("motion", "text", "blocks", "sharpness", "duplicates"), False)
    config = CurateConfig.model_validate({"signals": off, "keep": {"brightness": {"min": 0.25}}})

    def act(root: Path) -> None:
        curate(root / "raw", root / "set", config)

    def files(root: Path) -> dict[str, bytes]:
        found = (p for p in (root / "set").rglob("*") if p.is_file() and p.name not in ("lock", "files.jsonl"))
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in found}

    act(copy_of(room / "before", room / "done"))
    expected = files(room / "done")

    def whole(root: Path) -> None:
        for name, data in files(root).items():
            if not any(part.startswith(".kinolab-") for part in Path(name).parts):  # what a kill left under no name
                assert data == expected[name], name

    def done(root: Path) -> None:
        assert files(root).keys() >= expected.keys()
        whole(root)

    return Command("curate", copied(room / "before"), act, whole, done)


def world_command(room: Path) -> Command:
    """Clips of the toy world, their states, and last of all the table of their captions."""
    room.mkdir(parents=True)

    def act(root: Path) -> None:
        with redirect_stdout(io.StringIO()):
            world(root / "clips", count=2, size=32, frames=5)

    act(room)
    expected = {p.name: p.read_bytes() for p in (room / "clips").iterdir()}

    def whole(root: Path) -> None:
        folder = root / "clips"
        found = {p.name for p in folder.iterdir() if not p.name.startswith(".")} if folder.is_dir() else set()
        assert all((folder / name).read_bytes() == expected[name] for name in found)
        assert "captions.jsonl" not in found or found == expected.keys(), "a list of files that are not there"

    def done(root: Path) -> None:
        whole(root)
        assert (root / "clips" / "captions.jsonl").exists()

    return Command("world", lambda root: None, act, whole, done)
