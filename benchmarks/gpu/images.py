"""Trains the toy world's image models on a card for so many seconds: `toy-image-4`, then on its latents
`toy-unet-image` and `toy-mmdit-image-4`, one after the other, on the same frames and captions.

`python -m benchmarks.gpu.trainings image` runs it.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from benchmarks.gpu.bank import Words
from benchmarks.gpu.pace import Learner, Log
from benchmarks.gpu.packing import carried_back, write_clips
from benchmarks.gpu.stream import TOKENS, Chunk, ClipStream
from benchmarks.gpu.text import CarriedText
from benchmarks.gpu.timed import Task, card
from kinolab import __version__, video
from kinolab.autoencoders import build as build_autoencoder
from kinolab.denoisers import Conditions, Denoiser
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import Diffusion
from kinolab.metrics.reconstruction import Psnr
from kinolab.models import ModelConfig, Request, VideoModel
from kinolab.runtime.precision import autocast
from kinolab.toyworld.clips import WorldConfig
from kinolab.training.autoencoder_loss import AutoencoderLoss
from kinolab.training.jobs.autoencoder import calibrate
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, load_recipe

FIRST = 90_000_000
"""Seed of the first clip."""
MARKS = {"toy-image-4": 0.17, "toy-unet-image": 0.42, "toy-mmdit-image-4": 0.58}
"""When each training is over, as a share of the whole time."""
FRAMES = 3
"""Frames taken of each clip."""
PLAIN = 0.5
"""Share of the captions that name the objects alone: a single frame shows no more."""
SMALL = {
    "toy-image-4": ["autoencoder.block_out_channels=[8,8,8]", "training.batch_size=4"],
    "toy-unet-image": ["denoiser.block_out_channels=[16,32]", "denoiser.head_size=16", "training.batch_size=8",
                       "denoiser.norm_groups=8"],
    "toy-mmdit-image-4": ["denoiser.hidden_size=32", "denoiser.depth=2", "denoiser.num_heads=2",
                          "training.batch_size=8"],
}  # fmt: skip


class ImageTraining:
    """What is trained, on what, and what comes back."""

    def __init__(self, task: Task, log: Log) -> None:
        self.task, self.log, self.began = task, log, time.time()
        small = task.small
        self.count = 64 if small else 24_576
        self.stream = ClipStream(
            WorldConfig(), (), task.carry / "text", first=FIRST, workers=task.workers, plain=PLAIN,
            size=16 if small else 256, slots=2 if small else 24,
        )  # fmt: skip
        self.filled = 0

    def start(self) -> None:
        """What needs the card."""
        self.device = card(self.task.device)
        torch.manual_seed(self.task.seed)
        self.words = Words(self.task.carry / "text").to(self.device)
        N, device = self.count, self.device
        self.frames = torch.zeros(N, FRAMES, 64, 64, 3, dtype=torch.uint8, device=device)
        self.text = torch.zeros(N, TOKENS, 384, dtype=torch.bfloat16, device=device)
        self.pooled = torch.zeros(N, 384, device=device)
        self.lengths = torch.zeros(N, dtype=torch.int64, device=device)
        chunk = self.stream.take()
        assert chunk is not None
        self.gather(chunk)

    def recipe(self, name: str) -> AutoencoderRecipe | DenoiserRecipe:
        """A recipe of the three, as small as asked for."""
        found = load_recipe(name, SMALL[name] if self.task.small else [])
        assert isinstance(found, AutoencoderRecipe | DenoiserRecipe)
        return found

    def until(self, name: str) -> float:
        """When the training of a recipe is over."""
        return self.began + MARKS[name] * (self.task.until - self.began)

    def gather(self, chunk: Chunk | None) -> None:
        """Take some frames of each clip of a chunk, and its caption."""
        if chunk is None:
            return
        if self.filled < self.count:
            size = min(len(chunk.frames), self.count - self.filled)
            rows = slice(self.filled, self.filled + size)
            picks = torch.stack([torch.randperm(chunk.frames.shape[1])[:FRAMES] for _ in range(size)])
            chosen = chunk.frames[:size].gather(1, picks[:, :, None, None, None].expand(-1, -1, 64, 64, 3))
            self.frames[rows] = chosen.to(self.device)
            states, self.pooled[rows] = self.words(chunk.tokens[:size], chunk.lengths[:size])
            self.text[rows] = states.bfloat16()
            self.lengths[rows] = chunk.lengths[:size].to(self.device)
            self.filled += size
        if self.filled < self.count:
            self.stream.give_back(chunk)
        else:
            self.stream.close()

    def pixels(self, clips: Tensor, frames: Tensor) -> Tensor:
        """Frames by their clips' and their own numbers (N,), as video (N, 3, 1, 64, 64) in [-1, 1]."""
        return self.frames[clips, frames].permute(0, 3, 1, 2)[:, :, None].float().div(127.5).sub(1)

    def drawn(self, size: int) -> tuple[Tensor, Tensor]:
        """Random numbers of clips and of frames."""
        device = self.device
        clips = torch.randint(self.filled, (size,), device=device)
        return clips, torch.randint(FRAMES, (size,), device=device)

    def train_autoencoder(self) -> None:
        """The autoencoder, and then the latents of all frames."""
        name = "toy-image-4"
        recipe = self.recipe(name)
        assert isinstance(recipe, AutoencoderRecipe)
        self.autoencoder = build_autoencoder(recipe.autoencoder).to(self.device)
        settings = recipe.training.model_copy(update={"batch_size": 4 if self.task.small else 128})
        losses, learner = AutoencoderLoss(recipe.loss), Learner(self.autoencoder, settings, self.until(name), self.log)
        while time.time() < self.until(name):
            clip = self.pixels(*self.drawn(settings.batch_size))
            with autocast("bfloat16", self.device):
                posterior = self.autoencoder.encode(clip)
                noise = torch.randn_like(posterior.mean)
                rebuilt = self.autoencoder.decode(posterior.mean + torch.exp(0.5 * posterior.logvar) * noise)
            learner.step(losses.generator_loss(clip, rebuilt, posterior, step=learner.done)[0])
            if self.filled < self.count:
                self.gather(self.stream.take(0))
        self.autoencoder.load_state_dict({**self.autoencoder.state_dict(), **learner.ema.shadow})
        self.autoencoder.eval().requires_grad_(False)
        self.finish_autoencoder(learner.done)

    @torch.no_grad()
    def finish_autoencoder(self, steps: int) -> None:
        """Normalise the latents, measure the reconstruction, encode all frames."""
        while self.filled < self.count:
            self.gather(self.stream.take())
        some = torch.arange(min(512, self.count), device=self.device)
        clip = self.pixels(some, torch.zeros_like(some))
        calibrate(self.autoencoder, [clip[:, :, 0].transpose(0, 1)])
        psnr = Psnr()
        psnr.update(clip, self.autoencoder.decode(self.autoencoder.encode(clip).mean).float().clamp(-1, 1))
        self.log.write("autoencoder", steps=steps, psnr_of_training_frames=psnr.compute().value,
                       parameters=sum(p.numel() for p in self.autoencoder.parameters()))  # fmt: skip
        parts = []
        every = torch.arange(self.count * FRAMES, device=self.device)
        for rows in every.split(1024):
            parts.append(self.autoencoder.encode(self.pixels(rows // FRAMES, rows % FRAMES)).mean.float())
        self.latents = torch.cat(parts).unflatten(0, (self.count, FRAMES))

    def train_denoiser(self, name: str) -> None:
        """A denoiser on the latents; its model folder comes back."""
        recipe = self.recipe(name)
        assert isinstance(recipe, DenoiserRecipe)
        denoiser = build_denoiser(recipe.denoiser).to(self.device)
        diffusion, generator = Diffusion(recipe.diffusion), torch.Generator().manual_seed(self.task.seed)
        learner = Learner(denoiser, recipe.training, self.until(name), self.log)
        size = recipe.training.batch_size
        self.log.say(f"{name}: {sum(p.numel() for p in denoiser.parameters()) / 1e6:.2f} M parameters")
        while time.time() < self.until(name):
            clips, frames = self.drawn(size)
            null = torch.rand(size, device=self.device) < recipe.condition_dropout
            mask = torch.arange(TOKENS, device=self.device) < self.lengths[clips][:, None]
            pooled = self.pooled[clips] if denoiser.spec.pooled_dim else None
            told = Conditions(text=self.text[clips].float(), text_mask=mask, pooled=pooled, null=null)
            z0 = self.latents[clips, frames]
            t = diffusion.draw_times(size, generator, positions=z0[0, 0].numel()).to(self.device)
            with autocast("bfloat16", self.device):
                noise = torch.randn(z0.shape, device=self.device)
                loss = diffusion.loss(denoiser, z0, told, t=t, noise=noise)["loss"].mean()
            learner.step(loss)
        denoiser.load_state_dict({**denoiser.state_dict(), **learner.ema.shadow})
        self.come_back(name, recipe, denoiser.eval(), learner.done)

    def come_back(self, name: str, recipe: DenoiserRecipe, denoiser: Denoiser, steps: int) -> None:
        """The model folder, what its images show of what was asked, and some of them."""
        config = ModelConfig(
            version=__version__, trained=f"{name}, {steps} steps", autoencoder=self.autoencoder.config,
            denoiser=recipe.denoiser, diffusion=recipe.diffusion, text_encoder=recipe.text_encoder,
            null_prompt=recipe.null_prompt, frames=1, size=(64, 64), fps=8.0, guidance=recipe.samples.guidance,
            sampler=recipe.samples.sampler,
        )  # fmt: skip
        model = VideoModel(config, self.autoencoder, denoiser)
        model.device, model.precision = self.device, "bfloat16"
        model.text_encoder = CarriedText(self.task.carry / "text")
        record = carried_back(model, self.task.out / f"{name}.zip")
        self.log.write("saved", model=name, step=steps, samples=steps * recipe.training.batch_size, **record)
        from kinolab.evaluation.world import evaluate_world

        count = 2 if self.task.small else 128
        checks = evaluate_world(model, {"count": count, "first": 20_000}, batch=count).shares()
        self.log.write("looked", model=name, **{w: round(100 * s.value, 1) for w, s in checks.items() if s.count})
        prompts = list(recipe.samples.prompts)
        made = model.decode(model.sample_latents([Request(p, seed=k) for p in prompts for k in range(6)]))
        shown = video.to_uint8(made.cpu()).reshape(len(prompts), 6, 64, 64, 3)
        write_clips(self.task.out / f"{name}.png", dict(zip(prompts, shown, strict=True)))


def main(task: Task) -> None:
    """Train all three."""
    log = Log(task.name)
    training = ImageTraining(task, log)
    training.start()
    training.train_autoencoder()
    for name in ("toy-unet-image", "toy-mmdit-image-4"):
        training.train_denoiser(name)
    log.say("done")
