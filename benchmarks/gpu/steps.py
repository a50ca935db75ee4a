"""Part 2: what a training step takes: time, memory, and how much of the device's arithmetic it uses.

The step is `Trainer.train_step` on latents or clips that are in memory already: forward, backward, clipping, optimiser
and average, with every wait for the device that training has. FLOPs are those of the step's matrix products and
convolutions as torch counts them, so that recomputed blocks count twice.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.cases import seeded
from benchmarks.gpu.running import FAILED, Item, Place, Record
from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.contracts.examples import Example, Source
from kinolab.denoisers import build as build_denoiser
from kinolab.runtime.ranks import Ranks
from kinolab.training.batches import MicroBatch
from kinolab.training.jobs.autoencoder import AutoencoderJob
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, load_recipe
from kinolab.training.trainer import Trainer

DENSE_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12, "4090": 165e12}
"""Dense bfloat16 products per second in FLOPs by the vendor's data sheet, by a part of the card's name."""
WARM, TIMED = 3, 10


@dataclass(frozen=True)
class Training:
    """One thing to train: a recipe's model part, the shape of an example (without its batch), and the batch."""

    name: str
    model: dict[str, Any]
    shape: tuple[int, ...]
    batch: int
    precision: str = "bfloat16"
    compiled: bool = False


def trainings(small: bool) -> Iterator[Training]:
    """Latte-S/2 and B/2, VDT-S/2 and an MMDiT on 16 latent frames of 32 x 32, and OD-VAE on clips."""
    if small:
        tiny = {"hidden_size": 32, "depth": 2, "num_heads": 2, "input_size": 8, "num_frames": 3}
        yield Training("Latte", {"kind": "latte", **tiny}, (4, 3, 8, 8), 2)
        yield Training("VDT", {"kind": "vdt", **tiny}, (4, 3, 8, 8), 2)
        yield Training("MMDiT", {"kind": "mmdit", **tiny}, (4, 3, 8, 8), 2)
        odvae = {"hidden_size": 8, "hidden_size_mult": [1, 1, 1], "num_res_blocks": 1, "norm_num_groups": 4}
        yield Training("OD-VAE", {"kind": "odvae", **odvae}, (3, 5, 16, 16), 2)
        return
    latents = (4, 16, 32, 32)
    sizes = {"input_size": 32, "num_frames": 16, "num_classes": 101}
    latte = {size: {"kind": "latte", "size": size, **sizes} for size in "SB"}
    mmdit = {"kind": "mmdit", "hidden_size": 768, "depth": 12, "num_heads": 12, "qk_norm": True, **sizes}
    yield Training("Latte-S/2", latte["S"], latents, 32)
    yield Training("Latte-B/2", latte["B"], latents, 24)
    yield Training("VDT-S/2", {"kind": "vdt", "size": "S", **sizes}, latents, 32)
    yield Training("MMDiT, 12 blocks of 768, 3d", mmdit, latents, 16)
    yield Training("OD-VAE, 239 M", {"kind": "odvae"}, (3, 9, 256, 256), 2)
    yield Training("OD-VAE, a quarter of its width", {"kind": "odvae", "hidden_size": 32}, (3, 17, 256, 256), 4)
    yield Training("Latte-S/2, float32", latte["S"], latents, 16, "float32")
    # Compilation takes its time: last, so that it costs no other figure.
    yield Training("Latte-B/2, compiled", latte["B"], latents, 24, compiled=True)
    yield Training("Latte-S/2, compiled", latte["S"], latents, 32, compiled=True)
    yield Training("MMDiT, compiled", mmdit, latents, 16, compiled=True)


class InMemory(Source):
    """As many equal examples as are asked for; what is trained on them means nothing."""

    def __init__(self, example: Example, count: int) -> None:
        self.example, self.count, self.encoded = example, count, example.encoded

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        if index >= self.count:
            raise IndexError(index)
        return self.example


def trainer_of(training: Training, batch: int, device: torch.device, folder: Path) -> Trainer:
    """A trainer of random weights with its job."""
    settings = {
        "steps": 1000, "batch_size": batch, "learning_rate": 1e-4, "precision": training.precision,
        "compile": training.compiled, "tensorboard": False,
    }  # fmt: skip
    common = {"name": training.name, "data": {"kind": "world"}, "training": settings}
    torch.manual_seed(0)
    job: Any
    if training.model["kind"] == "odvae":
        recipe = load_recipe({"kind": "autoencoder", "autoencoder": training.model, **common})
        assert isinstance(recipe, AutoencoderRecipe)
        clip = Example(seeded(1, *training.shape).clamp(-1, 1), 8.0, None, None, "", (0.0, 1.0))
        source = InMemory(clip, batch)
        job = AutoencoderJob(recipe, build_autoencoder(recipe.autoencoder), source, source)
    else:
        recipe = load_recipe({"kind": "denoiser", "denoiser": training.model, "autoencoder": "none", **common})
        assert isinstance(recipe, DenoiserRecipe)
        latents = Example(seeded(1, *training.shape), 8.0, None, 0, "", (0.0, 1.0), encoded=True)
        source = InMemory(latents, batch)
        image = ImageConfig(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=training.shape[0])
        job = DenoiserJob(recipe, ImageAutoencoder(image), build_denoiser(recipe.denoiser), source, source)
    made = Trainer(job, recipe.training, folder, Ranks(device=device))
    job.batches(0, made.ranks)
    return made


def measure(training: Training, place: Place) -> Record:
    """One training's figures; the batch is halved until it fits."""
    batch = training.batch
    while True:
        try:
            with tempfile.TemporaryDirectory() as folder:
                return _measure(training, batch, place, Path(folder))
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
        torch.cuda.empty_cache()
        place.say(f"{training.name}: {batch} examples don't fit; trying {batch // 2}")
        batch //= 2


def _measure(training: Training, batch: int, place: Place, folder: Path) -> Record:
    trainer = trainer_of(training, batch, place.device, folder)
    job: Any = trainer.job
    work = [MicroBatch(list(range(batch)), [job.source[k] for k in range(batch)])]
    cuda = place.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(place.device)
    begun = time.perf_counter()
    for step in range(WARM):
        trainer.train_step(step, work)
    place.wait()
    ready, seconds = time.perf_counter() - begun, []
    for step in range(WARM, WARM + (2 if place.small else TIMED)):
        begun = time.perf_counter()
        trainer.train_step(step, work)
        place.wait()
        seconds.append(time.perf_counter() - begun)
    taken = statistics.median(seconds)
    peak = torch.cuda.max_memory_allocated(place.device) if cuda else 0
    millions = sum(p.numel() for part in job.parts.values() for p in part.module.parameters()) / 1e6
    if training.compiled:  # whose products are not seen one by one
        del trainer, job
        trainer = trainer_of(replace(training, compiled=False), batch, place.device, folder)
    flops = _counted(trainer, work)
    record: Record = {
        "batch": batch, "example": list(training.shape), "precision": training.precision,
        "compiled": training.compiled,
        "parameters_millions": round(millions, 1), "step_seconds": taken, "all_seconds": seconds,
        "ready_seconds": ready,
        "tflop_per_step": flops / 1e12, "tflops": flops / taken / 1e12, "examples_per_second": batch / taken,
    }  # fmt: skip
    if cuda:
        record["peak_gb"] = peak / 1e9
    return record


def _counted(trainer: Trainer, work: list[MicroBatch]) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        trainer.train_step(WARM, work)
    return int(counter.get_total_flops())


def ceilings(place: Place) -> Record:
    """What the device reaches at most: a large bfloat16 and float32 product, and a copy, medians of ten."""
    side = 256 if place.small else 8192
    record: Record = {"device": device_name(place.device), "side": side}
    for dtype in (torch.bfloat16, torch.float32):
        a, b = torch.randn(2, side, side, device=place.device).to(dtype).unbind()
        seconds = _median(lambda a=a, b=b: a @ b, place)  # type: ignore[misc]
        record[f"{str(dtype).removeprefix('torch.')}_tflops"] = 2 * side**3 / seconds / 1e12
    block = torch.empty(2**20 if place.small else 2**30, dtype=torch.uint8, device=place.device)
    record["copy_gb_per_second"] = 2 * block.numel() / _median(lambda: block.clone(), place) / 1e9
    sheet = next((v for name, v in DENSE_BF16.items() if name in record["device"]), None)
    record["data_sheet_bfloat16_tflops"] = None if sheet is None else sheet / 1e12
    return record


def _median(work: Callable[[], Any], place: Place) -> float:
    seconds = []
    for turn in range(13):
        place.wait()
        begun = time.perf_counter()
        work()
        place.wait()
        if turn >= 3:
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def device_name(device: torch.device) -> str:
    """The card's own name, or the processor's kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


CEILINGS = "ceilings"


def items(place: Place) -> Iterator[Item]:
    """What the device reaches at most, then one item per training."""
    yield CEILINGS, lambda: ceilings(place)
    for training in trainings(place.small):
        if training.compiled and place.device.type != "cuda":
            continue
        yield training.name, lambda training=training: measure(training, place)  # type: ignore[misc]


def table(records: dict[str, Record]) -> tuple[list[str], list[list[str]]]:
    """Time, rate and memory of a step; utilisation of the data sheet's rate and of the measured product's."""
    top = records.get(CEILINGS, {})
    rows = []
    for name, record in records.items():
        if FAILED in record:
            rows.append([name, record[FAILED], *[""] * 7])
            continue
        if name == CEILINGS:
            continue
        reached = record["tflops"]
        sheet, product = top.get("data_sheet_bfloat16_tflops"), top.get(f"{record['precision']}_tflops")
        rows.append([
            name, f"{record['batch']} x {' x '.join(map(str, record['example']))}", record["precision"],
            f"{record['step_seconds'] * 1e3:.4g} ms", f"{record['tflop_per_step']:.3g}", f"{reached:.3g}",
            f"{reached / sheet:.1%}" if sheet and record["precision"] == "bfloat16" else "",
            f"{reached / product:.1%}" if product else "",
            f"{record['peak_gb']:.1f} GB" if "peak_gb" in record else "",
        ])  # fmt: skip
    columns = ["training step", "batch", "precision", "median", "TFLOP", "TFLOP/s", "of data sheet", "of a product"]
    return [*columns, "peak memory"], rows
