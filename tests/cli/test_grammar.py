"""One grammar for all commands: headings, -s, rarer options hidden, --events of what takes long, --json of all."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml

from kinolab import video
from kinolab.cli import COMING, COMMANDS, HEADINGS, build
from kinolab.cli.fields import RUN, about, described, names_of
from kinolab.config import Config
from kinolab.diffusion import SamplerConfig
from kinolab.generation.low_resolution import LowResolutionConfig
from kinolab.generation.refine import RefineConfig
from kinolab.generation.request import GenerateConfig
from kinolab.generation.source import SourceConfig
from kinolab.methods import GuidanceConfig, StepCacheConfig
from kinolab.metrics.extractors.manifest import load_manifest
from kinolab.models import save_autoencoder
from kinolab.planning import settings
from kinolab.tables import METHODS, SAMPLERS
from kinolab.tasks.request import GivenConfig
from kinolab.training.initial import first_autoencoder
from kinolab.training.recipe import AutoencoderRecipe, load_recipe
from tests.cli.every import commands, run
from tests.comparison.tiny_plan import write_plan
from tests.tiny_images import tiny_images, with_adapter
from tests.tiny_model import save_tiny_model, tiny_convolutions, tiny_model, tiny_steered, tiny_vdt
from tests.training.tiny import autoencoder_recipe

pytestmark = pytest.mark.slow  # many short ones, which take long together

Printed = pytest.CaptureFixture[str]
AT_ONCE = {"inflate", "probe", "verify", "inspect", "recipes", "doctor", "studio", "status"}
AT_ONCE |= {"launch local", "launch slurm", "launch k8s"}
"""What reads and prints, and has no progress to tell."""


@pytest.fixture(scope="module")
def every() -> dict[str, Any]:
    return dict(commands(typer.main.get_command(build(list(COMMANDS)))))


def test_every_command_stands_once_under_its_heading(capsys: Printed) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    sections = dict(zip(HEADINGS.values(), [p.split("\n\n")[0] for p in _after(text)], strict=True))
    for name, entry in COMMANDS.items():
        listed = [heading for heading, lines in sections.items() if f"\n  {name} " in f"\n{lines}"]
        assert listed == [HEADINGS[entry.heading]], name
    assert not set(COMING) & set(COMMANDS) and set(COMING.values()) <= set(HEADINGS)
    assert not any(f"\n  {name} " in text for name in COMING)


def _after(text: str) -> Iterator[str]:
    for heading in HEADINGS.values():
        yield text.split(f"{heading}:\n", 1)[1]


def test_what_takes_long_has_events_and_every_command_json(every: dict[str, Any]) -> None:
    flags = {name: {flag for p in command.params for flag in p.opts} for name, command in every.items()}
    assert {name for name, given in flags.items() if "--json" not in given} == set()
    assert {name for name, given in flags.items() if "--events" not in given} == AT_ONCE
    assert {name for name, given in flags.items() if "--set" in given} >= {
        "generate", "predict", "complete", "train", "compare", "evaluate generation", "data check", "encode", "plan",
    }  # fmt: skip


def test_a_handful_of_options_is_shown_and_the_rarer_ones_still_work(every: dict[str, Any]) -> None:
    hidden = {flag for p in every["generate"].params if getattr(p, "hidden", False) for flag in p.opts}
    rare = {"--eta", "--cache", "--cache-every", "--precision", "--compile"}
    rare |= {"--guidance-interval", "--guidance-rescale", "--guidance-every", "--stage"}
    rare |= {"--together", "--engine", "--workers", "--each"}
    assert hidden == rare
    shown = [p for p in every["generate"].params if not getattr(p, "hidden", False)]
    assert len(shown) <= 22


def test_options_say_what_their_fields_say(monkeypatch: pytest.MonkeyPatch) -> None:
    configs: dict[str, type[Config]] = {
        "": GenerateConfig, "given": GivenConfig, "sampler": SamplerConfig, "guidance": GuidanceConfig,
        "cache": StepCacheConfig, "low_resolution": LowResolutionConfig,
        "source": SourceConfig, "refine": RefineConfig,
    }  # fmt: skip
    assert configs.keys() == RUN.keys()
    for group, config in configs.items():
        found = described(*RUN[group])
        fields = config.model_fields
        assert list(found) == list(fields)
        assert {name: " ".join(str(f.description).split()) for name, f in fields.items()} == {
            name: each.text for name, each in found.items()
        }
    known = "One of ddpm, ddim, dpmpp_2m, euler, heun, stochastic, consistency."
    assert about("sampler.name", table="SAMPLERS").endswith(known)
    assert names_of("SAMPLERS") == SAMPLERS.names("") and names_of("METHODS") == METHODS.names("")
    monkeypatch.delitem(sys.modules, "kinolab.tables")
    assert names_of("SAMPLERS") == SAMPLERS.names("") and names_of("METHODS") == METHODS.names("")
    assert described(*RUN["given"])["method"].choices == ("auto", "trained", "reconstruction", "replacement")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands below read."""
    root = tmp_path_factory.mktemp("place")
    frames = np.random.default_rng(0).integers(0, 255, (9, 40, 48, 3), dtype=np.uint8)
    for k in range(3):
        video.write(root / "clips" / f"{k}.mkv", frames + np.uint8(k), fps=8, lossless=True)
    video.write(root / "talk" / "0.mkv", frames, fps=8, lossless=True)
    video.write(root / "stills", frames[:1], fps=8)
    next((root / "stills").iterdir()).rename(root / "stills" / "0.png")
    save_tiny_model(root / "model", text=False)
    save_tiny_model(root / "told")
    encoding = ["encode", root / "clips", "-a", root / "model", "--size", 32, "--frames", 5, "--out", root / "latents"]
    assert run(*encoding) == 0
    tiny_convolutions(low={"factor": 2}).save(root / "sr")
    tuned = tiny_model(text=False)
    with torch.no_grad():
        tuned.denoiser.get_parameter("blocks.0.attn.qkv.weight").add_(0.1)
    tuned.save(root / "tuned")
    assert run("lora", "extract", root / "model", root / "tuned", "-o", root / "adapter") == 0
    tiny_vdt().save(root / "vdt")
    with_adapter(tiny_images("unet")).save(root / "controlled")
    tiny_steered().save(root / "steered")
    (root / "recipe.yaml").write_text(yaml.safe_dump(autoencoder_recipe(steps=1)))
    write_plan(root)
    assert run("generate", "--model", root / "model", "--label", 1, "--out", root / "made.mkv") == 0
    recipe = load_recipe(autoencoder_recipe())
    assert isinstance(recipe, AutoencoderRecipe)
    save_autoencoder(first_autoencoder(recipe), root / "image")
    for k in range(4):
        video.write(root / "long" / f"{k}.mkv", np.roll(frames[:6], k, 1), fps=8, lossless=True)
    shape = {"frames": 5, "size": 32, "minimum": 2, "video": None, "image": None}
    for kind, metric in (("reconstruction", "psnr"), ("generation", "temporal_flickering")):
        protocol = {"name": kind, "kind": kind, "description": "small", "metrics": [metric], **shape}
        name = {"reconstruction": "pairs", "generation": "sets"}[kind]
        (root / f"{name}.yaml").write_text(yaml.safe_dump(protocol))
    (root / "run").mkdir()
    (root / "run" / "log.jsonl").write_text(json.dumps({"step": 1, "kind": "heldout", "seconds": 1, "psnr": 30}) + "\n")
    return root


FILES = ["files"]
SCORES = ["protocol", "subject"]
RESULTS: dict[str, tuple[str, list[str]]] = {
    "generate": ("generate --model model --label 1 --out x.mkv", FILES),
    "predict": ("predict clips/0.mkv --model vdt --given 3 --out x.mkv", FILES),
    "interpolate": ("interpolate clips/0.mkv --model vdt --insert 1 --out x.mkv", FILES),
    "animate": ("animate stills/0.png --model vdt --out x.mkv", FILES),
    "complete": ("complete clips/0.mkv --model vdt --box 2,2,20,20 --out x.mkv", FILES),
    "control": ("control clips/0.mkv --model controlled --frames 3 --out x.mkv", FILES),
    "extend": ("extend clips/0.mkv --model vdt --frames 12 --overlap 2 --out x.mkv", FILES),
    "edit": ("edit clips/0.mkv --to box --frames 5 --model told --out x.mkv", FILES),
    "upscale": ("upscale clips/0.mkv --model sr -s refine.tile=0 --out x.mkv", FILES),
    "rerun": ("rerun PLACE/made.mkv --out x.mkv", ["file", "identical", "differs"]),
    "reconstruct": ("reconstruct clips/0.mkv -a model --out x.mkv", ["clip", "out", "psnr", "frames"]),
    "demo": ("demo --model told --steps 1 --out x", ["page", "sheet", "videos", "as_asked", "seconds"]),
    "data maps": ("data maps clips/0.mkv --kind edges --out x.mkv", ["out", "kind", "frames", "size", "fps"]),
    "data cut": ("data cut clips edits.yaml --out x", ["folder", "written", "present", "left_out", "failed"]),
    "data curate": ("data curate clips --out x --dry-run", ["folder", "table", "clips", "kept"]),
    "data caption": ("data caption PLACE/talk --command 'echo {clip}'", ["folder"]),
    "status": ("status PLACE/latents", ["state", "done"]),
    "data shrink": ("data shrink clips --out x --size 32", ["folder", "written", "present", "failed"]),
    "encode": ("encode clips -a model --size 32 --frames 5 --out x", ["folder", "encoded", "items", "captions"]),
    "probe": ("probe clips/0.mkv", ["path", "width", "height", "frames", "fps"]),
    "world": ("world x --count 2 --frames 5 --size 32", ["folder", "clips", "frames", "size"]),
    "train": ("train recipe.yaml --out x", ["folder", "step", "steps", "model", "changed"]),
    "fit": (
        "fit clips/0.mkv --model model --label 1 --frames 5 --steps 1 --out x",
        ["folder", "step", "steps", "model"],
    ),
    "distill": (
        "distill model --data clips --method progressive --steps 1 -s rounds=[1] -s training.steps=2 "
        "-s training.batch_size=2 --out x",
        ["folder", "step", "steps", "model"],
    ),
    "recipes": ("recipes", ["recipes"]),
    "launch local": ("launch local train recipe.yaml --print", ["script", "out", "processes"]),
    "launch slurm": ("launch slurm train recipe.yaml --print", ["script"]),
    "launch k8s": ("launch k8s train recipe.yaml --print", ["script"]),
    "plan": ("plan recipe.yaml --steps 1", ["clips", "phases", "notes"]),
    "doctor": ("doctor", ["ok", "checks"]),
    "evaluate reconstruction": ("evaluate reconstruction model clips -s size=[32,32] -s frames=5", SCORES),
    "evaluate generation": (
        "evaluate generation long long --protocol sets.yaml",
        SCORES,
    ),
    "evaluate sensitivity": (
        "evaluate sensitivity long --count 2 --reconstruction pairs.yaml --generation sets.yaml",
        [],
    ),
    "evaluate world": ("evaluate world --model model --count 1", ["protocol"]),
    "evaluate physics": ("evaluate physics --model vdt --given 3 --count 1", ["protocol"]),
    "evaluate edits": ("evaluate edits --model told --count 1 --steps 1 --way inverted", ["protocol", "groups"]),
    "evaluate control": (
        "evaluate control --model steered --map control --count 1 --frames 5",
        ["protocol", "metrics", "groups"],
    ),
    "evaluate tasks": ("evaluate tasks --model vdt --count 1", ["tasks"]),
    "evaluate zero": (
        "evaluate zero --model controlled --count 1 --frames 3 --steps 2 -s motions=[[4,0]] -s samplings=[nearest]",
        ["protocol", "groups"],
    ),
    "compare": ("compare plan.yaml --out x --list", ["cells", "tables"]),
    "tune": ("tune told --prompt a --repeats 1 --steps 2 --samplers euler --thresholds 0.2", ["protocol"]),
    "vbench": ("vbench prompts.txt --model told --videos 1 --steps 1 -o x", ["folder", "videos", "made", "judge"]),
    "report": ("report run --out x.html", ["page", "sections", "videos"]),
    "fetch": ("fetch", ["weights"]),
    "inspect": ("inspect model", ["path", "format", "parameters", "tensors"]),
    "convert": ("convert image --to public -o x", ["out", "class", "parameters"]),
    "inflate": ("inflate image --to odvae -o x", ["folder", "class", "parameters", "copied", "fresh", "added"]),
    "lora extract": ("lora extract model tuned --rank 2 -o x", ["out", "form", "layout", "layers", "left"]),
    "lora convert": (
        "lora convert adapter --model model --to kohya -o x.safetensors",
        ["out", "form", "layers", "left"],
    ),
    "pack": ("pack model --out x", ["folder", "before", "after", "stored", "error"]),
    "verify": ("verify model", ["whole", "findings"]),
}
"""Each command as it may be typed, and keys that its result has; `data check` prints a line of JSON per clip."""
LONG = {
    "demo", "train", "fit", "distill", "plan", "evaluate sensitivity", "evaluate tasks", "tune",
    "evaluate reconstruction", "evaluate generation", "evaluate world", "evaluate physics", "evaluate edits", "vbench",
}  # fmt: skip


def test_the_walk_has_every_command(every: dict[str, Any]) -> None:
    assert set(RESULTS) == set(every) - {"data check", "studio"}  # a line for each clip; a server


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in RESULTS]
)
def test_every_result_is_json_with_its_keys(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    monkeypatch.setattr(settings, "resolve", lambda policy, device: torch.float32)
    monkeypatch.chdir(tmp_path)
    for path in place.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "prompts.txt").write_text("a red ball falls\n")
    (tmp_path / "edits.yaml").write_text("clips: {0.mkv: {crop: [0, 0, 0.5, 1]}}\n")
    line, keys = RESULTS[name]
    long = name not in AT_ONCE
    capsys.readouterr()
    words = shlex.split(line.replace("PLACE", str(place)))
    status = run(*words, "--json", *(["--events", "events.jsonl"] if long else []))
    printed = capsys.readouterr()
    assert status == 0, printed.err
    found = json.loads(printed.out)
    first = found[0] if isinstance(found, list) else found
    assert set(keys) <= set(first), sorted(first)
    if long:
        told = [json.loads(text) for text in Path("events.jsonl").read_text().splitlines()]
        assert (told[0]["kind"], told[0]["command"]) == ("begin", name.split()[-1])
        assert (told[-1]["kind"], told[-1]["outcome"]) == ("end", "done")


def test_the_lists_hold_what_they_list(place: Path, capsys: Printed) -> None:
    assert run("fetch", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["weights"]) == set(load_manifest())
    assert run("data", "check", place / "clips", "--json", "--frames", 5, "--size", 32) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["source"] for row in rows] == ["0.mkv", "1.mkv", "2.mkv"]


def test_a_mistake_is_told_to_the_events_too(tmp_path: Path, capsys: Printed) -> None:
    events = tmp_path / "events.jsonl"
    assert run("generate", "a", "--model", tmp_path / "none", "--events", events) == 2
    error = capsys.readouterr().err.strip().removeprefix("kinolab: ")
    [begin, end] = [json.loads(line) for line in events.read_text().splitlines()]
    assert (begin["command"], end["outcome"], end["message"]) == ("generate", "failed", error)
    assert run("generate", "a", "--events", tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", [name for name, _ in commands(typer.main.get_command(build(list(COMMANDS))))])
def test_every_command_has_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*name.split(), "--help") == 0
    assert f"kinolab {name}" in " ".join(capsys.readouterr().out.split())
