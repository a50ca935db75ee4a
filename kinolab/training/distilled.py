"""What all ways of distillation have in common: the recipe, which is filled in from the teacher, and the teacher.

A student begins as its teacher, all of it or with low-rank changes beside its layers, and learns from the same clips
and prompts to come in few steps, each a single call, to where the teacher comes in many calls of two branches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import model_validator
from torch import Tensor

from kinolab.conditioning import Setting, dropped
from kinolab.conditioning.guidance_scale import GuidanceScaleConfig
from kinolab.config import merged
from kinolab.contracts.conditions import PROMPT, Conditions
from kinolab.denoisers import Denoiser
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import Diffusion
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig
from kinolab.methods.guidance import ASKED, mix
from kinolab.models import ModelConfig, find_model, read_model_config
from kinolab.models.distilled import GUIDANCE, of_students
from kinolab.training.recipe import DenoiserRecipe

SHARED: Any = {
    "diffusion", "text_encoder", "image_encoder", "null_prompt", "class_names", "tasks", "conditions"
}  # fmt: skip
"""Fields of a model that its student has too."""


class DistilRecipe(DenoiserRecipe):
    """Distils a model. What is left out comes from the teacher's folder: its autoencoder, denoiser, diffusion, text
    encoder, conditions and tasks; the student starts with its weights."""

    teacher: Path
    """The model that is learned from: a model folder, a run folder, or the name of one that ships."""
    guidance: float | tuple[float, float] | None = None
    """Guidance that is distilled in: one scale, or the least and the most of a range, of which the student is told one
    as its condition guidance_scale; none = as the teacher is guided by default. 1 = no guidance."""
    method: ClassVar[str]
    """What the method is called in a model folder."""
    sampler: ClassVar[str] = "ddim"
    """The sampler that the student is for."""
    also: ClassVar[tuple[str, ...]] = ()
    """Other samplers that suit it."""

    @model_validator(mode="before")
    @classmethod
    def _of_teacher(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("teacher"), str | Path):
            return values
        if values.get("guidance") is None:  # as where nothing is said of it
            values = {name: value for name, value in values.items() if name != "guidance"}
        try:
            return merged(cls.filled(values), values)
        except InputError as error:
            raise ValueError(f"teacher: {error}") from None

    @model_validator(mode="after")
    def _check_guidance(self) -> DistilRecipe:
        told = self.conditions.get(GUIDANCE)
        if self.guidance is None or not isinstance(told, GuidanceScaleConfig):
            return self
        if self.guidance != (told.least, told.most):
            asked = self.guidance if isinstance(self.guidance, tuple) else (self.guidance,)
            raise ValueError(
                f"guidance: {', '.join(f'{scale:g}' for scale in asked)}, and by conditions.{GUIDANCE} the student is "
                f"told scales from {told.least:g} to {told.most:g}; a recipe that was filled in for a range keeps to "
                "it: leave guidance out, or begin with a recipe that names its teacher alone"
            )
        return self

    @classmethod
    def filled(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a recipe that its teacher settles, whatever else the recipe says.

        Raises:
            InputError: for a teacher that can't be distilled.
        """
        place = str(values["teacher"])
        model = read_model_config(find_model(place))
        check_teacher(place, model)
        assert model.denoiser is not None
        told, denoiser = model.model_dump(mode="json", include=SHARED), model.denoiser.model_dump(mode="json")
        asked = values.get("guidance")
        if asked is None and model.distilled is not None:
            asked = model.distilled.guidance
        if isinstance(asked, list | tuple) and len(asked) == 2:
            low, high = asked
            if "vectors" not in denoiser:
                raise InputError(f"a {model.denoiser.kind} can't be told a guidance scale: distil one scale")
            denoiser["vectors"] = {**denoiser["vectors"], GUIDANCE: 0}
            known = told["conditions"].get(GUIDANCE)
            own = model.guidance.scale if model.guidance.active else low
            usual = {"least": low, "most": high, "scale": min(max(own, low), high)}
            told["conditions"] = {**told["conditions"], GUIDANCE: known or usual}
        return {
            "autoencoder": place,
            "denoiser": denoiser,
            "initial": {"path": place},
            **told,
            "missing_captions": "unconditional",
            "missing_labels": "unconditional",
            "samples": {
                "sampler": {"name": cls.sampler, "steps": max(cls.made_for(values)), "spacing": "trailing"},
                "methods": of_students(model.model_dump(mode="json", include={"methods"})["methods"]),
            },
        }

    @classmethod
    def made_for(cls, values: Mapping[str, Any]) -> tuple[int, ...]:
        """The numbers of steps that a student of a recipe with these values is for."""
        raise NotImplementedError

    @classmethod
    def asked(cls, steps: int, model: ModelConfig) -> dict[str, Any]:
        """Fields of a recipe whose student is for so many steps, as `kinolab distill` fills them in."""
        raise NotImplementedError

    def check(self, model: ModelConfig) -> None:
        """Raises InputError where its teacher, of this config, can't teach what is asked; before anything is read."""

    def guided(self, model: ModelConfig) -> bool:
        """Whether there is guidance to learn from the teacher, which has not learned it itself."""
        if model.distilled is not None and model.distilled.guidance is not None:
            return False
        return model.guidance.active if self.guidance is None else self.guidance != 1

    @property
    def begun(self) -> Path:
        """The model whose weights the student begins with: its teacher, or another student that `initial` names."""
        return self.teacher if self.initial is None else Path(self.initial.path)

    @property
    def ranged(self) -> bool:
        """Whether the student is told the scale of guidance."""
        return GUIDANCE in self.conditions


def check_teacher(place: str, model: ModelConfig) -> None:
    """Raises InputError for a model that can't be distilled; says what would do."""
    if model.denoiser is None:
        raise InputError(f"{place}: an autoencoder alone; expected a model with a denoiser")
    if model.stages:
        raise InputError(f"{place}: a cascade; distil its stages one by one, from the folders that they come from")
    if model.lora:
        raise InputError(f"{place}: has adapters beside its layers; fold them in first: kinolab pack --lora")
    if model.experts or model.parts:
        what = "experts" if model.experts else "parts beside its denoiser"
        raise InputError(f"{place}: has {what}; expected a model of one denoiser")


class Teacher:
    """A frozen denoiser with the guidance that it is sampled with.

    Args:
        network: its weights are not changed here.
        diffusion: the path and prediction, which the student shares.
        guidance: what a prediction is guided by where no scales are told.
        told: whether it is told the scale as the condition guidance_scale, so that nothing is guided beside.
    """

    def __init__(self, network: Denoiser, diffusion: Diffusion, guidance: GuidanceConfig, *, told: bool) -> None:
        self.network, self.diffusion, self.guidance, self.told = network.eval(), diffusion, guidance, told
        if guidance.scales:
            raise InputError("guidance.scales: one scale for each condition can't be distilled; give one for all")
        if guidance.oscillate is not None and not told:
            raise InputError(
                "guidance.oscillate: a scale that goes up and down from step to step can't be distilled; give one with "
                f"guidance={guidance.scale:g}"
            )
        ports = network.spec.ports
        missing = [name for name in guidance.towards if not any(member in ports for member in members(name))]
        if guidance.active and missing:
            raise InputError(
                f"the teacher is told no {'prompt and no label' if missing[0] == ASKED else missing[0]}, so that it "
                "can't be guided: use guidance 1"
            )

    @torch.no_grad()
    def predict(
        self, z: Tensor, t: Tensor, conditions: Conditions, setting: Setting, scales: Tensor | None = None
    ) -> Tensor:
        """The guided prediction (B, C, T, H, W), of the diffusion's type, without a learned variance.

        Args:
            z: (B, C, T, H, W), noisy at times t (B,), in the path's units.
            conditions: what the student is told; a teacher that has no port for the scale is not told it.
            setting: what conditions are made with, for those that guidance moves away from.
            scales: (B,) of each row; none = the config's guidance.

        Raises:
            InputError: where the denoiser's channels are others than the diffusion expects.
        """
        if GUIDANCE not in self.network.spec.ports:
            conditions = conditions.without((GUIDANCE,))
        guided = not self.told and (self.guidance.active if scales is None else bool((scales != 1).any()))
        whole = self._call(z, t, conditions)
        if not guided:
            return whole
        away = self._call(z, t, self.away(conditions, z, setting))
        if scales is not None:
            return away + scales.to(z).view(-1, 1, 1, 1, 1) * (whole - away)
        low, high = self.guidance.interval
        fractions = [self.diffusion.path.fraction(float(time)) for time in t]
        inside = torch.tensor([low - 1e-9 <= f <= high + 1e-9 for f in fractions], device=z.device)
        return torch.where(inside.view(-1, 1, 1, 1, 1), mix([away], whole, self.guidance), whole)

    def _call(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        output = self.network(z, t.to(z.device, torch.float32), conditions).to(z.dtype)
        return self.diffusion.split(output, z.shape[1])[0]

    def away(self, conditions: Conditions, z: Tensor, setting: Setting) -> Conditions:
        """What guidance moves away from: the same without the conditions that it goes towards."""
        rows = torch.ones(len(z), dtype=torch.bool, device=z.device)
        for name in self.guidance.towards:
            conditions = dropped(conditions, rows, setting) if name == ASKED else conditions.with_null(rows, (name,))
        return conditions


def members(name: str) -> tuple[str, ...]:
    """The conditions that a name of guidance means."""
    return PROMPT if name == ASKED else (name,)


def student_of(teacher: Denoiser, config: Any, ports: Collection[str] = (GUIDANCE,)) -> Denoiser:
    """A denoiser with all of the teacher's weights; what it may have more are these ports, which begin as nothing.

    Raises:
        InputError: where another denoiser is asked for.
    """
    student, weights = build_denoiser(config), teacher.state_dict()
    fits = {name: value for name, value in student.state_dict().items() if not set(ports) & set(name.split("."))}
    wrong = [n for n, v in fits.items() if n not in weights or weights[n].shape != v.shape]
    wrong += [n for n in weights if n not in student.state_dict()]
    if wrong:
        raise InputError(f"denoiser: a student is made like its teacher; these differ: {', '.join(wrong[:6])}")
    student.load_state_dict(weights, strict=False)
    return student
