"""`python -m benchmarks.cascade`: Imagen Video's cascade on the toy world, beside one model of the full size.

It trains the recipes toy-imagen-base, -tsr and -ssr, each by itself, and toy-imagen-full for as many processor seconds
as the three together, packs the three into one model, and measures:

- PSNR of the clips that the stages make of given ones, beside repeated frames and bilinear enlargement,
- gradient energy of generated clips as a share of real ones',
- the toy world's checks on held-out requests, of the cascade and of the full size.

`--seconds` is the processor time of the cascade's training; a few steps of each recipe say how many steps that is. What
is finished is kept: an interrupted command goes on where it stopped. `--steps 0.02` trains a fiftieth as long.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinolab import video
from kinolab.conditioning.low_resolution import low_clip
from kinolab.contracts.events import Callback
from kinolab.errors import InputError
from kinolab.evaluation.world import evaluate_world
from kinolab.evaluation.world_report import Share
from kinolab.layers.resizing import enlarge
from kinolab.models import Request, VideoModel
from kinolab.models.cascade import REFINED, refines
from kinolab.models.packing import pack
from kinolab.runtime.files import write_text
from kinolab.toyworld.clips import WorldClip, WorldConfig, make_clip
from kinolab.toyworld.source import HELDOUT_SEEDS
from kinolab.training.recipe import DenoiserRecipe, load_recipe
from kinolab.training.run import train

SHARES = {"base": 0.5, "tsr": 0.25, "ssr": 0.25}
"""Of the cascade's seconds, what the training of each stage takes."""
FULL = "full"
"""The model of one stage."""
TIMED = 8
"""Steps that say what a step takes; the first are slower and are left out."""
OFF = 10**9
"""An interval that is never over."""
Say = Callable[[str], None]


def main(arguments: Sequence[str], say: Say = print) -> None:
    """Train what is missing, measure what was not measured, write `cascade.json` and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cascade", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/cascade"))
    parser.add_argument("--seconds", type=float, default=1200.0, help="processor seconds of the cascade's training")
    parser.add_argument("--steps", type=float, default=1.0, help="a factor on all steps, to try it")
    parser.add_argument("--requests", type=int, default=16, help="requests of the toy world")
    parser.add_argument("--clips", type=int, default=6, help="clips that PSNR and gradient energy are measured on")
    parser.add_argument("--measured", nargs="*", choices=["given", "cascade", FULL], help="measure these alone")
    parser.add_argument("--models", nargs="*", choices=[*SHARES, FULL], default=[*SHARES, FULL], help="what is trained")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="what differs in every recipe")
    parser.add_argument("--markdown", type=Path, help="where the table goes too")
    told = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if told.measured is not None:  # of what is trained so far
        for name in told.measured:
            _measured(name, told, say)
        return
    trained = {name: _trained(name, told, say) for name in told.models}
    if {*SHARES, FULL} - set(told.models):
        say("measured once all are trained: leave --models out")
        return
    given = _measured("given", told, say)
    of = {name: _measured(name, told, say) for name in ("cascade", FULL)}
    found = {
        "seconds": trained,
        "given": given,
        "energy": {name: measured["energy"] for name, measured in of.items()},
        "world": {name: measured["world"] for name, measured in of.items()},
    }
    write_text(told.out / "cascade.json", json.dumps(found, indent=1) + "\n")
    text = markdown(found)
    say(text)
    if told.markdown is not None:
        write_text(told.markdown, text)


def _measured(name: str, told: argparse.Namespace, say: Say) -> dict[str, Any]:
    """What later stages make of given clips (`given`), or what a model makes of captions; kept clip by clip."""
    if name == "given":
        return _given(_packed(told.out), told, say)
    folder = told.out / FULL if name == FULL else _packed(told.out)
    return {"energy": _energy(name, folder, told, say), "world": _world(name, folder, told, say)}


def _trained(name: str, told: argparse.Namespace, say: Say) -> dict[str, float]:
    """Train a recipe for its share of the seconds; its steps, and the processor seconds that they took.

    The full size has the seconds that the stages took, the wait for captions' embeddings included.
    """
    recipe, folder, clock = f"toy-imagen-{name}", told.out / name, told.out / f"seconds-{name}.json"
    per_step = _kept(told.out / f"timing-{name}.json", lambda: {"seconds": _timed(recipe, told)})["seconds"]
    seconds = told.steps * told.seconds * SHARES.get(name, 1.0)
    stages = [told.out / f"seconds-{stage}.json" for stage in SHARES]
    if name == FULL and all(path.exists() for path in stages):
        seconds = sum(_kept(path, dict)["seconds"] for path in stages)
    steps = max(2, round(seconds / per_step))
    if not (folder / "model").exists():
        changes = [f"training.steps={steps}", f"training.warmup={min(50, steps // 10)}", "training.threads=1"]
        changes += ["heldout_clips=8", f"training.evaluate_every={steps}", f"training.sample_every={OFF}", *told.set]
        say(f"{name}: kinolab train {recipe} --out {folder} " + " ".join(f"-s {change}" for change in changes))
        before, begun = _kept(clock, lambda: {"seconds": 0.0})["seconds"], time.process_time()
        try:
            train(recipe, folder, changes, resume="auto")
        finally:
            spent = before + time.process_time() - begun
            write_text(clock, json.dumps({"seconds": spent, "steps": steps}) + "\n")
    return {**_kept(clock, dict), "batch": _batch(recipe, told)}


def _batch(recipe: str, told: argparse.Namespace) -> int:
    """Clips of a step."""
    found = load_recipe(recipe, told.set)
    assert isinstance(found, DenoiserRecipe)
    return found.training.batch_size


def _timed(recipe: str, told: argparse.Namespace) -> float:
    """Processor seconds of a step of a recipe: the median of some, behind slower first ones, of captions that are known
    by then."""
    marks: list[float] = []
    changes = [f"training.steps={TIMED}", "training.warmup=0", "training.threads=1", "heldout_clips=1", "data.count=8"]
    changes += [f"training.{word}_every={OFF}" for word in ("evaluate", "sample", "save")] + told.set
    with tempfile.TemporaryDirectory() as room:
        events = Callback(lambda done, total: marks.append(time.process_time()))
        train(recipe, Path(room) / "run", changes, events=events)
    return statistics.median(after - before for before, after in pairwise(marks[1:]))


def _packed(out: Path) -> Path:
    """The folder of the cascade."""
    folder = out / "cascade"
    if not (folder / "model.yaml").exists():
        stages = {name: out / name for name in ("tsr", "ssr")}
        pack(out / "base", folder, dtype=torch.float32, stages=stages)
    return folder


def _kept(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is in a file, or is measured and written there."""
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    found = measure()
    write_text(path, json.dumps(found, indent=1) + "\n")
    return found


def _real(count: int, config: WorldConfig) -> list[WorldClip]:
    """Held-out clips."""
    return [make_clip(config, HELDOUT_SEEDS + 5_000_000 + k) for k in range(count)]


def _given(packed: Path, told: argparse.Namespace, say: Say) -> dict[str, Any]:
    """PSNR of what each later stage makes of given clips, and of what needs no model: (model, without) in dB."""
    model = VideoModel.load(packed, device="cpu")

    def measure(stage: Any) -> dict[str, Any]:
        config, refined = stage.config, refines(stage.config)
        world, rows = WorldConfig(size=config.size[0], frames=config.frames, fps=config.fps), []
        for k, real in enumerate(_real(told.clips, world)):
            clip = video.to_tensor(real.frames)
            low = low_clip(clip, refined)
            prompt = real.caption if stage.spec.text_dim else None
            asked = Request(prompt, frames=config.frames, size=config.size, seed=k, conditions={REFINED: low})
            made = stage.decode(stage.sample_latents([asked]))[0]
            held = low.repeat_interleave(refined.frames_factor, 1)[:, : config.frames]
            plain = enlarge(held[None], config.size)[0]
            rows.append((_psnr(made, clip), _psnr(plain, clip), _gradient(made) / _gradient(clip)))
            say(f"{config.name} {k}: {rows[-1][0]:.1f} dB, without a model {rows[-1][1]:.1f} dB")
        names = ("psnr", "plain", "gradient")
        return {name: statistics.fmean(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}

    places = {stage.config.name: told.out / f"given-{stage.config.name}-{told.clips}.json" for stage in model.stages}
    return {stage.config.name: _kept(places[stage.config.name], partial(measure, stage)) for stage in model.stages}


def _psnr(made: Tensor, clip: Tensor) -> float:
    """Of pixels in [-1, 1], in dB."""
    return float(10 * torch.log10(4 / (made - clip).square().mean()))


def _gradient(clip: Tensor) -> float:
    """The mean square of differences between neighbouring pixels of a frame, (3, T, H, W)."""
    return float(clip.diff(dim=2).square().mean() + clip.diff(dim=3).square().mean())


def _energy(name: str, folder: Path, told: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Gradient energy of clips that a model generates from captions, as a share of those of the real clips."""
    model = VideoModel.load(folder, device="cpu")
    config = model.output.config
    world = WorldConfig(size=config.size[0], frames=config.frames, fps=config.fps)

    def measure(k: int, clip: WorldClip) -> dict[str, Any]:
        generated = model.generate(clip.caption, seed=k)[0]
        video.write(told.out / f"{name}-{k}.mp4", video.to_uint8(generated), fps=config.fps)
        found = {"made": _gradient(generated), "real": _gradient(video.to_tensor(clip.frames))}
        say(f"{name} {k}: {clip.caption}: gradient energy {found['made'] / found['real']:.2f} of the real clip's")
        return found

    clips = enumerate(_real(told.clips, world))
    rows = [_kept(told.out / f"energy-{name}-clip-{k}.json", partial(measure, k, clip)) for k, clip in clips]
    return {"share": sum(row["made"] for row in rows) / sum(row["real"] for row in rows)}


def _world(name: str, folder: Path, told: argparse.Namespace, say: Say) -> dict[str, Any]:
    """The shares of requests that a model's clips show, with 95% intervals."""
    model = VideoModel.load(folder, device="cpu")

    def measure(k: int) -> dict[str, Any]:
        report = evaluate_world(model, {"first": k, "count": 1}, batch=1)
        passed = {check: [share.passed, share.count] for check, share in report.shares().items()}
        say(f"{name} {k}: " + ", ".join(check for check, (ok, asked) in passed.items() if ok < asked) + " missed")
        return {"passed": passed, "seconds": report.seconds_per_clip}

    rows = [_kept(told.out / f"world-{name}-clip-{k}.json", partial(measure, k)) for k in range(told.requests)]
    shares = {}
    for check in rows[0]["passed"]:
        share = Share(*(sum(row["passed"][check][i] for row in rows) for i in range(2)))
        shares[check] = [share.value, *share.interval]
    say(f"{name}: " + ", ".join(f"{check} {value[0]:.0%}" for check, value in shares.items()))
    return {"shares": shares, "seconds_per_clip": statistics.fmean(row["seconds"] for row in rows)}


def markdown(found: Mapping[str, Any]) -> str:
    """The tables."""
    lines = ["| | steps | batch | processor seconds |", "| --- | --- | --- | --- |"]
    for name, row in found["seconds"].items():
        lines.append(f"| {name} | {row['steps']} | {row['batch']} | {row['seconds']:.0f} |")
    lines += ["", "| of given clips | PSNR, dB | without a model, dB | gradient energy |", "| --- | --- | --- | --- |"]
    for name, row in found["given"].items():
        lines.append(f"| {name} | {row['psnr']:.1f} | {row['plain']:.1f} | {row['gradient']:.2f} |")
    checks = list(next(iter(found["world"].values()))["shares"])
    lines += ["", f"| | {' | '.join(checks)} | gradient energy | seconds a clip |"]
    lines.append(f"| --- |{' --- |' * (len(checks) + 2)}")
    for name, row in found["world"].items():
        cells = [f"{v:.0%} ({low:.0%} to {high:.0%})" for v, low, high in (row["shares"][check] for check in checks)]
        energy = found["energy"][name]["share"]
        lines.append(f"| {name} | {' | '.join(cells)} | {energy:.2f} | {row['seconds_per_clip']:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"cascade: {error}")
