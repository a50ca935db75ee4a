"""How the quantities of `benchmarks/quantities.py` are computed, with whatever version of Kinolab is imported."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.adapter import How, Values, completed, find, load, predicted, sampled, trained
from benchmarks.folders import digest


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers that every version draws alike."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Models


LABELLED = ("world", "latte", "latte-joint", "latte-split", "vdt-public", "dit")
PROMPTED = ("world-text", "mmdit", "int8", "float16", "latte-text", "mmdit-sd3")
BOTH = ("vdt-text", "mmdit-both")
"""Names of folders of models that take a label, a prompt, or both; the others take nothing."""


def asked(path: str) -> list[Any]:
    """Two requests that use what a model takes."""
    request, name = find("Request"), Path(path).name
    if name in LABELLED:
        return [request(label=1, seed=3), request(label=2, seed=4)]
    prompts = ("a red ball falls", "two blue boxes") if name in BOTH + PROMPTED else (None, None)
    labels = (1, None) if name in BOTH else (None, None)
    return [request(prompt=prompts[k], label=labels[k], seed=3 + k) for k in range(2)]


def asked_away(path: str) -> list[Any]:
    """The same, moving away from a negative prompt, which the second has not."""
    request = find("Request")
    away = request(prompt="a red ball falls", negative="a blue box", seed=3)
    return [away, request(prompt="two blue boxes", seed=4)]


def forward(path: str) -> Values:
    """One call of a denoiser: (2, C, T, H, W)."""
    model = load(path)
    shape = model.autoencoder.spec.latent_shape(model.config.frames, *model.config.size)
    with torch.no_grad():
        found = predicted(model, noise(2, *shape), torch.tensor([300.0, 800.0]), asked(path))
    return {"prediction": found}


def sample(path: str, steps: int = 3, sampler: str = "euler", **guidance: Any) -> Values:
    """Latents after so many steps, and what they decode to."""
    how: dict[str, Any] = {"sampler": {"name": sampler, "steps": steps}}
    if guidance:
        how["guidance"] = guidance
    latents = sampled(load(path), asked(path), how)
    return {"latents": latents, "video": load(path).decode(latents)}


def latents(path: str, how: How, *, away: bool = False) -> Values:
    """Latents after some steps of any kind."""
    return {"latents": sampled(load(path), (asked_away if away else asked)(path), how)}


def masks(frames: int, side: int) -> dict[str, Tensor]:
    """(1, 1, T, H, W) of every task: 1 = generate, 0 = given."""
    made = {name: torch.ones(1, 1, frames, side, side) for name in TASKS}
    made["predict"][:, :, : frames // 2] = 0
    made["past"][:, :, -1:] = 0
    made["interpolate"][:, :, [0, -1]] = 0
    made["animate"][:, :, 0] = 0
    made["complete"][:, :, :, : side // 2] = 0
    return made


TASKS = ("predict", "past", "interpolate", "animate", "complete")


def task(path: str, name: str, steered: str | None = None, how: How | None = None, told: bool = False) -> Values:
    """A clip of which a part is given, completed in three steps, for a request for nothing or (`told`) for something.

    `steered` is a method of steering; `how` adds to the sampling. For a request for nothing guidance is said to be off:
    where it is left open, versions differ. Those up to d564d33 mixed the same prediction with itself, which costs twice
    the time and changes the last bits; later ones leave it away, as the command always did.
    """
    model = load(path)
    frames, side = model.config.frames, model.config.size[0]
    clip = noise(1, 3, frames, side // 8, side // 8).repeat_interleave(8, 3).repeat_interleave(8, 4).clamp(-1, 1)
    steering: How = {} if steered is None else {"steering": {"method": steered}}
    unguided: How = {} if told else {"guidance": {"scale": 1.0}}
    whole = {"sampler": {"name": "euler", "steps": 3}, **unguided, **steering, **(how or {})}
    requests = asked(path)[:1] if told else [find("Request")(seed=3)]
    return {"video": completed(model, clip, masks(frames, side)[name], requests, whole)}


# Autoencoders


def autoencoder(path: str, frames: int, side: int, stream: bool = True) -> Values:
    """Mean and log variance of a clip's latents, what they decode to, and the mean by chunks."""
    coder = find("load_autoencoder")(path)
    video = noise(1, 3, frames, side, side, seed=1).clamp(-1, 1)
    with torch.no_grad():
        whole = coder.encode(video)
        found = {"mean": whole.mean, "logvar": whole.logvar, "decoded": coder.decode(whole.mean)}
        if stream:
            parts = coder.encode_stream([video[:, :, :1], video[:, :, 1:]])
            found["stream"] = torch.cat([part.mean for part in parts], 2)
    return found


# Training


@contextmanager
def gradients() -> Iterator[list[Tensor]]:
    """Collects every parameter's gradient before an optimiser's step, as long as the context is open."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    found: list[Tensor] = []

    def keep(optimizer: Any, *rest: Any) -> None:
        held = [p.grad.flatten().clone() for group in optimizer.param_groups for p in group["params"]
                if p.grad is not None]  # fmt: skip
        found.extend(held)

    handle = register_optimizer_step_pre_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def training(
    recipe: Mapping[str, Any], work: Path, steps: int = 1, initial: str | None = None, method: str = "weights"
) -> Values:
    """The numbers of the first steps, and the gradients: sorted, so that the order of parameters doesn't count."""
    values = json.loads(json.dumps(recipe))
    values["training"] |= {"clip": 1e9, "save_every": 1000, "steps": 1000, "learning_rate": 1e-3}
    values.pop("initial", None)
    if initial is not None:
        values["initial"] = {"path": initial, "method": method}
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    threads = torch.get_num_threads()
    with gradients() as found:
        trained(work / "recipe.yaml", work / "run", steps)
    torch.set_num_threads(threads)
    lines = [json.loads(line) for line in (work / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [line for line in lines if line["kind"] == "train"]
    numbers: Values = {
        k: torch.tensor([line[k] for line in kept if k in line], dtype=torch.float64)
        for k in kept[-1]
        if k not in ("step", "kind", "seconds", "step_seconds", "learning_rate")
        and isinstance(kept[-1][k], int | float)
    }
    norms = torch.stack([g.norm() for g in found])
    return numbers | {"gradient norms": norms.sort().values, "gradient": torch.cat(found).sort().values}


# Commands


def command(*words: object) -> None:
    """Run one command in this process; its output is kept back unless it fails."""
    said = io.StringIO()
    status: Any = 0
    with redirect_stdout(said), redirect_stderr(said):
        try:
            find("main")([str(w) for w in words])
        except SystemExit as stop:
            status = stop.code
    if status:
        raise RuntimeError(f"{' '.join(map(str, words))}: status {status}: {said.getvalue().strip()}")


def frames(path: Path) -> Tensor:
    """The decoded frames of a file: (T, H, W, 3)."""
    return torch.from_numpy(find("read")(path).frames.copy())


def cache(work: Path, *options: str) -> Values:
    """What `encode` stores of each clip."""
    out = work / "cache"
    shutil.rmtree(out, ignore_errors=True)
    clips = ["--frames", "5", "--size", "32", "--dtype", "float32", "-s", "data.index=none"]
    command("encode", "clips", "-a", "models/odvae", *clips, *options, "--out", out)
    stored = find("CacheSource")(find("CacheConfig")(path=out, split="all"))
    values: Values = {}
    for k in range(len(stored)):
        for field in ("latents", "given", "mask"):
            value = getattr(stored[k], field, None)
            if value is not None:
                values[f"{field}{k}"] = value
    return values


def generated(work: Path, line: str) -> Values:
    """The frames of a video that a command makes, without loss."""
    out = work / "generated"
    shutil.rmtree(out, ignore_errors=True)
    command(*line.split(), "--precision", "float32", "--out", out)
    return {"frames": frames(out)}


def averaged(work: Path, line: str) -> Values:
    """The same by means over 8 x 8 pixels, in which it counts little that some are rounded to the next level."""
    seen = generated(work, line)["frames"].double()  # (T, H, W, 3)
    return {"means": seen.unfold(1, 8, 8).unfold(2, 8, 8).mean((-1, -2))}


UNLIKE = ("seconds", "second", "time", "memory", "bytes", "speed", "threads", "sha256", "machine", "faster", "rss")
"""Parts of names that hold measurements of the machine, or hashes."""


def numbers_of(record: Any, name: str = "") -> dict[str, float]:
    """Every number of a JSON value that says what was computed, by its path."""
    if isinstance(record, bool) or record is None or isinstance(record, str):
        return {}
    if isinstance(record, int | float):
        return {name: float(record)}
    items = record.items() if isinstance(record, dict) else ((str(k), v) for k, v in enumerate(record))
    found: dict[str, float] = {}
    for key, value in items:
        if not any(part in key.lower() for part in UNLIKE):
            found |= numbers_of(value, f"{name}.{key}" if name else key)
    return found


def scores(work: Path, line: str) -> Values:
    """The numbers of an evaluation."""
    work.mkdir(parents=True, exist_ok=True)
    out = work / "scores.json"
    command(*line.replace("features", str(work / "features")).split(), "--out", out)
    found = numbers_of(json.loads(out.read_text(encoding="utf-8")))
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items() if kept_of(line, name)}


def kept_of(line: str, name: str) -> bool:
    """Whether a number of a command's result says what was computed, where most say how fast that was."""
    words = {"plan": ("parameters", "positions"), "tune": ("psnr", "latents", "hits", "misses", "worst")}
    return any(word in name for word in words.get(line.split()[0], ("",)))


def compared(work: Path) -> Values:
    """The scores of the comparison's two cells, each trained, sampled and measured: value, low, high.

    Stage by stage, as this leaves out what they cost, which takes ten times as long and says nothing here.
    """
    out = work / "compared"
    shutil.rmtree(out, ignore_errors=True)
    first = "clips/small/seed0/image"
    stages = [(first, "train"), (first, "measure")]
    stages += [(f"{first}/latte/generate", stage) for stage in ("encode", "train", "measure")]
    for cell, stage in stages:
        command("compare", "comparison.yaml", "--out", out, "--cell", cell, "--stage", stage)
    command("compare", "comparison.yaml", "--out", out, "--table")
    with (out / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "score"]
    columns = ("value", "low", "high")
    return {f"{Path(r['cell']).name} {r['name']}": torch.tensor([float(r[k] or "nan") for k in columns]) for r in rows}


# Public weights


def exported(work: Path, source: str, layout: str) -> Values:
    """The file that a model folder's part is written to in a public layout, name by name and bit by bit."""
    out = work / "public"
    shutil.rmtree(out, ignore_errors=True)
    part = ["--part", "denoiser"] if Path(source, "denoiser.safetensors").exists() else []
    if layout == "ldm_autoencoder":  # the layout of an image autoencoder that no command writes
        find("save")(find("load_autoencoder")(source), out / "weights.safetensors", layout)
    elif layout in ("autoencoder_kl", "latte_diffusers", "sd3_diffusers"):
        command("convert", source, "--to", "diffusers", *part, "--out", out)
    else:
        command("convert", source, "--to", "public", *part, "--out", out / "weights.safetensors")
    tensors = weights(next(out.glob("*.safetensors")))
    values = torch.cat([tensors[name].flatten().float() for name in sorted(tensors)])
    return {"digest": digest(tensors), "values": values}


def weights(path: Path) -> Values:
    """The tensors of a file."""
    from safetensors.torch import load_file

    return load_file(path)


def imported(work: Path, layout: str, options: str, frames: int, side: int) -> Values:
    """What `convert` makes of public weights: the parameters, whatever their names are here, and what they compute."""
    out = work / "imported"
    shutil.rmtree(out, ignore_errors=True)
    folder = Path("public", layout)
    source = folder if (folder / "config.json").exists() else folder / "weights.safetensors"
    command("convert", source, *options.split(), "--out", out)
    if not (out / "denoiser.safetensors").exists():
        state = find("load_autoencoder")(out).state_dict()
        return {"digest": digest(state, names=False), **autoencoder(str(out), frames, side, stream=False)}
    model = find("VideoModel").load(out, precision="float32")
    shape = model.autoencoder.spec.latent_shape(model.config.frames, *model.config.size)
    requests = [find("Request")(label=1 if layout in ("latte", "dit", "vdt") else None), find("Request")()]
    with torch.no_grad():
        found = predicted(model, noise(2, *shape), torch.tensor([300.0, 800.0]), requests)
    return {"digest": digest(model.denoiser.state_dict(), names=False), "prediction": found}
