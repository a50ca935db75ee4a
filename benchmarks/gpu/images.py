"""Trains the toy world's image models on a card for so many seconds: `toy-image-4`, then on its latents
`toy-unet-image` and `toy-mmdit-image-4`, one after the other, on the same frames and captions; and from the U-Net three
Video LDMs at equal steps: all weights, the layers over time alone, and all of them from nothing.

`python -m benchmarks.gpu.trainings image` runs it.
"""

from __future__ import annotations

import time
import zipfile

import torch
from torch import Tensor

from benchmarks.gpu.bank import Words, to_pixels
from benchmarks.gpu.pace import Learner, Log
from benchmarks.gpu.packing import carried_back, write_clips
from benchmarks.gpu.stream import TOKENS, Chunk, ClipStream
from benchmarks.gpu.text import CarriedText
from benchmarks.gpu.timed import Task, card
from kinolab import __version__, video
from kinolab.autoencoders import build as build_autoencoder
from kinolab.denoisers import Conditions, Denoiser
from kinolab.denoisers import build as build_denoiser
from kinolab.denoisers.inflate import inflated
from kinolab.diffusion import Diffusion
from kinolab.evaluation.world import evaluate_world
from kinolab.metrics.reconstruction import Psnr
from kinolab.models import ModelConfig, Request, VideoModel
from kinolab.runtime.precision import autocast
from kinolab.toyworld.clips import WorldConfig
from kinolab.training.autoencoder_loss import AutoencoderLoss
from kinolab.training.jobs.autoencoder import calibrate
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, load_recipe

FIRST = 90_000_000
"""Seed of the first clip."""
MARKS = {"toy-image-4": 0.15, "toy-unet-image": 0.36, "toy-mmdit-image-4": 0.48, "all": 0.56, "temporal": 0.64,
         "nothing": 0.72}  # fmt: skip
"""When each training is over, as a share of the whole time; of the videos' those of layers over time and from nothing
are over when they have taken as many steps as that of all weights."""
VIDEOS, EVERY_FRAME = 4096, 2
"""Clips that the videos are trained on, and which frames of them: every second."""
VIDEO_BATCH = 48
FRAMES = 3
"""Frames taken of each clip."""
PLAIN = 0.35
"""Share of the captions that name the objects alone: a single frame shows no more."""
CARD = {
    "toy-unet-image": ["denoiser.block_out_channels=[64,128]", "denoiser.attention_levels=[0,1]",
                       "training.batch_size=512", "training.learning_rate=2e-3", "training.ema=0.998"],
}  # fmt: skip
"""What a card has room for beyond the recipes."""
SMALL = {
    "toy-image-4": ["autoencoder.block_out_channels=[8,8,8]", "training.batch_size=4"],
    "toy-unet-image": ["denoiser.block_out_channels=[16,32]", "denoiser.attention_levels=[0,1]",
                       "denoiser.head_size=16", "denoiser.norm_groups=8", "training.batch_size=8"],
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
        shape = (min(VIDEOS, N), -(-WorldConfig().frames // EVERY_FRAME))
        self.clips = torch.zeros(*shape, 64, 64, 3, dtype=torch.uint8, device=device)
        chunk = self.stream.take()
        assert chunk is not None
        self.gather(chunk)

    def recipe(self, name: str) -> AutoencoderRecipe | DenoiserRecipe:
        """A recipe of the three, as small as asked for."""
        found = load_recipe(name, SMALL[name] if self.task.small else CARD.get(name, []))
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
            kept = self.clips[rows]
            kept.copy_(chunk.frames[: len(kept), ::EVERY_FRAME])
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
        while not learner.over:
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
        self.videos = torch.cat([self.autoencoder.encode(to_pixels(c)).mean.float() for c in self.clips.split(128)])

    def told(self, clips: Tensor, null: Tensor, denoiser: Denoiser) -> Conditions:
        """The captions of clips by their numbers (N,)."""
        mask = torch.arange(TOKENS, device=self.device) < self.lengths[clips][:, None]
        pooled = self.pooled[clips] if denoiser.spec.pooled_dim else None
        return Conditions(text=self.text[clips].float(), text_mask=mask, pooled=pooled, null=null)

    def train_denoiser(self, name: str) -> Denoiser:
        """A denoiser on the latents of frames; its model folder comes back."""
        recipe = self.recipe(name)
        assert isinstance(recipe, DenoiserRecipe)
        denoiser = build_denoiser(recipe.denoiser).to(self.device)
        learner = Learner(denoiser, recipe.training, self.until(name), self.log)
        self.log.say(f"{name}: {sum(p.numel() for p in denoiser.parameters()) / 1e6:.2f} M parameters")
        self.learn(learner, denoiser, recipe, recipe.training.batch_size, None)
        self.come_back(name, recipe, denoiser, learner.done, frames=1)
        return denoiser

    def learn(
        self, learner: Learner, denoiser: Denoiser, recipe: DenoiserRecipe, size: int, videos: Tensor | None
    ) -> None:
        """Train on the latents of frames, or of videos (N, C, T, h, w), and leave the average in the denoiser."""
        diffusion, generator = Diffusion(recipe.diffusion), torch.Generator().manual_seed(self.task.seed)
        while not learner.over:
            clips, frames = self.drawn(size)
            if videos is not None:
                clips = clips % len(videos)
            null = torch.rand(size, device=self.device) < recipe.condition_dropout
            z0 = self.latents[clips, frames] if videos is None else videos[clips]
            t = diffusion.draw_times(size, generator, positions=z0[0, 0].numel()).to(self.device)
            noise = torch.randn(z0.shape, device=self.device)
            with autocast("bfloat16", self.device):
                told = self.told(clips, null, denoiser)
                learner.step(diffusion.loss(denoiser, z0, told, t=t, noise=noise)["loss"].mean())
        denoiser.load_state_dict({**denoiser.state_dict(), **learner.ema.shadow})
        denoiser.eval()

    def train_videos(self, image: Denoiser) -> None:
        """Three Video LDMs of the image U-Net, at as many steps as the one that trains all weights has time for."""
        recipe = self.recipe("toy-unet-image")
        assert isinstance(recipe, DenoiserRecipe)
        steps, image = None, image.to("cpu")
        for name in ("all", "temporal", "nothing"):
            made, _ = inflated(image, "video_ldm", {"num_frames": self.clips.shape[1]})
            if name == "nothing":
                made = build_denoiser(made.config)
            if name == "temporal":
                for parameter, value in made.named_parameters():
                    value.requires_grad_(made.models_time(parameter))
            made = made.to(self.device).train()
            trained = sum(p.numel() for p in made.parameters() if p.requires_grad)
            learner = Learner(made, recipe.training, self.until(name), self.log, steps)
            self.learn(learner, made, recipe, 4 if self.task.small else VIDEO_BATCH, self.videos)
            steps = steps or learner.done
            self.log.write(
                "video", variant=name, steps=learner.done, trained=trained, took=round(time.time() - learner.begun, 1)
            )
            self.come_back(f"video-{name}", recipe, made, learner.done, frames=self.clips.shape[1])

    def come_back(self, name: str, recipe: DenoiserRecipe, denoiser: Denoiser, steps: int, *, frames: int) -> None:
        """The model folder (of videos, that of the layers over time), and what it shows of what was asked."""
        denoiser.requires_grad_(True)
        config = ModelConfig(
            version=__version__, trained=f"{name}, {steps} steps", autoencoder=self.autoencoder.config,
            denoiser=denoiser.config, diffusion=recipe.diffusion, text_encoder=recipe.text_encoder,
            null_prompt=recipe.null_prompt, frames=frames, size=(64, 64), fps=8.0 if frames == 1 else 8.0 / EVERY_FRAME,
            guidance=recipe.samples.guidance, sampler=recipe.samples.sampler,
        )  # fmt: skip
        model = VideoModel(config, self.autoencoder, denoiser)
        model.device, model.precision = self.device, "bfloat16"
        model.text_encoder = CarriedText(self.task.carry / "text")
        if frames == 1 or name == "video-temporal":
            record = carried_back(model, self.task.out / f"{name}.zip")
            self.log.write("saved", model=name, step=steps, **record)
        count = 2 if self.task.small else 128 if frames == 1 else 64
        report = evaluate_world(model, {"count": count, "first": 20_000}, batch=count)
        checks = {what: round(100 * s.value, 1) for what, s in report.shares().items() if s.count}
        self.log.write("looked", model=name, **checks)
        prompts = list(recipe.samples.prompts)
        shown = 6 if frames == 1 else 1
        made = model.decode(model.sample_latents([Request(p, seed=k) for p in prompts for k in range(shown)]))
        clips = video.to_uint8(made.cpu()).reshape(len(prompts), -1, 64, 64, 3)
        beside = self.task.out / f"{name}.png"
        write_clips(beside, dict(zip(prompts, clips, strict=True)))
        with zipfile.ZipFile(self.task.out / "pictures.zip", "a") as pictures:
            pictures.write(beside, beside.name)
        beside.unlink()


def main(task: Task) -> None:
    """Train all three."""
    log = Log(task.name)
    training = ImageTraining(task, log)
    training.start()
    training.train_autoencoder()
    unet = training.train_denoiser("toy-unet-image")
    training.train_denoiser("toy-mmdit-image-4")
    training.train_videos(unet)
    log.say("done")
