"""Distillation of any denoiser: what its methods share. Each of them says what its student learns (`loss`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from kinolab.autoencoders.base import Autoencoder
from kinolab.contracts.events import Events
from kinolab.contracts.examples import Source
from kinolab.denoisers import Denoiser
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig
from kinolab.models import VideoModel, find_model, load_denoiser, read_model_config
from kinolab.models.distilled import GUIDANCE, DistilledConfig, write_adapter_record
from kinolab.runtime.ranks import Ranks
from kinolab.training.assembly import Batch
from kinolab.training.batches import MicroBatch
from kinolab.training.distilled import DistilRecipe, Teacher, student_of
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.trainer import Part


class DistilJob(DenoiserJob):
    """Base of the methods: a student `denoiser`, which begins as the frozen `teacher`, on the batches of a recipe."""

    Recipe: ClassVar[type[DistilRecipe]]
    recipe: DistilRecipe
    teacher: Teacher
    told: bool
    """Whether the model that is distilled has its guidance in it, as a student itself."""

    @classmethod
    def start(cls, recipe: DistilRecipe, events: Events) -> Denoiser:  # type: ignore[override]
        """The student with the teacher's weights, or those of another student that `initial` names."""
        if recipe.trained == "parts" or recipe.parts:
            raise InputError("parts: a student is its teacher in fewer steps, without parts beside it; leave them out")
        first = recipe.teacher if recipe.initial is None else recipe.initial.path
        return student_of(load_denoiser(first, device="cpu"), recipe.denoiser)

    def __init__(
        self, recipe: DistilRecipe, autoencoder: Autoencoder, denoiser: Denoiser, source: Source, heldout: Source
    ) -> None:
        super().__init__(recipe, autoencoder, denoiser, source, heldout)
        for name, parameter in denoiser.named_parameters():
            if GUIDANCE in name.split("."):  # a fresh port is trained, whatever else is
                parameter.requires_grad_(True)
        self.teacher = self.first_teacher()
        self.told = self.teacher.told
        if recipe.trained in ("lora", "adapter") and recipe.ranged:
            note = (
                "the adapter will hold changes of layers alone, and not what reads guidance_scale: use the model folder"
            )
            self.notes = (*self.notes, note)
        if recipe.trained in ("lora", "adapter") and recipe.begun != recipe.teacher:
            note = (
                f"the adapter will hold changes of {recipe.begun}, which the student begins with, and not of "
                f"{recipe.teacher}: put it on that model alone, or make one of all changes with: kinolab lora extract "
                f"{recipe.teacher} RUN --rank R"
            )
            self.notes = (*self.notes, note)
        self.parts = {"denoiser": Part(self.network, frozen_elsewhere=recipe.trained != "all")}

    def first_teacher(self) -> Teacher:
        """The recipe's teacher, guided as the recipe says, frozen."""
        model = read_model_config(find_model(self.recipe.teacher))
        network = load_denoiser(self.recipe.teacher, device="cpu").requires_grad_(False)
        told, asked = model.distilled is not None and model.distilled.guidance is not None, self.recipe.guidance
        if told and model.distilled is not None and asked not in (None, model.distilled.guidance):
            raise InputError(
                f"guidance: the teacher is distilled itself ({model.distilled}); leave guidance out, and its student "
                "has the same"
            )
        guidance = model.guidance if asked is None or told else GuidanceConfig()
        if not told and isinstance(asked, float | int):
            one = {"scale": float(asked), "frames": (), "scales": (), "oscillate": None}
            guidance = model.guidance.model_copy(update=one)
        elif not told and asked is not None:
            guidance = GuidanceConfig(scale=2.0, of=model.guidance.of)  # of every row its own
        return Teacher(network, self.diffusion, guidance, told=told)

    @property
    def beside_trained(self) -> dict[str, nn.Module]:
        """The autoencoder and the teacher."""
        return {**super().beside_trained, "teacher": self.teacher.network}

    @property
    def distilled(self) -> DistilledConfig:
        """What the model folder says of the student."""
        recipe, own = self.recipe, self.teacher.guidance
        guidance: float | tuple[float, float] | None = recipe.guidance
        if self.told:
            former = read_model_config(find_model(recipe.teacher)).distilled
            guidance = None if former is None else former.guidance
        elif guidance is None and own.active:
            guidance = max((own.scale, *own.frames))
        return DistilledConfig(
            method=recipe.method,
            steps=recipe.made_for(recipe.model_dump(mode="json")),
            guidance=guidance,
            sampler=recipe.sampler,
            also=recipe.also,
            teacher=str(recipe.teacher),
        )

    def scales(self, batch: Batch) -> Tensor | None:
        """The scales (B,) of guidance that the rows of a batch are told; none = all have the recipe's one."""
        w = batch.conditions.tensor(GUIDANCE)
        return None if w is None else w + 1.0

    def target(self, z: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """The teacher's guided estimate of the clean sample (B, C, T, H, W), for z noisy at times t (B,)."""
        prediction = self.teacher.predict(z, t, batch.conditions, self.assembly.setting, self.scales(batch))
        return self.diffusion.to_sample(prediction, z, t.double())

    def batches(self, first_step: int, ranks: Ranks) -> Iterator[list[MicroBatch]]:
        """This process's micro-batches; the teacher goes where they are."""
        self.teacher.network.to(ranks.device)
        return super().batches(first_step, ranks)

    def export(self, folder: Path, step: int, ranks: Ranks) -> None:
        """Write the model folder, and beside an adapter that makes the whole student of its teacher what it is for."""
        super().export(folder, step, ranks)
        adapter = folder.parent / "adapter"
        whole = not self.recipe.ranged and self.recipe.begun == self.recipe.teacher
        if ranks.first and adapter.is_dir() and whole:
            write_adapter_record(adapter, self.model().config)

    def model(self) -> VideoModel:
        """The student as it stands, with what it was made for."""
        model = super().model()
        model.config = model.config.model_copy(update={"distilled": self.distilled})
        return model
