"""Writes the folders of the net: what a version of Kinolab stores, made small by that version's own commands.

    git worktree add --detach OLD COMMIT
    PYTHONPATH=OLD python tests/net/make.py OUT

Every path inside is relative to OUT, so that a copy of OUT can be read, resumed and rerun from within it. It uses the
command line alone, but for one file of public weights: what people call is what must go on working.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import torch
import yaml

HALF, END = 80, 82
"""A run is interrupted at the first step and ends at the second."""
QUIET = {
    "precision": "float32", "tensorboard": False, "log_every": 1, "evaluate_every": 1000, "sample_every": 1000,
    "batch_size": 2, "learning_rate": 1e-2, "threads": 1, "save_every": HALF, "keep": 1, "steps": END,
}  # fmt: skip
IMAGE = {
    "kind": "image", "block_out_channels": [4, 4, 4], "layers_per_block": 1, "latent_channels": 4,
    "norm_num_groups": 2, "mid_block_attention": False, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
ODVAE = {
    "kind": "odvae", "hidden_size": 4, "hidden_size_mult": [1, 1, 1], "num_res_blocks": 1, "latent_channels": 4,
    "norm_num_groups": 2, "mid_attention": "none", "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
GRID = {"in_channels": 4, "input_size": 8, "num_frames": 2, "patch_size": 4}
CLIPS = {"kind": "folder", "path": "clips", "frames": 5, "size": 32, "heldout_fraction": 0.3, "index": "none"}
FLOW = {"schedule": "flow", "prediction": "flow", "time_sampling": "logit_normal"}
SAMPLER = {"name": "euler", "steps": 3}
CLASSES = ["fall", "throw", "bounce", "collide", "ramp", "float"]
TASKS = {"unconditional": 1, "predict": 2, "past": 1, "interpolate": 1, "animate": 1, "complete": 1}


def recipe(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    """A recipe with the training that all have."""
    training = QUIET | fields.pop("training", {})
    return {"kind": kind, "name": name, "heldout_clips": 2, "training": training, **fields}


def denoiser(name: str, config: dict[str, Any], cache: str, **fields: Any) -> dict[str, Any]:
    """A recipe of a denoiser on a cache of odvae's latents."""
    return recipe(
        "denoiser", name, data={"kind": "cache", "path": f"caches/{cache}", "heldout_fraction": 0.3},
        autoencoder="models/odvae", denoiser={**GRID, **config}, diffusion=FLOW, condition_dropout=0.3, **fields,
    )  # fmt: skip


RECIPES: dict[str, dict[str, Any]] = {
    "image": recipe("autoencoder", "image", data=CLIPS, autoencoder=IMAGE, sample_clips=1),
    "odvae": recipe(
        "autoencoder", "odvae", data=CLIPS, autoencoder=ODVAE, sample_clips=1, image_fraction=0.5,
        initial={"path": "models/image", "method": "tail"},
        loss={"adversarial": {"start_step": 1, "discriminator": {"width": 4, "layers": 2}}},
    ),
    "latte": denoiser(
        "latte", {"kind": "latte", "hidden_size": 16, "depth": 2, "num_heads": 2, "num_classes": 6}, "plain",
        class_names=CLASSES, samples={"labels": [1], "sampler": SAMPLER, "guidance": {"scale": 2.0}},
        training={"optimizer": "muon"},
    ),
    "vdt": denoiser(
        "vdt", {"kind": "vdt", "hidden_size": 16, "depth": 2, "num_heads": 2, "given": "channels", "mask_channels": 4},
        "tasks", tasks=TASKS, samples={"count": 1, "sampler": SAMPLER},
    ),
    "mmdit": denoiser(
        "mmdit", {"kind": "mmdit", "hidden_size": 12, "depth": 1, "num_heads": 2, "text_dim": 384}, "text",
        text_encoder={"kind": "minilm", "max_tokens": 22},
        samples={"prompts": ["a red ball"], "sampler": SAMPLER, "guidance": {"scale": 2.0}},
    ),
    "encoder": recipe(
        "encoder", "encoder", frames=4, encoder={"widths": [8], "embedding": 4, "size": 16},
        data={"clips": CLIPS, "world": {"kind": "world", "world": {"size": 32, "frames": 17}, "count": 8,
                                        "heldout_count": 2}},
    ),
}  # fmt: skip
"""One recipe of each kind: pixels by frame and in time (with a critic), labels, tasks, text, and features."""

MODEL = ["--model", "models/vdt", "--precision", "float32", "--seed", "3"]
VIDEOS = {
    "generate-label.mp4": "generate --label throw --seed 5 --model models/latte --precision float32 --count 2",
    "generate-text.mp4": "generate a_red_ball --seed 6 --model models/mmdit --precision float32 --cache 0.1",
    "predict.mp4": "predict clips/clip-000000.mp4 --given 3",
    "past.mkv": "predict clips/clip-000000.mp4 --past --given 2 --keep exact",
    "interpolate.webp": "interpolate clips/clip-000001.mp4 --keyframes 0,-1 --frames 5 --keep exact",
    "animate": "animate stills/000000.png stills/000001.png --at 0,4",
    "complete.mkv": "complete clips/clip-000002.mp4 --box 2,2,20,20 --frames 5 --keep exact",
    "extend.mkv": "extend clips/clip-000003.mp4 --frames 13 --overlap 2 --keep exact",
    "steered.mp4": "predict clips/clip-000004.mp4 --method reconstruction --weight 1 --given 2",
}
"""A video of each command and its words; a file's name says how it is stored."""

SMALL = "-s frames=5 -s size=32 -s minimum=4 -s samples=6 -s split=all"
FEATURES = "-s video.path=models/encoder -s image.path=models/encoder"
SCORES = {
    "reconstruction": f"evaluate reconstruction models/odvae clips {SMALL} -s metrics=[psnr,ssim,flicker,grid,rfvd]"
    " -s video.path=models/encoder --precision float32",
    "generation": f"evaluate generation models/latte clips {SMALL} {FEATURES} --precision float32 --cache features"
    " -s metrics=[fvd,kid,temporal_flickering,dynamic_degree] --videos scores/generation",
    "world": "evaluate world --model models/mmdit --count 4 --precision float32",
    "physics": "evaluate physics --model models/vdt --given 3,1 --count 3 --precision float32",
    "tasks": "evaluate tasks --model models/vdt --count 2 --precision float32",
    "tune": "tune models/vdt --count 1 --steps 2 --samplers euler --thresholds 0.1 --precisions float32 --repeats 1"
    " --full-steps 4",
    "sensitivity": "evaluate sensitivity clips --count 4 --reconstruction protocols/pairs.yaml"
    " --generation protocols/sets.yaml",
    "plan": "plan recipes/latte.yaml --steps 1 --price 2.5 --currency EUR",
}
"""Each measurement and its command; `--out` is added."""
PROTOCOLS: dict[str, dict[str, Any]] = {
    "pairs": {"name": "pairs", "kind": "reconstruction", "metrics": ["psnr", "ssim"], "frames": 5, "size": 32,
              "minimum": 2, "samples": 4, "split": "all"},
    "sets": {"name": "sets", "kind": "generation", "metrics": ["temporal_flickering", "dynamic_degree"], "frames": 5,
             "size": 32, "minimum": 2, "samples": 4, "split": "all", "video": {"path": "models/encoder"},
             "image": {"path": "models/encoder"}},
}  # fmt: skip
CELL_TRAINING = {name: value for name, value in QUIET.items() if name != "steps"} | {"save_every": 1}
COMPARISON: dict[str, Any] = {
    "name": "net",
    "data": {"clips": CLIPS},
    "budgets": {"small": {"autoencoder": {"steps": 1}, "denoiser": {"steps": 1}}},
    "autoencoders": {"image": {"autoencoder": IMAGE}},
    "autoencoder_training": {"heldout_clips": 2, "sample_clips": 1, "training": CELL_TRAINING},
    "denoisers": {"latte": {"denoiser": {"kind": "latte", "hidden_size": 16, "depth": 2, "num_heads": 2,
                                         "patch_size": 4}}},
    "denoiser_training": {"heldout_clips": 2, "samples": {"count": 1, "sampler": {"steps": 1}},
                          "training": CELL_TRAINING},
    "cached_clips": 6, "sampler": {"name": "euler", "steps": 1}, "videos": 1,
    "reconstruction_changes": {"frames": 5, "size": 32, "samples": 6, "minimum": 4, "metrics": ["psnr", "ssim"],
                               "split": "all"},
    "generation_changes": {"frames": 5, "size": 32, "samples": 6, "minimum": 4, "split": "all",
                           "metrics": ["temporal_flickering", "dynamic_degree"]},
}  # fmt: skip


def kinolab(*words: object) -> None:
    """One command, which has to succeed."""
    from kinolab.cli import main

    try:
        main([str(w) for w in words])
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"{' '.join(map(str, words))}: status {stop.code}") from None


def words_of(line: str) -> list[str]:
    """The words of a command; `_` stands for a space within one."""
    words = line.split()
    return [w.replace("_", " ") if k == 1 and words[0] == "generate" else w for k, w in enumerate(words)]


def write_yaml(path: Path, values: Any) -> None:
    """Write a YAML file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def train(name: str) -> None:
    """The run `runs/NAME`, interrupted; where it would have led, in `models/NAME` and `logs/NAME.jsonl`."""
    write_yaml(Path(f"recipes/{name}.yaml"), RECIPES[name])
    kinolab("train", f"recipes/{name}.yaml", "--run", f"whole/{name}")
    shutil.copytree(f"whole/{name}/model", f"models/{name}")
    Path("logs").mkdir(exist_ok=True)
    shutil.copy(f"whole/{name}/log.jsonl", f"logs/{name}.jsonl")
    kinolab("train", f"recipes/{name}.yaml", "--run", f"runs/{name}", "--until", HALF)


def train_sharded(name: str) -> None:
    """The run `runs/NAME-sharded`, whose checkpoint two processes wrote; and its log after one alone went on."""
    training = RECIPES[name]["training"] | {"parallel": "fsdp", "optimizer": "adamw"}
    write_yaml(Path(f"recipes/{name}-sharded.yaml"), RECIPES[name] | {"name": f"{name}-sharded", "training": training})
    # The run's folder is left to its default: torchrun takes --run for an option of its own.
    words = ["-m", "kinolab", "train", f"recipes/{name}-sharded.yaml", "--until", str(HALF)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launch, *words], check=True)
    shutil.copytree(f"runs/{name}-sharded", f"whole/{name}-sharded")
    kinolab("train", "--run", f"whole/{name}-sharded", "--resume")
    shutil.copy(f"whole/{name}-sharded/log.jsonl", f"logs/{name}-sharded.jsonl")


def make_models_and_caches() -> None:
    """Clips, a run of every kind, and the caches that the denoisers learn from."""
    kinolab("world", "clips", "--count", 6, "--size", 32, "--frames", 9)
    for name in ("image", "odvae", "encoder"):
        train(name)
    encode = ["encode", "clips", "-a", "models/odvae", "--frames", 5, "--size", 32, "--dtype", "float32", "-s",
              "data.index=none", "--shard-size", 4]  # fmt: skip
    kinolab(*encode, "--out", "caches/plain", "--keep-posterior")
    kinolab(*encode, "--out", "caches/text", "--text", "minilm")
    write_yaml(Path("recipes/vdt.yaml"), RECIPES["vdt"])
    kinolab(*encode, "--out", "caches/tasks", "--tasks", "recipes/vdt.yaml", "--draws", 2)
    for name in ("latte", "vdt", "mmdit"):
        train(name)
    train_sharded("latte")


def make_weights() -> None:
    """Packed, converted and inflated models."""
    for stored in ("float16", "int8"):
        kinolab("pack", "models/mmdit", "--out", f"packed/{stored}", "--stored", stored)
    kinolab("convert", "models/image", "--to", "diffusers", "--out", "converted/image-diffusers")
    kinolab("convert", "converted/image-diffusers", "--out", "converted/image-back")
    from kinolab.checkpoints import save
    from kinolab.denoisers import DiT, DiTConfig

    torch.manual_seed(0)
    image = DiT(
        DiTConfig(
            hidden_size=16, depth=1, num_heads=2, input_size=8, patch_size=4, num_classes=3, learned_variance=True
        )
    )
    with torch.no_grad():
        for parameter in image.parameters():
            parameter.normal_(std=0.1)
    save(image, Path("converted/dit.safetensors"), "dit")
    latte = ["--to", "latte", "-a", "models/odvae", "-s", "num_frames=2", "-s", "temporal_position=absolute", "--given",
             "num_heads=2"]  # fmt: skip
    kinolab("inflate", "converted/dit.safetensors", *latte, "--out", "inflated/latte")
    causal = ["--to", "odvae", "-s", "norm=clip", "-s", "upsampling=trilinear"]
    kinolab("inflate", "models/image", *causal, "--out", "inflated/odvae")
    public = ["--to", "public", "--part", "denoiser"]
    kinolab("convert", "inflated/latte", *public, "--out", "converted/latte.safetensors")
    kinolab("convert", "inflated/odvae", "--to", "public", "--out", "converted/odvae.safetensors")


def make_videos() -> None:
    """A video of each task with its record."""
    from kinolab import video

    frames = video.read(Path("clips/clip-000005.mp4")).frames
    video.write(Path("stills"), frames[[0, 8]], fps=8)
    for name, line in VIDEOS.items():
        words = words_of(line)
        kinolab(*words, *([] if words[0] == "generate" else MODEL), "--out", f"videos/{name}")
    kinolab("reconstruct", "clips/clip-000000.mp4", "-a", "models/odvae", "--out", "videos/reconstruction.mp4",
            "--precision", "float32", "--frames", 5)  # fmt: skip


def make_results() -> None:
    """A score of each evaluation, one comparison, and a page of them."""
    for name, values in PROTOCOLS.items():
        write_yaml(Path(f"protocols/{name}.yaml"), values)
    Path("scores").mkdir(exist_ok=True)
    for name, line in SCORES.items():
        kinolab(*line.split(), "--out", f"scores/{name}.json")
    write_yaml(Path("comparison.yaml"), COMPARISON)
    kinolab("compare", "comparison.yaml", "--out", "compared", "--threads", 1)
    results = [f"scores/{name}.json" for name in SCORES if name != "plan"]
    kinolab("report", "whole/latte", *results, "--out", "report/report.html")


def make(out: Path) -> None:
    """Everything, in a new folder."""
    out.mkdir(parents=True)
    home = out.resolve().with_name(out.name + "-home")
    root = Path.cwd()
    os.environ["HOME"] = str(home)  # indexes and features that commands keep there are no part of the net
    os.chdir(out)
    make_models_and_caches()
    make_weights()
    make_videos()
    make_results()
    for folder in (Path("whole"), Path("features"), home):
        shutil.rmtree(folder, ignore_errors=True)
    import kinolab as package

    about = {
        "kinolab": package.__version__,
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
    Path("about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    os.chdir(root)
    pack(out)


def pack(folder: Path) -> Path:
    """FOLDER.tar.xz: one file instead of hundreds, most of them random weights that runs and models share."""
    archive = folder.with_name(folder.name + ".tar.xz")
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != ".lock":
                tar.add(path, path.relative_to(folder).as_posix(), filter=_nobody)
    return archive


def _nobody(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """A file that belongs to nobody in particular."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    torch.set_num_threads(1)
    make(Path(sys.argv[1]))
