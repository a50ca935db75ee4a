"""Training of a denoiser on latents: noise, conditions with dropout, joint images, held-out loss, samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from kinolab import video
from kinolab.autoencoders.base import Autoencoder
from kinolab.conditioning.image import FIRST_FRAME
from kinolab.conditioning.low_resolution import low_clip
from kinolab.contracts.events import Events
from kinolab.contracts.examples import Example, Source
from kinolab.denoisers import Denoiser
from kinolab.denoisers import build as build_denoiser
from kinolab.denoisers.trained import LowRank, trainable_parameters
from kinolab.diffusion import Diffusion
from kinolab.diffusion.times import inside, within
from kinolab.errors import InputError
from kinolab.layers.lora import Change, changes_of, merge_lora
from kinolab.models import ModelConfig, Request, VideoModel, build_part, load_autoencoder
from kinolab.models.cascade import REFINED, refines, takes_words
from kinolab.models.part import WithParts
from kinolab.runtime.files import make_folder
from kinolab.runtime.precision import autocast
from kinolab.runtime.ranks import Ranks
from kinolab.training.assembly import Assembly
from kinolab.training.batches import MicroBatch, spread
from kinolab.training.initial import first_denoiser
from kinolab.training.parallel import full_state
from kinolab.training.randomness import normal, sample_seed
from kinolab.training.recipe import DenoiserRecipe
from kinolab.training.sources import sources_of
from kinolab.training.trainer import Job, Part


class DenoiserJob(Job):
    """Computes the steps of a denoiser's training (Latte, section 3; any denoiser of the table)."""

    Recipe = DenoiserRecipe

    @classmethod
    def make(cls, recipe: DenoiserRecipe, events: Events) -> DenoiserJob:
        """The job of a recipe: its clips or latents, their autoencoder, and its denoiser with first weights."""
        autoencoder = load_autoencoder(recipe.autoencoder, device="cpu")
        denoiser = cls.start(recipe, events)
        annotated = not recipe.unlabelled and (recipe.text_encoder != "none" or denoiser.spec.num_classes > 0)
        sides = sources_of(recipe.data, autoencoder.spec, events, annotated=annotated)
        job = cls(recipe, autoencoder, denoiser, *sides)
        for note in job.notes:
            events.note(note)
        if recipe.trained != "all":
            events.note(f"{recipe.trained}: {job.count}")
            for line in job.count.lines():
                events.note(line)
        return job

    @classmethod
    def start(cls, recipe: DenoiserRecipe, events: Events) -> Denoiser:
        """The recipe's denoiser with its first weights."""
        return first_denoiser(recipe, events)

    def settled(self, recipe: DenoiserRecipe) -> DenoiserRecipe:
        """The recipe with the classes' names that came from the data, so that a resumed run's labels still mean
        them."""
        return recipe.model_copy(update={"class_names": self.assembly.class_names})

    def __init__(
        self, recipe: DenoiserRecipe, autoencoder: Autoencoder, denoiser: Denoiser, source: Source, heldout: Source
    ) -> None:
        self.recipe, self.autoencoder, self.denoiser = recipe, autoencoder, denoiser
        self.source, self.heldout = source, heldout
        self.autoencoder.requires_grad_(False)
        self.diffusion = Diffusion(recipe.diffusion)
        self.beside = {name: build_part(config, denoiser) for name, config in recipe.parts.items()}
        self.network = WithParts(denoiser, self.beside) if self.beside else denoiser
        spec = self.network.spec
        if spec.channels != autoencoder.spec.latent_channels:
            raise InputError(
                f"the denoiser takes {spec.channels} latent channels and the autoencoder makes "
                f"{autoencoder.spec.latent_channels}; set denoiser.in_channels={autoencoder.spec.latent_channels}"
            )
        self.low_rank = LowRank(recipe.lora_rank, recipe.lora_alpha, recipe.lora_targets)
        self.count = trainable_parameters(denoiser, recipe.trained, self.low_rank, recipe.trained_names)
        self.assembly = Assembly(recipe, autoencoder, spec, source, heldout)
        self.notes = self.assembly.notes
        # Frozen weights are those of `initial`, wherever the run goes on.
        kept = recipe.trained != "all" and recipe.initial is not None
        self.parts = {"denoiser": Part(self.network, frozen_elsewhere=kept)}

    def batches(self, first_step: int, ranks: Ranks) -> Iterator[list[MicroBatch]]:
        """This process's micro-batches, from `first_step` on."""
        return self.assembly.micro_batches(first_step, ranks)

    def loss(self, name: str, micro_batch: MicroBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """The mean loss over one micro-batch; every draw belongs to its position in the global batch."""
        batch = self.assembly.batch(micro_batch, step)
        z0, sources = batch.latents, batch.draws("noise")
        times = torch.cat([self._time(source, batch.size) for source in sources]).to(z0.device)
        noise = normal(z0.shape[1:], sources).to(z0.device)
        network = self.parts["denoiser"].wrapped
        parts = self.diffusion.loss(network, z0, batch.conditions, t=times, noise=noise, weight=batch.weight)
        numbers = {k: float(v.detach().mean()) for k, v in parts.items()}
        return parts["loss"].mean(), numbers

    def _time(self, source: torch.Generator, positions: int) -> Tensor:
        """A training time (1,) of a clip of so many latent positions, inside the recipe's interval."""
        draw = partial(self.diffusion.draw_times, 1, source, positions=positions)
        return within(draw, self.diffusion.path.fraction, self.recipe.interval)

    @property
    def beside_trained(self) -> dict[str, nn.Module]:
        """Frozen modules that the training holds in memory too, by what they are called."""
        return {"autoencoder": self.autoencoder}

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.assembly.device

    def _heldout_batches(self, chosen: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Held-out clips in batches of one shape, each with the place of its first clip among all."""
        size, first = self.recipe.training.micro_batch or self.recipe.training.batch_size, 0
        for members in map(set, self.heldout.groups()):
            mine = [i for i in chosen if i in members]
            for k in range(0, len(mine), size):
                yield first + k, mine[k : k + size]
            first += len(mine)

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """The held-out loss (mse) at fixed times with fixed noise, and its mean."""
        chosen = spread(len(self.heldout), self.recipe.heldout_clips)
        sums: dict[str, float] = {}
        seed, times = self.recipe.training.seed, inside(self.recipe.heldout_times, self.recipe.interval)
        for first, indices in self._heldout_batches(chosen):
            self.heldout.ahead(indices)
            batch = self.assembly.heldout([self.heldout[i] for i in indices], first)
            generator = torch.Generator().manual_seed(sample_seed(seed, "heldout", first))
            with autocast(self.recipe.training.precision, self.device):
                losses = self.diffusion.loss_at(
                    self.network, batch.latents, batch.conditions, times, generator, batch.weight
                )
            for time, value in losses.items():
                key = f"loss_at_{time:g}"
                sums[key] = sums.get(key, 0.0) + float(value) * len(indices) / len(chosen)
        return {**sums, "loss": sum(sums.values()) / len(sums)}

    def model(self) -> VideoModel:
        """The model as it stands: shares its parts with the job."""
        # The longest, and of those the largest; single frames of clips of several lengths have one shape.
        recipe, shapes = (
            self.recipe,
            sorted(set(self.assembly.shapes()), key=lambda s: (s[0], s[1] * s[2], s), reverse=True),
        )
        frames, *size = shapes[0]
        config = ModelConfig(
            version=_version(),
            trained=f"{recipe.name}, {recipe.training.steps} steps",
            autoencoder=self.autoencoder.config,
            denoiser=recipe.denoiser,
            parts=recipe.parts,
            diffusion=recipe.diffusion,
            text_encoder=recipe.text_encoder,
            image_encoder=recipe.image_encoder,
            null_prompt=recipe.null_prompt,
            class_names=self.assembly.class_names,
            tasks=recipe.tasks,
            conditions=recipe.conditions,
            frames=frames,
            size=(size[0], size[1]),
            buckets=tuple(shapes) if len(shapes) > 1 else (),
            fps=self.source[self.assembly.groups[0][0]].fps / recipe.frame_skips[0],
            guidance=recipe.samples.guidance,
            given_guidance=recipe.samples.given_guidance,
            sampler=recipe.samples.sampler,
            methods=recipe.samples.methods,
        )
        model = VideoModel(config, self.autoencoder, self.denoiser, parts=self.beside)
        model.precision, model.device = recipe.training.precision, self.device
        model.composed = self.network if self.beside else None
        return model

    def sample(self, folder: Path, step: int, ranks: Ranks) -> None:
        """`step-N-k.mp4` for every prompt, label or count of the recipe, from seeds 0, 1, 2, ...

        A model that makes a video of its first frame begins with those of held-out clips, and one that refines clips is
        given such clips at low resolution, with their captions.
        """
        samples = self.recipe.samples
        if samples.prompts:
            requests = [Request(prompt=p, seed=k) for k, p in enumerate(samples.prompts)]
        elif samples.labels:
            requests = [Request(label=y, seed=k) for k, y in enumerate(samples.labels)]
        else:
            requests = [Request(seed=k) for k in range(samples.count)]
        model = self.model()
        if REFINED in model.spec.ports and not self.heldout.encoded:
            requests = self._to_refine(model, len(requests))
        elif FIRST_FRAME in model.spec.ports:
            shown = self._alike(len(requests))
            pictures = [shown[k % len(shown)].video[:, 0] for k in range(len(requests))]
            told = zip(requests, pictures, strict=True)
            requests = [replace(r, size=(p.shape[1], p.shape[2]), conditions={FIRST_FRAME: p}) for r, p in told]
        clips = model.decode(model.sample_latents(requests))
        if ranks.first:
            make_folder(folder)
            for k, clip in enumerate(clips):
                video.write(folder / f"step-{step:08d}-{k}.mp4", video.to_uint8(clip), fps=model.config.fps)

    def _alike(self, count: int) -> list[Example]:
        """At most so many held-out clips, all of the largest shape, as the requests made of them have to agree."""
        largest = self.heldout.groups()[0]
        return [self.heldout[largest[k]] for k in spread(len(largest), count)]

    def _to_refine(self, model: VideoModel, count: int) -> list[Request]:
        """Requests to refine held-out clips of low resolution."""
        refined, requests = refines(model.config), []
        for k, example in enumerate(self._alike(count)):
            clip = example.video[:, : model.config.frames]
            size, prompt = (clip.shape[2], clip.shape[3]), example.caption if takes_words(model.spec) else None
            told = {REFINED: low_clip(clip, refined)}
            requests.append(Request(prompt, frames=clip.shape[1], size=size, seed=k, conditions=told))
        return requests

    def export(self, folder: Path, step: int, ranks: Ranks) -> None:
        """Write the model folder; sharded weights are gathered first, and LoRA's changes merged."""
        if self.assembly.text is not None:
            self.assembly.text.flush()
        whole = full_state(self.network, ranks)
        state = merge_lora(whole, self.low_rank.scale)
        if not ranks.first:
            return
        model = self.model()
        if ranks.size > 1 or self.count.lora:
            model.denoiser, model.composed = build_denoiser(self.recipe.denoiser), None
            model.parts = {name: build_part(part, model.denoiser) for name, part in self.recipe.parts.items()}
            model.network.load_state_dict(state)
        model.save(folder)
        if self.count.lora:
            start = "denoiser." if self.beside else ""
            changes = {name.removeprefix(start): change for name, change in changes_of(whole).items()}
            self._write_adapter(model.denoiser, changes, folder.parent / "adapter")

    def _write_adapter(self, plain: Denoiser, changes: Mapping[str, Change], folder: Path) -> None:
        """The low-rank changes by themselves, in peft's form with the names that other programs expect."""
        from kinolab.checkpoints.adapters import part_of, public_changes, usual_layout, write_adapter

        layers = public_changes(usual_layout(plain, "peft"), changes)
        scale = self.low_rank.scale
        told = {name: replace(layer, alpha=layer.rank * scale) for name, layer in layers.items()}
        write_adapter(folder, told, "peft", part_of(plain), f"{self.recipe.name}, LoRA")


def _version() -> str:
    from kinolab import __version__

    return __version__
