"""What two versions of Kinolab are compared on: forward passes, sampling, losses, gradients, caches, videos, scores.

    PYTHONPATH=VERSION python benchmarks/quantities.py NET OUT.safetensors STEPS [NAME ...]

NET is an unpacked folder of the net (tests/net/): its models, recipes and clips are what is computed on; STEPS are how
many are sampled and trained. Every quantity is some tensors by name; a version whose modules have moved is found
through `PLACES`. This file imports nothing else of the project, so that one copy of it runs with any version.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

Values = dict[str, Tensor]
PLACES = {
    "VideoModel": ("kinolab.model", "kinolab.models", "kinolab.models.model", "kinolab.models.folder"),
    "Request": ("kinolab.request", "kinolab.contracts", "kinolab.contracts.request"),
    "load_autoencoder": ("kinolab.model", "kinolab.models", "kinolab.models.folder"),
    "SamplerConfig": ("kinolab.diffusion", "kinolab.diffusion.samplers"),
    "GuidanceConfig": ("kinolab.diffusion", "kinolab.methods", "kinolab.methods.guidance"),
    "SteeringConfig": ("kinolab.diffusion", "kinolab.methods", "kinolab.methods.steering"),
    "StepCache": ("kinolab.layers.step_cache", "kinolab.methods", "kinolab.methods.step_cache"),
    "StepCacheConfig": ("kinolab.layers.step_cache", "kinolab.methods", "kinolab.methods.step_cache"),
    "train": ("kinolab.training.run", "kinolab.training"),
    "CacheConfig": ("kinolab.data", "kinolab.data.cache"),
    "CacheSource": ("kinolab.data", "kinolab.data.cache"),
    "read": ("kinolab.video",),
    "main": ("kinolab.cli",),
}
"""Where a version may keep what is used of it; the first module that has it counts. What moves gets a line."""


def find(name: str) -> Any:
    """The function or class of a name, wherever this version keeps it."""
    for place in PLACES[name]:
        try:
            found = getattr(importlib.import_module(place), name, None)
        except ModuleNotFoundError:
            continue
        if found is not None:
            return found
    raise LookupError(f"{name}: in none of {', '.join(PLACES[name])}; add where it is now to PLACES")


@dataclass(frozen=True)
class Quantity:
    """A named set of tensors; an early one has passed through few operations, so that it is alike on all processors."""

    compute: Callable[[], Values]
    early: bool = True


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers that every version draws alike."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Models


@lru_cache(maxsize=4)
def load(path: str) -> Any:
    """A model in float32. The last ones are kept, as several quantities are computed with each."""
    return find("VideoModel").load(path, precision="float32")


def asked(path: str) -> list[Any]:
    """Two requests that use what a model takes."""
    request = find("Request")
    if path.endswith(("world", "latte")):
        return [request(label=1, seed=3), request(label=2, seed=4)]
    if path.endswith(("text", "mmdit", "int8", "float16")):
        return [request(prompt="a red ball falls", seed=3), request(prompt="two blue boxes", seed=4)]
    return [request(seed=3), request(seed=4)]


def forward(path: str) -> Values:
    """One call of a denoiser: (2, C, T, H, W)."""
    model = load(path)
    shape = model.autoencoder.spec.latent_shape(model.config.frames, *model.config.size)
    with torch.no_grad():
        found = model.denoiser(noise(2, *shape), torch.tensor([300.0, 800.0]), model.conditions(asked(path)))
    return {"prediction": found}


def sample(path: str, steps: int = 3, sampler: str = "euler", **guidance: Any) -> Values:
    """Latents after so many steps, and what they decode to."""
    model = load(path)
    how = find("SamplerConfig")(name=sampler, steps=steps)
    guided = find("GuidanceConfig")(**guidance) if guidance else None
    latents = model.sample_latents(asked(path), sampler=how, guidance=guided)
    return {"latents": latents, "video": model.decode(latents)}


def cached(path: str) -> Values:
    """Sampling with features and guidance reused between steps."""
    cache = find("StepCache")(find("StepCacheConfig")(every=2, guidance_every=2))
    how = find("SamplerConfig")(name="euler", steps=4)
    guided = find("GuidanceConfig")(scale=2.0)
    return {"latents": load(path).sample_latents(asked(path), sampler=how, guidance=guided, cache=cache)}


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


def task(path: str, name: str, steered: str | None = None) -> Values:
    """A clip of which a part is given, completed in three steps."""
    model = load(path)
    frames, side = model.config.frames, model.config.size[0]
    clip = noise(1, 3, frames, side // 8, side // 8).repeat_interleave(8, 3).repeat_interleave(8, 4).clamp(-1, 1)
    how = find("SamplerConfig")(name="euler", steps=3)
    steering = None if steered is None else find("SteeringConfig")(method=steered)
    made = model.complete(clip, masks(frames, side)[name], [find("Request")(seed=3)], sampler=how, steering=steering)
    return {"video": made}


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
        find("train")(work / "recipe.yaml", work / "run", until=steps)
    torch.set_num_threads(threads)
    lines = [json.loads(line) for line in (work / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [line for line in lines if line["kind"] == "train"]
    numbers = {
        k: torch.tensor([line[k] for line in kept if k in line], dtype=torch.float64)
        for k in kept[-1]
        if k not in ("step", "kind", "seconds", "step_seconds", "learning_rate")
        and isinstance(kept[-1][k], int | float)
    }
    norms = torch.stack([g.norm() for g in found])
    return numbers | {"gradient norms": norms.sort().values, "gradient": torch.cat(found).sort().values}


def recipes(net: Path) -> dict[str, tuple[dict[str, Any], str | None]]:
    """Recipes of every family and task, and the model folder whose weights each one starts from."""
    stored = {p.stem: yaml.safe_load(p.read_text(encoding="utf-8")) for p in sorted((net / "recipes").glob("*.yaml"))}
    stored.pop("latte-sharded", None)  # the same computation on two processes
    clips = stored["image"]["data"]

    def changed(name: str, part: str, **changes: Any) -> dict[str, Any]:
        return {**stored[name], part: {**stored[name].get(part, {}), **changes}}

    made: dict[str, tuple[dict[str, Any], str | None]] = {
        name: (values, None if name == "encoder" else f"models/{name}") for name, values in stored.items()
    }
    for name in ("unconditional", *TASKS):
        made[f"vdt {name}"] = ({**stored["vdt"], "data": clips, "tasks": {"predict": 0, name: 1}}, "models/vdt")
    for given in ("tokens", "mask", "adaln", "cross_attention"):
        made[f"vdt given {given}"] = ({**changed("vdt", "denoiser", given=given), "data": clips}, None)
    made["latte images"] = ({**stored["latte"], "image_frames": 2}, "models/latte")
    for variant in ("late_fusion", "split_heads"):
        made[f"latte {variant}"] = (changed("latte", "denoiser", variant=variant), None)
    made["mmdit 2d+3d"] = (changed("mmdit", "denoiser", attention="2d+3d"), None)
    image = {k: v for k, v in stored["image"]["autoencoder"].items() if k != "kind"}
    dpvae = {"kind": "dpvae", "temporal_ratio": 4, "group_frames": 5, "regularisation": {"samples": 16}, "image": image}
    made["dpvae"] = ({**stored["image"], "autoencoder": dpvae}, "models/image")
    for prediction in ("noise", "v", "sample"):
        how = {"schedule": "linear", "prediction": prediction, "time_sampling": "uniform"}
        made[f"latte {prediction}"] = ({**stored["latte"], "diffusion": how}, "models/latte")
    return made


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
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}


SMALL = "-s frames=5 -s size=32 -s minimum=4 -s samples=6 -s split=all"
EVALUATIONS = {
    "reconstruction": f"evaluate reconstruction models/odvae clips {SMALL} -s metrics=[psnr,ssim,flicker,grid,rfvd]"
    " -s video.path=models/encoder --precision float32",
    "generation": f"evaluate generation models/latte clips {SMALL} -s video.path=models/encoder"
    " -s image.path=models/encoder --precision float32 --cache features"
    " -s metrics=[fvd,kid,temporal_flickering,dynamic_degree]",
    "world": "evaluate world --model models/mmdit --count 4 --precision float32",
    "physics": "evaluate physics --model models/vdt --given 3,1 --count 3 --precision float32",
    "tasks": "evaluate tasks --model models/vdt --count 2 --precision float32",
}
GENERATED = {
    "generate": "generate --label throw --seed 5 --guidance 3 --model models/latte",
    "predict": "predict clips/clip-000000.mp4 --given 3 --model models/vdt",
    "interpolate": "interpolate clips/clip-000001.mp4 --keyframes 0,-1 --frames 5 --model models/vdt",
    "complete": "complete clips/clip-000002.mp4 --box 2,2,20,20 --frames 5 --model models/vdt",
    "extend": "extend clips/clip-000003.mp4 --frames 13 --overlap 2 --model models/vdt",
}


def quantities(net: Path, work: Path, steps: int = 3) -> dict[str, Quantity]:
    """Every quantity by name. Compute them with NET as the current folder; WORK is written to."""
    found: dict[str, Quantity] = {}
    shipped, tiny = ("world", "world-text"), ("models/latte", "models/vdt", "models/mmdit")
    for path in (*shipped, *tiny, "packed/float16", "packed/int8", "inflated/latte"):
        found[f"forward {path}"] = Quantity(partial(forward, path))
    for path in (*shipped, *tiny):
        found[f"sample {path}"] = Quantity(partial(sample, path, steps))
    for name in ("ddpm", "ddim", "dpmpp_2m", "heun"):
        found[f"sampler {name}"] = Quantity(partial(sample, "models/latte", steps, name))
    found["guidance"] = Quantity(partial(sample, "models/latte", steps, scale=3.0, interval=(0.2, 1.0), rescale=0.5))
    found["step cache"] = Quantity(partial(cached, "models/latte"))
    for name in TASKS:
        found[f"task {name}"] = Quantity(partial(task, "models/vdt", name))
    found["task predict world"] = Quantity(partial(task, "world", "predict"))
    for method in ("reconstruction", "replacement"):
        found[f"steered {method}"] = Quantity(partial(task, "models/latte", "animate", method))
    for path in ("models/image", "models/odvae", "converted/image-back"):
        found[f"autoencoder {path}"] = Quantity(partial(autoencoder, path, 5, 32))
    found["autoencoder inflated/odvae"] = Quantity(partial(autoencoder, "inflated/odvae", 5, 32, stream=False))
    for path in shipped:
        found[f"autoencoder {path}"] = Quantity(partial(autoencoder, path, 17, 64))
    for name, (recipe, initial) in recipes(net).items():
        method = "tail" if name == "dpvae" else "weights"
        found[f"train {name}"] = Quantity(partial(training, recipe, work / "train", 1, initial, method))
        if " " not in name:
            more = partial(training, recipe, work / "train", steps, initial, method)
            found[f"train {name}, some steps"] = Quantity(more, early=False)
    found["cache"] = Quantity(partial(cache, work, "--keep-posterior"))
    found["cache with tasks"] = Quantity(partial(cache, work, "--tasks", "predict=1,complete=1"))
    for name, line in GENERATED.items():
        found[f"frames {name}"] = Quantity(partial(generated, work, line), early=False)
    for name, line in EVALUATIONS.items():
        found[f"scores {name}"] = Quantity(partial(scores, work, line), early=False)
    return found


def exact_arithmetic() -> None:
    """One thread, and no choice that is made by measuring the processor: what is left is the same in every process."""
    torch.set_num_threads(1)
    # A program that sets this switch by itself keeps Kinolab from choosing between libraries by their speed.
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"  # type: ignore[attr-defined]


def main(arguments: Sequence[str]) -> None:
    """Compute quantities (all, or those whose name holds one of the words) and write them with their times."""
    from safetensors.torch import save_file

    net, out, steps, *chosen = arguments
    target = Path(out).resolve()
    exact_arithmetic()
    os.chdir(net)
    tensors: Values = {}
    package = importlib.import_module("kinolab")
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, quantity in quantities(Path(), target.with_suffix(".work"), int(steps)).items():
        if chosen and not any(word in name for word in chosen):
            continue
        torch.manual_seed(0)
        begun = time.perf_counter()
        try:
            values = quantity.compute()
        except Exception as error:  # one that a version can't compute must not hide the others
            values, failed[name] = {}, f"{type(error).__name__}: {error}"
        seconds[name] = time.perf_counter() - begun
        print(name, flush=True)
        tensors |= {f"{name}: {k}": v.detach().contiguous().clone() for k, v in values.items()}
    record = {"package": str(Path(str(package.__file__)).parent), "seconds": seconds, "failed": failed}
    save_file(tensors, target, {"record": json.dumps(record)})


if __name__ == "__main__":
    main(sys.argv[1:])
