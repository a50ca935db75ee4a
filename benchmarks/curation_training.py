"""`python -m benchmarks.curation_training PLAN --out DIR`: one model on raw, curated and clean clips (curation.yaml).

The agreement of clips and captions is judged by the toy world's own reader of pixels, which joins as a signal from
outside: it stands for a text-image encoder that knows this world. What was done is kept, so that the call goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from kinolab import video
from kinolab.config import Config, load_config
from kinolab.data import CacheConfig, FolderConfig, FolderSource, WorldSource, WorldSourceConfig, build, encode_to_cache
from kinolab.data.curate.frames import FrameConfig, FrameSignal, Part, Score, Trace, View, Watcher, inside
from kinolab.data.curation import CurateConfig, curate
from kinolab.metrics.statistics import paired_difference
from kinolab.models import load_autoencoder, load_denoiser
from kinolab.runtime.files import write_text
from kinolab.runtime.records import write_record
from kinolab.tables import FRAME_SIGNALS
from kinolab.toyworld.clips import WorldConfig, make_clip
from kinolab.toyworld.reader import read_world
from kinolab.toyworld.words import COLOURS, parse_caption
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.recipe import DenoiserRecipe, load_recipe
from kinolab.training.run import train

WORLD = WorldConfig(size=64, frames=17, fps=8)
AUTOENCODER = "world"
DATA = ("raw", "set", "clean")
"""What is trained on: all raw clips, those that a curation keeps, and the fine ones by the truth."""


class PlanConfig(Config):
    """The plan: what is mixed, what is kept, what is trained."""

    clips: int = Field(500, ge=10)
    """Raw clips."""
    shares: dict[str, float]
    """Of them: fine, still (its first frame again and again), caption (that of another clip), cut (to another clip)."""
    seed: int = 0
    """Of the first clip."""
    heldout: int = Field(64, ge=3)
    """Clean clips that all models are measured on."""
    steps: int = Field(300, ge=1)
    """Of each training."""
    seeds: tuple[int, ...] = (0,)
    """Of the trainings."""
    settings: CurateConfig
    """How the raw clips are curated."""
    recipe: dict[str, Any]
    """What is trained."""


class WorldAgreement(FrameSignal):
    """Whether the colours that the reader sees are those that the caption names, as the share of them that agree."""

    Config = FrameConfig
    scores: ClassVar[dict[str, Score]] = {"world_agreement": Score("share", "colours in caption and picture alike")}

    def watch(self) -> Watcher:
        """Begin a file."""
        return Reading()

    def score(self, trace: Trace, part: Part) -> dict[str, float | None]:
        """Of colours named or seen, the share that is both."""
        request = parse_caption(part.caption) if part.caption else None
        found = inside(trace, part)
        if request is None or not len(found["time"]):
            return {"world_agreement": None}
        seen = {name for name in COLOURS if found[name].mean() >= 0.5}
        named = {colour for colour, _ in request.objects}
        return {"world_agreement": len(seen & named) / len(seen | named)}


class Reading(Watcher):
    """The colours in each frame."""

    def __init__(self) -> None:
        self._rows: list[list[float]] = []

    def see(self, view: View) -> None:
        """Read one frame."""
        seen = {found.colour for found in read_world(view.image[None]).objects}
        self._rows.append([view.time, *(float(name in seen) for name in COLOURS)])

    def trace(self) -> Trace:
        """One row a frame."""
        table = np.array(self._rows, np.float64).reshape(-1, 1 + len(COLOURS))
        return {name: np.ascontiguousarray(table[:, k]) for k, name in enumerate(("time", *COLOURS))}


def make_raw(plan: PlanConfig, out: Path) -> dict[str, str]:
    """Write the raw clips, and the fine ones by themselves; what is wrong with each."""
    rng = np.random.default_rng(plan.seed)
    kinds = rng.choice(
        list(plan.shares), plan.clips, p=np.array(list(plan.shares.values())) / sum(plan.shares.values())
    )
    for k, kind in enumerate(kinds):
        name, clip = f"{k:05d}", make_clip(WORLD, plan.seed + k)
        other = make_clip(WORLD, plan.seed + plan.clips + k) if kind in ("caption", "cut") else clip
        frames, at = clip.frames, int(rng.integers(4, WORLD.frames - 4))
        if kind == "still":
            frames = np.repeat(frames[:1], WORLD.frames, 0)
        elif kind == "cut":
            frames = np.concatenate([frames[:at], other.frames[at:]])
        caption = other.caption if kind == "caption" else clip.caption
        for folder in ["raw"] + ["clean"] * (kind == "fine"):
            if not (out / folder / f"{name}.mp4").is_file():
                video.write(out / folder / f"{name}.mp4", frames, WORLD.fps, quality=95)
                write_text(out / folder / f"{name}.txt", caption)
    return {f"{k:05d}": str(kind) for k, kind in enumerate(kinds)}


def encode(folder: Path, cache: Path, autoencoder: Any) -> None:
    """The latents of a folder of clips."""
    source = FolderSource(
        FolderConfig(path=folder, frames=17, size=64, split="all", index="none", labels="none"), autoencoder.spec
    )
    encode_to_cache(source, autoencoder, cache, batch=16)


def recipe_of(plan: PlanConfig, cache: Path, seed: int) -> dict[str, Any]:
    """The recipe on one cache."""
    values = json.loads(json.dumps(plan.recipe))
    values["data"] = {"kind": "cache", "path": str(cache), "heldout_fraction": 0.02, "in_memory": True}
    values["autoencoder"] = AUTOENCODER
    values["training"] = values.get("training", {}) | {"steps": plan.steps, "seed": seed}
    return values


def losses_on(clean: Path, run: Path, values: dict[str, Any]) -> dict[str, list[float]]:
    """The held-out loss of a trained model of each clean clip, at the same times with the same noise for all models:
    told its own caption (`own`), and told that of the next clip (`other`), which says what a caption is worth to it."""
    recipe = load_recipe(values | {"data": {"kind": "cache", "path": str(clean)}})
    assert isinstance(recipe, DenoiserRecipe)
    source = build(CacheConfig(path=clean, split="all"))
    job = DenoiserJob(recipe, load_autoencoder(AUTOENCODER), load_denoiser(run / "model"), source, source)
    found: dict[str, list[float]] = {"own": [], "other": []}
    for k in range(len(source)):
        for name, whose in (("own", k), ("other", (k + 1) % len(source))):
            told = replace(source[k], caption=source[whose].caption)
            batch, noise = job.assembly.heldout([told], k), torch.Generator().manual_seed(k)
            with torch.no_grad():
                losses = job.diffusion.loss_at(job.network, batch.latents, batch.conditions, generator=noise)
            found[name].append(float(np.mean(list(losses.values()))))
    return found


def difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Mean of a - b and its 95% interval over clips, where each clip's loss is the mean of all trainings."""
    mean, interval = paired_difference(np.mean(a, 0).tolist(), np.mean(b, 0).tolist())
    assert interval is not None, "heldout is at least 3"
    return mean, interval.low, interval.high


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What came out, as lines of a table."""
    lines = [
        "| trained on | clips | loss by seed | less than raw | another's caption costs |",
        "|---|---:|---|---|---|",
    ]
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["data"], []).append(row)
    for name, found in by_name.items():
        own, other = ([row[key] for row in found] for key in ("own", "other"))
        raw = [row["own"] for row in by_name["raw"]]
        less = "" if name == "raw" else "{:.5f} ({:.5f} to {:.5f})".format(*difference(raw, own))
        cost = "{:.5f} ({:.5f} to {:.5f})".format(*difference(other, own))
        losses = ", ".join(f"{np.mean(losses):.4f}" for losses in own)
        lines.append(f"| {name} | {found[0]['clips']} | {losses} | {less} | {cost} |")
    return lines


def main() -> None:
    """Run the plan and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curation_training", description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("-s", "--set", action="append", default=[], help="key=value of the plan")
    given = parser.parse_args()
    FRAME_SIGNALS.register("world_agreement")(WorldAgreement)
    plan, out = load_config(PlanConfig, given.plan, given.set), given.out
    truth = make_raw(plan, out)
    summary = curate(out / "raw", out / "set", plan.settings)
    kept = {Path(row.item.name).stem for row in summary.decision.kept}
    kinds = {kind: (sum(k in kept for k, t in truth.items() if t == kind), list(truth.values()).count(kind))
             for kind in plan.shares}  # fmt: skip
    print("kept of each kind:", ", ".join(f"{kind} {a} of {b}" for kind, (a, b) in kinds.items()))
    autoencoder = load_autoencoder(AUTOENCODER)
    world = WorldSourceConfig(world=WORLD, heldout_count=plan.heldout, split="heldout")
    encode_to_cache(WorldSource(world, autoencoder.spec), autoencoder, out / "heldout", batch=16)
    rows: list[dict[str, Any]] = []
    for name in DATA:
        encode(out / name, out / f"{name}-latents", autoencoder)
    for seed, name in product(plan.seeds, DATA):
        run, values = out / f"{name}-{seed}", recipe_of(plan, out / f"{name}-latents", seed)
        write_text(run.with_suffix(".yaml"), json.dumps(values))
        train(run.with_suffix(".yaml"), run, resume="auto")
        found = losses_on(out / "heldout", run, values)
        rows.append({"data": name, "seed": seed, "clips": len(list((out / name).rglob("*.mp4"))), **found})
        print(f"{name}, seed {seed}: loss {np.mean(found['own']):.5f}", flush=True)
    print("\n".join(table(rows)))
    write_record(out / "result.json", {"kept": {k: list(v) for k, v in kinds.items()}, "rows": rows})


if __name__ == "__main__":
    main()
