"""`python -m benchmarks.makeavideo`: text from single images, motion from clips without captions, on the toy world.

It runs the recipes toy-makeavideo-* on an image model that is there (`--image`, with its autoencoder), each in a folder
of its own under `--out`, and asks the made models the toy world's requests. What is finished is kept: an interrupted
command goes on where it stopped. `--steps 0.1` trains a tenth as long. Captioned pictures are those of the image
model's recipe; a model without one, such as world-image, is taken for one of toy-unet-image.

Rows differ in what a model is told of a prompt: the prior's embedding (as it was trained), the words too, or the words
alone; in the ablation, whose clips were told nothing; and in the same network trained on the same clips with captions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinolab.conditioning.image_embedding import ImageEmbeddingConfig
from kinolab.errors import InputError
from kinolab.evaluation.world import evaluate_world
from kinolab.methods import GuidanceConfig
from kinolab.models import VideoModel, find_model
from kinolab.runtime.files import write_text
from kinolab.training.recipe import DenoiserRecipe, load_recipe
from kinolab.training.run import train

CLIPS = 4000


@dataclass(frozen=True)
class Training:
    """A run: its folder, its recipe, and what differs from it; `after` are folders that it is told of, by fields."""

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    after: tuple[tuple[str, str], ...] = ()


PRIOR, IMAGE, CACHE = "prior", "image", "clips"
TRAININGS = (
    Training(PRIOR, "toy-makeavideo-prior"),
    Training(IMAGE, "toy-makeavideo-image", after=(("image_encoder.folder", PRIOR),)),
    Training(
        "video", "toy-makeavideo",
        after=(("image_encoder.folder", PRIOR), ("initial.path", IMAGE), ("data.path", CACHE)),
    ),
    Training("null", "toy-makeavideo-null", after=(("data.path", CACHE),)),
    Training(
        "captions", "toy-makeavideo-null", ("unlabelled=false", "condition_dropout=0.1"), (("data.path", CACHE),)
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A model as it is asked: what of a prompt it is told, and what guidance moves towards."""

    name: str
    model: str
    prompt: str | None = None
    of: tuple[str, ...] = ()


ROWS = (
    Row("prior", "video", "prior", ("image_embedding",)),
    Row("prior and words", "video", "both", ("image_embedding", "prompt")),
    Row("words", "video", "words"),
    Row("null text, no prior", "null"),
    Row("with captions", "captions"),
)


def main(arguments: Sequence[str], say: Callable[[str], None] = print) -> None:
    """Train what is missing, ask what was not asked, write `makeavideo.json` and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.makeavideo", description=__doc__)
    parser.add_argument(
        "--image", type=Path, default=Path("runs/toy-unet-image"), help="the image model's run, or a model"
    )
    parser.add_argument("--autoencoder", type=Path, default=Path("runs/toy-image-4"))
    parser.add_argument("--out", type=Path, default=Path("runs/makeavideo"))
    parser.add_argument("--steps", type=float, default=1.0, help="a factor on the steps of every recipe")
    parser.add_argument("--clips", type=int, default=CLIPS, help="clips without captions")
    parser.add_argument("--rows", nargs="*", choices=[row.name for row in ROWS], default=[row.name for row in ROWS])
    parser.add_argument("--requests", type=int, default=64, help="requests of the toy world")
    parser.add_argument("--markdown", type=Path, help="where the table goes too")
    told = parser.parse_args(arguments)
    seconds = _encoded(told, say)
    chosen = [row for row in ROWS if row.name in told.rows]
    needed = {row.model for row in chosen} | {PRIOR, IMAGE}
    seconds |= {t.name: _trained(t, told, say) for t in TRAININGS if t.name in needed}
    rows = {row.name: _asked(row, told, say) for row in chosen}
    record = {"seconds": seconds, "requests": told.requests, "rows": rows}
    write_text(told.out / "makeavideo.json", json.dumps(record, indent=1) + "\n")
    text = markdown(rows)
    say(text)
    if told.markdown is not None:
        write_text(told.markdown, text)


def _encoded(told: argparse.Namespace, say: Callable[[str], None]) -> dict[str, float]:
    """Latents of clips, which the command itself goes on with where it was cut off."""
    begun = time.perf_counter()
    command = [
        "encode", "world", "--count", str(told.clips), "-s", "data.seed=13000000", "-s", "data.world.frames=9",
        "-s", "data.world.fps=4", "-a", str(told.autoencoder),
        "--out", str(told.out / CACHE), "--precision", "bfloat16", "--batch", "16",
    ]  # fmt: skip
    if not (told.out / CACHE / ".done").exists():
        say("kinolab " + " ".join(command))
        subprocess.run([sys.executable, "-m", "kinolab", *command], check=True)
        write_text(told.out / CACHE / ".done", "")
    return {"encode": time.perf_counter() - begun}


def _trained(training: Training, told: argparse.Namespace, say: Callable[[str], None]) -> float:
    """Seconds of the steps that a training took, of all calls together."""
    folder = told.out / training.name
    steps = load_recipe(training.recipe).training.steps
    overrides = [f"training.steps={max(1, round(steps * told.steps))}", *training.overrides]
    overrides += [f"{field}={told.out / name}" for field, name in training.after]
    if training.name != PRIOR:
        overrides.append(f"autoencoder={told.autoencoder}")
        start = any(field == "initial.path" for field, _ in training.after)
        overrides += [] if start else [f"initial.path={told.image}"]
    if training.name == IMAGE:
        recipe = load_recipe(_recipe_of(told.image))
        assert isinstance(recipe, DenoiserRecipe)
        # The pictures are those of the image model, with their captions, whether they are a cache or are made anew.
        kept = ("path", "kind", "count", "seed", "world")
        overrides += [f"data.{k}={json.dumps(v)}" for k, v in recipe.data.model_dump(mode="json").items() if k in kept]
    if not (folder / "model").exists():
        say(
            f"{training.name}: kinolab train {training.recipe} --out {folder} " + " ".join(f"-s {o}" for o in overrides)
        )
        train(training.recipe, folder, overrides, resume="auto")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    taken = [line for line in lines if "step_seconds" in line]
    return sum(line["step_seconds"] for line in taken) / max(len(taken), 1) * steps * told.steps


def _recipe_of(image: Path) -> str | Path:
    """The recipe in a run folder; toy-unet-image for a model without one. Raises InputError where there is no model."""
    path = image / "recipe.yaml"
    if path.is_file():
        return path
    find_model(image)
    return "toy-unet-image"


def _asked(row: Row, told: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """The shares of a row's clips that show what was asked, kept where they were measured."""
    kept = told.out / f"world-{row.name.replace(' ', '-').replace(',', '')}-{told.requests}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    model = VideoModel.load(find_model(told.out / row.model), device="cpu")
    if row.prompt is not None:
        settings = {"image_embedding": ImageEmbeddingConfig.model_validate({"prompt": row.prompt})}
        model.config = model.config.model_copy(update={"conditions": settings})
    scale = model.config.guidance.scale
    guidance = GuidanceConfig(scale=scale, of=row.of)
    report = evaluate_world(model, {"count": told.requests}, sampling={"guidance": guidance.model_dump()})
    shares = {name: [share.value, *share.interval] for name, share in report.shares().items()}
    found = {"shares": shares, "physics": report.physics(), "seconds_per_clip": report.seconds_per_clip}
    write_text(kept, json.dumps(found, indent=1) + "\n")
    say(f"{row.name}: " + ", ".join(f"{name} {value[0]:.0%}" for name, value in shares.items()))
    return found


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table: shares of clips with 95% intervals."""
    names = list(next(iter(rows.values()))["shares"])
    lines = [f"| told | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for name, found in rows.items():
        cells = [f"{v:.0%} ({low:.0%} to {high:.0%})" for v, low, high in (found["shares"][n] for n in names)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"makeavideo: {error}")
