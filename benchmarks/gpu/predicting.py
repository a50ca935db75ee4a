"""Trains `toy-world` on a card for so many seconds: one model for prompts and every task of the toy world.

Clips are made by other processes all the while and encoded on the card into a bank of latents, from which batches are
drawn; so hardly a clip comes twenty times. Weights in 8 bits come back every minute as they are then, averaged.

`python -m benchmarks.gpu.trainings world` runs it.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bank import Bank, Words
from benchmarks.gpu.pace import Learner, Log
from benchmarks.gpu.packing import carried_back, write_clips
from benchmarks.gpu.stream import ClipStream
from benchmarks.gpu.text import CarriedText
from benchmarks.gpu.timed import Task, card
from kinolab import __version__, video
from kinolab.denoisers import Conditions, Denoiser
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import Diffusion
from kinolab.methods import GuidanceConfig
from kinolab.models import ModelConfig, Request, VideoModel, load_autoencoder
from kinolab.runtime.precision import autocast
from kinolab.tasks import predict_mask
from kinolab.toyworld.clips import CLASSES, WorldConfig, make_clip
from kinolab.toyworld.source import HELDOUT_SEEDS
from kinolab.training.recipe import DenoiserRecipe, load_recipe

FIRST = 30_000_000
"""Seed of the first clip: no other training of this project comes near."""
HELDOUT = HELDOUT_SEEDS + 500_000
"""Seeds of the clips that are looked at during training; those of the evaluations are below."""
ENCODING = 0.18
"""Share of the time that new clips may take on the card."""
CARD = ["training.batch_size=384"]
SMALL = [
    "denoiser.hidden_size=32", "denoiser.num_heads=2", "denoiser.depth=2", "training.batch_size=8", "training.warmup=4",
]  # fmt: skip


class WorldTraining:
    """What is trained, on what, and what comes back."""

    def __init__(self, task: Task, log: Log) -> None:
        self.task, self.log = task, log
        overrides = [*(SMALL if task.small else CARD), *task.overrides]
        recipe = load_recipe(task.recipe or "toy-world", overrides)
        assert isinstance(recipe, DenoiserRecipe) and recipe.tasks is not None
        self.recipe, self.tasks = recipe, recipe.tasks
        given = recipe.tasks.without_unconditional()
        assert given is not None
        # Half of the masks tell about as many first frames as requests do (8), the others any number.
        near = given.model_copy(update={"predict_frames": (5, 9)})
        self.stream = ClipStream(
            WorldConfig(), (given, near), task.carry / "text", first=FIRST, workers=task.workers,
            size=16 if task.small else 256, slots=4 if task.small else 64,
        )  # fmt: skip

    def start(self) -> None:
        """What needs the card: networks, their compilation, the first clips."""
        task, recipe = self.task, self.recipe
        self.device = card(task.device)
        self.autoencoder = load_autoencoder(recipe.autoencoder).to(self.device).eval()
        words = Words(task.carry / "text").to(self.device)
        self.bank = Bank(self.autoencoder, words, 256 if task.small else 131_072, self.device)
        torch.manual_seed(task.seed)
        self.denoiser = build_denoiser(recipe.denoiser).to(self.device)
        self.average = build_denoiser(recipe.denoiser).to(self.device).eval()
        self.diffusion = Diffusion(recipe.diffusion)
        self.generator = torch.Generator().manual_seed(task.seed)
        chunk = self.stream.take()
        assert chunk is not None
        self.bank.add(chunk)
        self.stream.give_back(chunk)
        self.chunk_seconds = 0.0
        self._more(timed=True)
        count = sum(p.numel() for p in self.denoiser.parameters())
        self.log.say(f"{task.device_name}: {count / 1e6:.2f} M parameters, a chunk of {self.stream.size} clips is "
                     f"encoded in {self.chunk_seconds:.3f} s")  # fmt: skip
        began, blocks = time.time(), list(self.denoiser.get_submodule("blocks").children())
        try:
            if task.compiled:
                for block in blocks:
                    block.compile()  # one by one: all are one and the same graph, which so is compiled once
            self.loss().backward()
            task.wait()
        except Exception as error:  # whatever a compiler trips over: the training is worth more
            self.log.say(f"not compiled: {type(error).__name__}: {str(error)[:300]}")
            for block in blocks:
                block._compiled_call_impl = None
            self.loss().backward()
            task.wait()
        self.denoiser.zero_grad(set_to_none=True)
        self.log.say(f"first step after {time.time() - began:.1f} s")
        while time.time() < task.begin and self._more():
            pass
        self.log.say(f"{self.bank.filled} clips to begin with")

    def _more(self, timed: bool = False) -> bool:
        """Encode a chunk if there is one; whether there was."""
        chunk = self.stream.take(None if timed else 5 if time.time() < self.task.begin else 0)
        if chunk is None:
            return False
        self.task.wait()  # so that the steps before are not counted
        began = time.time()
        self.bank.add(chunk)
        self.task.wait()
        self.chunk_seconds = time.time() - began
        self.stream.give_back(chunk)
        return True

    def loss(self) -> Tensor:
        """The mean loss of a batch that is drawn from the bank: tasks by their weights, prompts and labels dropped."""
        size, recipe = self.recipe.training.batch_size, self.recipe
        rows = self.bank.draw(size)

        def chance(share: float) -> Tensor:
            return torch.rand(size, device=self.device) < share

        weights = self.tasks.weights
        nothing = chance(weights["unconditional"] / sum(weights.values()))
        there = nothing[:, None, None, None, None]
        given, mask = torch.where(there, 0.0, rows["given"]), torch.where(there, 1.0, rows["mask"])
        dropped = torch.where(nothing, chance(recipe.condition_dropout), chance(recipe.given_condition_dropout or 0.0))
        told = Conditions(rows["label"], rows["text"], rows["text_mask"], rows["pooled"], given=given, mask=mask)
        nulls = {"text": dropped, "pooled": dropped, "label": dropped | chance(recipe.label_dropout)}
        conditions = Conditions.of(dict(told), nulls)
        z0 = rows["latents"]
        t = self.diffusion.draw_times(size, self.generator, positions=z0[0, 0].numel()).to(self.device)
        noise = torch.randn(z0.shape, device=self.device)
        with autocast("bfloat16", self.device):
            return self.diffusion.loss(self.denoiser, z0, conditions, t=t, noise=noise)["loss"].mean()

    def run(self) -> None:
        """Train until the time is over; weights come back every minute and at the end."""
        task, until = self.task, self.task.until
        learner = Learner(self.denoiser, self.recipe.training, until, self.log)
        encoded, saved, looked = 0.0, time.time(), time.time()
        while time.time() < until:
            learner.step(self.loss())
            if encoded < ENCODING * (time.time() - learner.begun) and self._more():
                encoded += self.chunk_seconds
            if time.time() - saved > task.save_every and until - time.time() > 20:
                look = time.time() - looked > task.look_every
                self.come_back(learner, look=look)
                saved = time.time()
                looked = saved if look else looked
        self.stream.close()
        self.come_back(learner, look=True, whole=True)

    def model(self, average: Denoiser) -> VideoModel:
        """A model folder's model."""
        recipe = self.recipe
        config = ModelConfig(
            version=__version__, trained=f"{recipe.name}, {self.steps} steps", autoencoder=self.autoencoder.config,
            denoiser=recipe.denoiser, diffusion=recipe.diffusion, text_encoder=recipe.text_encoder,
            null_prompt=recipe.null_prompt, class_names=CLASSES, tasks=recipe.tasks, frames=17, size=(64, 64), fps=8.0,
            guidance=recipe.samples.guidance, sampler=recipe.samples.sampler,
        )  # fmt: skip
        model = VideoModel(config, self.autoencoder, average)
        model.device, model.precision = self.device, "bfloat16"
        model.text_encoder = CarriedText(self.task.carry / "text")
        return model

    def come_back(self, learner: Learner, *, look: bool, whole: bool = False) -> None:
        """Write the averaged weights as they are, and say what they are worth."""
        self.steps = learner.done
        state = self.average.state_dict()
        self.average.load_state_dict({name: learner.ema.shadow.get(name, value) for name, value in state.items()})
        model = self.model(self.average)
        record = carried_back(model, self.task.out / f"{self.task.name}.zip")
        self.log.write("saved", step=learner.done, clips=self.stream.made, **record)
        if look:
            self.log.write("looked", step=learner.done, **self.look(model, whole))

    @torch.no_grad()
    def look(self, model: VideoModel, whole: bool) -> dict[str, float]:
        """Predictions from 8 frames and clips of prompts, and the error and checks of some; a picture at the end."""
        from kinolab.evaluation.physics import evaluate_physics
        from kinolab.evaluation.world import evaluate_world

        if whole:
            self.picture(model)
        count = 2 if self.task.small else 128 if whole else 64
        report = evaluate_physics(model, {"given": (8,), "count": count, "first": 20_000}, batch=count)
        found = {"px": report.error("model", 8), "identity": report.mean("model", 8, "identity")}
        found |= {f"px of {s}": report.error("model", 8, scenarios=[s]) for s in report.scenarios}
        checks = evaluate_world(model, {"count": count, "first": 20_000}, batch=count).shares()
        found |= {what: 100 * share.value for what, share in checks.items() if share.count}
        return {name: round(value, 3) for name, value in found.items()}

    def picture(self, model: VideoModel) -> None:
        """Predictions beside the truth, and clips of prompts."""
        clips = [make_clip(WorldConfig(), HELDOUT + k) for k in range(2 if self.task.small else 8)]
        original = torch.stack([video.to_tensor(c.frames) for c in clips])
        mask = predict_mask(17, 64, 64, 8).expand(len(clips), 1, -1, -1, -1)
        asked = [Request(seed=k) for k in range(len(clips))]
        made = video.to_uint8(model.complete(original, mask, asked, guidance=GuidanceConfig()).cpu())
        told = [Request(c.caption, seed=k) for k, c in enumerate(clips)]
        shown = video.to_uint8(model.decode(model.sample_latents(told)).cpu())
        rows: dict[str, Any] = {}
        for k, clip in enumerate(clips):
            rows |= {f"{k} truth: {clip.caption}": clip.frames, f"{k} predicted from 8 frames": made[k]}
            rows[f"{k} from its caption alone"] = shown[k]
        write_clips(self.task.out / f"{self.task.name}.png", rows, shown=9)


def main(task: Task) -> None:
    """Train, look, bring back."""
    log = Log(task.name)
    training = WorldTraining(task, log)
    training.start()
    training.run()
    log.say("done")
