"""Training of an autoencoder: mixed images and clips, reconstruction + KL + perceptual + adversarial loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kinolab import video
from kinolab.autoencoders.base import Autoencoder, Posterior, Term
from kinolab.contracts.events import Events
from kinolab.contracts.examples import Source
from kinolab.errors import InputError
from kinolab.metrics.reconstruction import Psnr, Ssim
from kinolab.models import save_autoencoder
from kinolab.runtime.files import make_folder
from kinolab.runtime.precision import autocast
from kinolab.runtime.ranks import Ranks
from kinolab.training.autoencoder_loss import AutoencoderLoss
from kinolab.training.batches import MicroBatch, micro_batches, spread
from kinolab.training.initial import check_initial, first_autoencoder
from kinolab.training.parallel import full_state
from kinolab.training.randomness import generators, normal
from kinolab.training.recipe import AutoencoderRecipe
from kinolab.training.sources import sources_of
from kinolab.training.trainer import Job, Part


class Rebuilt(NamedTuple):
    """A batch's reconstruction (B, 3, T, H, W), its posterior, and the terms that its autoencoder adds to the loss."""

    video: Tensor
    posterior: Posterior
    terms: dict[str, Term]


class Reconstructor(nn.Module):
    """An autoencoder whose forward is encode, sample, decode: what DDP and FSDP need to wrap."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, videos: list[Tensor], noises: list[Tensor] | None) -> list[Rebuilt]:
        """What becomes of each batch (B, 3, T, H, W); without noise (evaluation), of the posterior's mean."""
        results = []
        for k, clip in enumerate(videos):
            posterior = self.autoencoder.encode(clip)
            latents = posterior.mean
            terms = {} if noises is None else self.autoencoder.regularisation(clip, posterior)
            if noises is not None:
                latents = latents + torch.exp(0.5 * posterior.logvar) * noises[k].to(latents)
            results.append(Rebuilt(self.autoencoder.decode(latents), posterior, terms))
        return results


class AutoencoderJob(Job):
    """Computes the steps of an autoencoder's training (OD-VAE paper, section 4: L1 + LPIPS + KL + adversarial)."""

    Recipe = AutoencoderRecipe

    @classmethod
    def make(cls, recipe: AutoencoderRecipe, events: Events) -> AutoencoderJob:
        """The job of a recipe: its clips, and its autoencoder with first weights."""
        check_initial(recipe)
        autoencoder = first_autoencoder(recipe)
        return cls(recipe, autoencoder, *sources_of(recipe.data, autoencoder.spec, events, annotated=False))

    def __init__(self, recipe: AutoencoderRecipe, autoencoder: Autoencoder, source: Source, heldout: Source) -> None:
        self.recipe, self.autoencoder, self.source, self.heldout = recipe, autoencoder, source, heldout
        if recipe.window_frames is not None:
            try:
                autoencoder.spec.check(recipe.window_frames, *[autoencoder.spec.spatial_ratio] * 2)
            except InputError as error:
                raise InputError(f"window_frames={recipe.window_frames}: {error}") from None
        self.losses = AutoencoderLoss(recipe.loss)
        if recipe.trained == "decoder":
            autoencoder.encoder_parts().requires_grad_(False)
        self.reconstructor = Reconstructor(autoencoder)
        self.parts = {"autoencoder": Part(self.reconstructor)}
        if self.losses.discriminator is not None:
            assert recipe.loss.adversarial is not None
            start = recipe.loss.adversarial.start_step
            self.parts["discriminator"] = Part(self.losses.discriminator, averaged=False, starts=start)
        self.device = torch.device("cpu")
        self._reconstructions: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def batches(self, first_step: int, ranks: Ranks) -> Iterator[list[MicroBatch]]:
        """This process's micro-batches of clips, from `first_step` on."""
        self.device = ranks.device
        self.losses.to(ranks.device)
        return micro_batches(self.source, self.recipe.training, first_step, ranks)

    def _groups(self, batch: MicroBatch, step: int) -> list[tuple[list[int], Tensor]]:
        """The micro-batch as clips of equal length, the longest first: (positions, video) of each length."""
        recipe = self.recipe
        groups: dict[int, list[tuple[int, Tensor]]] = {}
        share = round(recipe.image_fraction * recipe.training.batch_size)
        sources = generators(recipe.training.seed, step, batch.positions, "frames")
        for position, example, source in zip(batch.positions, batch.examples, sources, strict=True):
            frames = example.video
            if position < share and frames.shape[1] > 1:
                pick = int(torch.randint(frames.shape[1], (1,), generator=source))
                frames = frames[:, pick : pick + 1]
            elif recipe.frames_per_clip is not None and frames.shape[1] > recipe.frames_per_clip:
                picks = torch.randperm(frames.shape[1], generator=source)[: recipe.frames_per_clip]
                frames = frames[:, picks]
            elif recipe.window_frames is not None and frames.shape[1] > recipe.window_frames:
                first = int(torch.randint(frames.shape[1] - recipe.window_frames + 1, (1,), generator=source))
                frames = frames[:, first : first + recipe.window_frames]
            frames = self.autoencoder.training_clip(frames, source)
            groups.setdefault(frames.shape[1], []).append((position, frames))
        ordered = [groups[length] for length in sorted(groups, reverse=True)]
        return [([p for p, _ in g], torch.stack([v for _, v in g]).to(self.device)) for g in ordered]

    def _noise(self, positions: list[int], clip: Tensor, step: int) -> Tensor:
        shape = self.autoencoder.spec.latent_shape(*clip.shape[2:])
        return normal(shape, generators(self.recipe.training.seed, step, positions, "posterior")).to(self.device)

    def loss(self, name: str, micro_batch: MicroBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """The autoencoder's or the discriminator's loss over one micro-batch, weighted by the clips of each group."""
        total, numbers = torch.zeros((), device=self.device), dict[str, float]()
        key = micro_batch.positions[0]
        if name == "autoencoder":
            groups = self._groups(micro_batch, step)
            videos = [v for _, v in groups]
            noises = [self._noise(p, v, step) for p, v in groups]
            results = self.parts[name].wrapped(videos, noises)
            # The sharded weight is not the tensor that the loss depends on; the reconstruction stands in for it.
            last = None if self.losses.discriminator is None else self.autoencoder.last_layer
            last = None if hasattr(last, "full_tensor") else last
            self._reconstructions[key] = [(v, r.video.detach()) for v, r in zip(videos, results, strict=True)]
            for clip, result in zip(videos, results, strict=True):
                loss, parts = self.losses.generator_loss(
                    clip,
                    result.video,
                    result.posterior,
                    step=step,
                    last_layer=last,
                    terms=result.terms,
                )
                total = total + self._add(numbers, loss, parts, len(clip) / len(micro_batch.positions))
        else:
            for clip, reconstruction in self._reconstructions[key]:
                loss, parts = self.losses.discriminator_loss(clip, reconstruction, step=step)
                total = total + self._add(numbers, loss, parts, len(clip) / len(micro_batch.positions))
        numbers[f"{name}_loss"] = float(total.detach())
        return total, numbers

    @staticmethod
    def _add(numbers: dict[str, float], loss: Tensor, parts: Mapping[str, Tensor], share: float) -> Tensor:
        for key, value in parts.items():
            numbers[key] = numbers.get(key, 0.0) + share * float(value)
        return loss * share

    def _heldout_batches(self, count: int) -> Iterator[Tensor]:
        size = self.recipe.training.micro_batch or self.recipe.training.batch_size
        groups: dict[tuple[int, ...], list[Tensor]] = {}
        for example in (self.heldout[i] for i in spread(len(self.heldout), count)):
            group = groups.setdefault(tuple(example.video.shape), [])
            group.append(example.video)
            if len(group) == size:
                yield torch.stack(groups.pop(tuple(example.video.shape))).to(self.device)
        for group in groups.values():
            yield torch.stack(group).to(self.device)

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """PSNR (dB) and SSIM of the posterior's mean on held-out clips."""
        psnr, ssim = Psnr(), Ssim()
        for clip in self._heldout_batches(self.recipe.heldout_clips):
            with autocast(self.recipe.training.precision, self.device):
                [rebuilt] = self.reconstructor([clip], None)
            reconstruction = rebuilt.video.float().clamp(-1, 1)
            psnr.update(clip, reconstruction)
            ssim.update(clip, reconstruction)
        return {"psnr": psnr.compute().value, "ssim": ssim.compute().value}

    def sample(self, folder: Path, step: int, ranks: Ranks) -> None:
        """`step-N.mp4`: held-out clips above, their reconstructions below."""
        batches = list(self._heldout_batches(self.recipe.sample_clips))
        batches = [b for b in batches if b.shape[2:] == batches[0].shape[2:]]  # clips, or images, side by side
        with autocast(self.recipe.training.precision, self.device):
            reconstruction = torch.cat([self.reconstructor([b], None)[0].video for b in batches])
        clip = torch.cat(batches)
        if ranks.first:
            rows = [np.concatenate([video.to_uint8(v) for v in batch], axis=2) for batch in (clip, reconstruction)]
            make_folder(folder)
            video.write(folder / f"step-{step:08d}.mp4", np.concatenate(rows, axis=1), fps=self.recipe.sample_fps)

    def export(self, folder: Path, step: int, ranks: Ranks) -> None:
        """Write the model folder, its latents normalised to zero mean and unit variance over held-in clips (unless it
        keeps its scaling)."""
        state = {k.removeprefix("autoencoder."): v for k, v in full_state(self.reconstructor, ranks).items()}
        if not ranks.first:
            return
        autoencoder = self.autoencoder
        if ranks.size > 1:  # its weights are shards, and the other processes have left
            autoencoder = type(autoencoder)(autoencoder.config).to(ranks.device)
        autoencoder.load_state_dict(state)
        if self.recipe.trained == "all" and not autoencoder.keeps_scaling:
            calibrate(autoencoder, [self.source[i].video for i in spread(len(self.source), 64)])
        height, width = self.source[0].video.shape[2:]
        save_autoencoder(autoencoder, folder, trained=f"{self.recipe.name}, {step} steps", size=(height, width))


@torch.no_grad()
def calibrate(autoencoder: Autoencoder, clips: list[Tensor]) -> None:
    """Set the autoencoder's latent shift and scale so that its latents have mean 0 and variance 1 per channel."""
    device = autoencoder.latent_scale.device
    means = [autoencoder.encode(c[None].to(device)).mean.float() for c in clips]
    flat = torch.cat([m.transpose(0, 1).flatten(1) for m in means], dim=1)
    shift, spread = flat.mean(1), flat.std(1).clamp_min(1e-6)
    # The statistics are of latents that are normalised already, by whatever shift and scale was set before.
    autoencoder.latent_shift.add_(shift / autoencoder.latent_scale)
    autoencoder.latent_scale.div_(spread)
