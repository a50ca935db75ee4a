"""What two versions of Kinolab are compared on: forward passes, sampling, losses, gradients, caches, videos, scores.

    PYTHONPATH=VERSION python SCRIPT NET OUT.safetensors STEPS [NAME ...]

SCRIPT is a copy of this file beside a folder `benchmarks` with the files that it imports, which import nothing else of
the project, so that they run with any version (`benchmarks/commits.py` makes the copies). NET is an unpacked folder of
the net (tests/net/), variants included: its models, recipes and clips are what is computed on; STEPS are how many are
sampled and trained. Every quantity is some tensors by name. How they are computed stands in `benchmarks/computing.py`,
and what is used of a version in `benchmarks/adapter.py`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.adapter import How, Values
from benchmarks.computing import (
    TASKS,
    autoencoder,
    averaged,
    cache,
    compared,
    exported,
    forward,
    generated,
    imported,
    latents,
    sample,
    scores,
    task,
    training,
)
from benchmarks.recipes import GIVEN, Start, recipes, variants


@dataclass(frozen=True)
class Quantity:
    """A named set of tensors; an early one has passed through few operations, so that it is alike on all processors."""

    compute: Callable[[], Values]
    early: bool = True


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
    "sensitivity": "evaluate sensitivity clips --count 4 --reconstruction protocols/pairs.yaml"
    " --generation protocols/sets.yaml",
}
SETTLED = {
    "tune": "tune models/vdt --count 1 --steps 2 --samplers euler --thresholds 0.1 --precisions float32 --repeats 1"
    " --full-steps 4",
    "plan": "plan recipes/latte.yaml --steps 1 --price 2.5 --currency EUR",
    "every reconstruction metric": f"evaluate reconstruction models/odvae clips {SMALL} --precision float32"
    " -s metrics=[psnr,ssim,ssim3d,flicker,warp,seam,grid,rfvd] -s video.path=models/encoder",
    "every generation metric": f"evaluate generation models/latte clips {SMALL} --precision float32 --cache features"
    " -s metrics=[fvd,fvd_infinite,kvd,fid,kid,precision,recall,density,coverage,subject_consistency,"
    "background_consistency,temporal_flickering,motion_smoothness,dynamic_degree]"
    " -s video.path=models/encoder -s image.path=models/encoder",
    "given frames": f"evaluate generation models/vdt clips {SMALL} --precision float32 --cache features"
    " -s metrics=[temporal_flickering] --given-frames 2 --sampler heun --steps 2",
}
"""Measurements that the net's own scores have no numbers of, or none but those of the machine."""
GENERATED = {
    "generate": "generate --label throw --seed 5 --guidance 3 --model models/latte",
    "predict": "predict clips/clip-000000.mp4 --given 3 --model models/vdt",
    "interpolate": "interpolate clips/clip-000001.mp4 --keyframes 0,-1 --frames 5 --model models/vdt",
    "complete": "complete clips/clip-000002.mp4 --box 2,2,20,20 --frames 5 --model models/vdt",
    "extend": "extend clips/clip-000003.mp4 --frames 13 --overlap 2 --model models/vdt",
    "past": "predict clips/clip-000000.mp4 --past --given 2 --keep exact --model models/vdt",
    "animate": "animate stills/000000.png stills/000001.png --at 0,4 --model models/vdt",
    "prompt": "generate ball --negative box --guidance 2 --seed 6 --model models/mmdit",
    "step cache": "generate ball --seed 6 --cache 0.1 --steps 4 --model models/mmdit",
    "steered": "predict clips/clip-000004.mp4 --method reconstruction --weight 1 --given 2 --model models/vdt",
    "reconstruct": "reconstruct clips/clip-000000.mp4 -a models/odvae --frames 5",
}
BETWEEN = {"name": "euler", "steps": 3}
GUIDED: dict[str, tuple[str, dict[str, Any], bool]] = {
    "interval": ("models/latte", {"scale": 3.0, "interval": (0.5, 0.9)}, False),
    "rescale": ("models/latte", {"scale": 3.0, "rescale": 0.7}, False),
    "not batched": ("models/latte", {"scale": 3.0, "batched": False}, False),
    "of a learned variance": ("variants/latte-split", {"scale": 3.0}, False),
    "of text": ("models/mmdit", {"scale": 3.0}, False),
    "away from a prompt": ("models/mmdit", {"scale": 3.0}, True),
    "away from a prompt, not batched": ("models/mmdit", {"scale": 3.0, "batched": False}, True),
    "from the empty prompt": ("variants/latte-text", {"scale": 3.0}, False),
    "from the empty prompt and away": ("variants/latte-text", {"scale": 3.0}, True),
    "of label and text": ("variants/mmdit-both", {"scale": 3.0}, False),
}
"""Name -> model, guidance, and whether a negative prompt is moved away from."""
CACHED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "interval": ("models/latte", {"method": "interval", "every": 2}, {}),
    "interval, guided": ("models/latte", {"method": "interval", "every": 3}, {"scale": 2.0}),
    "interval, one after the other": (
        "models/latte", {"method": "interval", "every": 2}, {"scale": 2.0, "batched": False},
    ),
    "residual": ("models/latte", {"threshold": 0.5}, {"scale": 2.0}),
    "guidance only": ("models/latte", {"threshold": 0, "guidance_every": 2}, {"scale": 2.0}),
    "start and end": ("models/latte", {"method": "interval", "every": 5, "start": 0.4, "end": 0.4}, {}),
    "vdt": ("models/vdt", {"method": "interval", "every": 2}, {}),
    "mmdit": ("models/mmdit", {"method": "interval", "every": 2, "guidance_every": 2}, {"scale": 2.0}),
    "dit": ("variants/dit", {"method": "interval", "every": 2}, {"scale": 2.0}),
}  # fmt: skip
"""Name -> model, step cache, and guidance."""
SAMPLERS: dict[str, dict[str, Any]] = {
    "ddpm": {"name": "ddpm"}, "ddpm, small": {"name": "ddpm", "variance": "small"}, "ddim": {"name": "ddim"},
    "ddim, eta": {"name": "ddim", "eta": 0.5, "spacing": "leading"}, "dpmpp_2m": {"name": "dpmpp_2m"},
    "euler": {"name": "euler", "spacing": "trailing"}, "heun": {"name": "heun"},
}  # fmt: skip
"""Samplers of a discrete schedule with a learned variance; those of rectified flow are the net's own."""
STEERED: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "pixels": ("models/latte", "animate", "reconstruction", {"error": "pixels", "weight": 2000.0}),
    "one pixel frame": ("models/latte", "past", "reconstruction", {"error": "pixels", "weight": 2000.0}),
    "a trained model": ("models/vdt", "predict", "reconstruction", {"weight": 2.0}),
    "replacing in places": ("models/latte", "complete", "replacement", {}),
    "text": ("models/mmdit", "predict", "reconstruction", {}),
}
"""Name -> model, task, method and the rest of the steering. Through a decoder of small weights a gradient is small."""
DENOISERS = (
    *("latte-joint", "latte-late", "latte-split", "latte-text", "vdt-text", "vdt-public", "mmdit-both", "mmdit-sd3"),
    *("dit", *(f"vdt-{given}" for given in GIVEN)),
)
AUTOENCODERS = {"image": (5, 32), "odvae": (5, 32), "dpvae": (5, 32), "vqgan": (3, 32), "tats": (4, 32)}
"""Variants of autoencoders, and the frames and side of a clip for them."""
PUBLIC = {
    "latte": ("inflated/latte", "-a models/odvae -s num_heads=2"),
    "dit": ("variants/dit", "-a variants/image -s num_heads=2"),
    "vdt": ("variants/vdt-public", "-a models/odvae -s num_heads=2"),
    "autoencoder_kl": ("variants/image", ""),
    "ldm_autoencoder": ("variants/image", "-s norm_num_groups=2"),
    "causal_vae": ("inflated/odvae", "-s norm_num_groups=2"),
    "vqgan": ("variants/vqgan", "-s norm_num_groups=2"),
    "tats": ("variants/tats", ""),
    "latte_diffusers": ("variants/latte-text", "-a models/odvae"),
    "sd3": ("variants/mmdit-sd3", "-a variants/image -s num_heads=2"),
    "sd3_diffusers": ("variants/mmdit-sd3", "-a variants/image"),
}
"""Public format -> a folder that can be written in it, and what `convert` has to be told about one."""


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
    reused: How = {
        "sampler": BETWEEN | {"steps": 4},
        "guidance": {"scale": 2.0},
        "cache": {"every": 2, "guidance_every": 2},
    }
    found["step cache"] = Quantity(partial(latents, "models/latte", reused))
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
    if not (net / "variants").exists():
        return found
    return found | sampling(steps) | weights_and_tasks(work) | trainings(net, work) | measurements(work)


def sampling(steps: int) -> dict[str, Quantity]:
    """Variants of guidance, step cache, samplers and steering."""
    found: dict[str, Quantity] = {}
    few: dict[str, Any] = {"name": "euler", "steps": steps}
    how: How
    for name, (path, guidance, away) in GUIDED.items():
        how = {"sampler": few, "guidance": guidance}
        found[f"guidance {name}"] = Quantity(partial(latents, path, how, away=away))
    for name, (path, reused, guidance) in CACHED.items():
        how = {"sampler": few | {"steps": steps + 3}, "cache": reused, **({"guidance": guidance} if guidance else {})}
        found[f"step cache {name}"] = Quantity(partial(latents, path, how))
    for name, sampler in SAMPLERS.items():
        how = {"sampler": sampler | {"steps": steps}}
        found[f"discrete sampler {name}"] = Quantity(partial(latents, "variants/latte-split", how))
    for name, (path, given, method, steering) in STEERED.items():
        how = {"steering": {"method": method, **steering}}
        found[f"steered {name}"] = Quantity(partial(task, path, given, None, how))
    both: How = {"steering": {"method": "reconstruction"}, "guidance": {"scale": 2.0}}
    found["steered and guided"] = Quantity(partial(task, "models/latte", "animate", None, both, told=True))
    return found


def weights_and_tasks(work: Path) -> dict[str, Quantity]:
    """Variants of denoisers and autoencoders, each way of taking what is given, and public weights."""
    found: dict[str, Quantity] = {}
    for name in DENOISERS:
        found[f"forward {name}"] = Quantity(partial(forward, f"variants/{name}"))
        if name.removeprefix("vdt-") in GIVEN:
            for given in ("predict", "complete"):
                found[f"task {given} {name}"] = Quantity(partial(task, f"variants/{name}", given))
    found["task extend"] = Quantity(partial(averaged, work, GENERATED["extend"]))
    for name, (frames, side) in AUTOENCODERS.items():
        found[f"autoencoder {name}"] = Quantity(partial(autoencoder, f"variants/{name}", frames, side, stream=False))
    for name, (source, options) in PUBLIC.items():
        frames, side = AUTOENCODERS.get(source.removeprefix("variants/"), (5, 32))
        found[f"export {name}"] = Quantity(partial(exported, work, source, name))
        found[f"import {name}"] = Quantity(partial(imported, work, name, options, frames, side))
    return found


def trainings(net: Path, work: Path) -> dict[str, Quantity]:
    """The first steps of the variants' recipes."""

    def first(start: Start) -> Values:
        return training(start.recipe, work / "train", start.steps, start.initial, start.method)

    return {f"train {name}": Quantity(partial(first, start)) for name, start in variants(net).items()}


def measurements(work: Path) -> dict[str, Quantity]:
    """Results that come from many steps."""
    found = {f"scores {name}": Quantity(partial(scores, work, line), early=False) for name, line in SETTLED.items()}
    return found | {"comparison": Quantity(partial(compared, work), early=False)}


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
