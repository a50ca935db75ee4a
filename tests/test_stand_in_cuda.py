"""Everything that computes does so where it is put: forward passes, sampling, training losses and held-out numbers by a
CUDA device that isn't there (`stand_in_cuda`), so that a tensor left on the CPU is seen without a card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import cases_models, cases_networks
from benchmarks.gpu.cases import Case, tensors
from kinolab.autoencoders import DpVae, DpVaeConfig, ImageConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.data.shard_encoder import ShardEncoder
from kinolab.diffusion import SamplerConfig
from kinolab.layers.key_frames import KeyFrameConfig
from kinolab.methods import GuidanceConfig
from kinolab.models import Request, save_autoencoder
from kinolab.runtime.ranks import Ranks
from kinolab.tasks import encode_given
from kinolab.training.jobs.autoencoder import calibrate
from kinolab.training.recipe import load_recipe
from kinolab.training.run import make_job
from tests.stand_in_cuda import CUDA, StandIn
from tests.tiny_model import tiny_model, tiny_vdt
from tests.training.tiny import autoencoder_recipe, denoiser_recipe, odvae_recipe, tasks_recipe

pytestmark = pytest.mark.slow  # many short ones, which take long together

HEAVY = ("i3d", "c3d", "inception", "clip text", "t5 encoder", "lpips: vgg16")
"""Networks of millions of weights; they are compared on a real card."""
ALIKE = (
    "latte: interleaved, labels", "latte: interleaved, checkpointing", "vdt: labels", "vdt: given: mask",
    "mmdit: 3d, learned table, sincos", "odvae: all3d, encode", "odvae: all3d, decode", "odvae: half2d, encode",
    "odvae: half2d, decode", "odvae: outer2d, encode", "odvae: outer2d, decode", "tats: batch norm, decode",
    "tats: batch norm, before its codes", "sampler: ddim, eta 0.5", "sampler: euler, flow", "loss: ddim",
    "loss: dpmpp_2m", "loss: euler", "loss: heun",
)  # fmt: skip
"""Cases that make no tensor that another case doesn't make."""


def light_cases() -> Iterator[Case]:
    """The benchmark's cases but heavy ones, and one whose gradient a device that isn't there can't give."""
    for maker in (cases_models.denoisers, cases_models.autoencoders, cases_networks.networks, cases_networks.sampling):
        yield from (c for c in maker(True) if c.name not in HEAVY + ALIKE and not c.name.startswith("steering"))


@pytest.mark.parametrize("case", list(light_cases()), ids=lambda case: case.name)
def test_a_forward_pass_stays_on_its_device(case: Case) -> None:
    there, module, inputs = StandIn(), case.build(), case.inputs()
    with torch.no_grad(), there:
        outputs = tensors(case.run(there.module(module), *there.moved(inputs)))
    assert outputs and all(o.device.type == "cuda" or case.name.startswith("psnr") for o in outputs)


def test_the_stand_in_sees_what_is_left_on_the_processor() -> None:
    there = StandIn()
    with torch.no_grad(), there:
        layer, x = there.module(torch.nn.Linear(2, 2)), there.empty(torch.ones(3, 2))
        assert layer(x).device.type == "cuda" and (x + 1.0).device.type == "cuda" and x[1:, 0].shape == (2,)
        assert x.to("cpu").device.type == "cpu" and torch.ones(2, device="cuda").device.type == "cuda"
        for wrong in (
            lambda: layer(torch.ones(3, 2)), lambda: x + torch.ones(3, 2), lambda: torch.cat([x, torch.ones(3, 2)]),
            lambda: torch.where(torch.ones(3, 1) > 0, x, x),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match="device"):
                wrong()


def put(model: Any, there: StandIn) -> Any:
    """A model moved to the device that isn't there."""
    model.device = CUDA
    there.module(model.autoencoder)
    there.module(model.denoiser)
    return model


def test_a_request_is_fulfilled_there() -> None:
    there = StandIn()
    with torch.no_grad(), there:
        model = put(tiny_model(), there)
        requests = [Request(prompt="a red ball", label=1), Request(prompt="a blue box", negative="a ramp", seed=2)]
        guidance = GuidanceConfig(scale=3.0, rescale=0.5)
        latents = model.sample_latents(requests, sampler=SamplerConfig(name="heun", steps=2), guidance=guidance)
        assert model.decode(latents).device.type == "cuda"


@pytest.mark.parametrize("given", ["channels", "mask", "tokens"])
def test_a_given_part_is_taken_there(given: str) -> None:
    there = StandIn()
    mask = torch.ones(2, 1, 5, 32, 32)
    mask[:, :, 0] = 0
    with torch.no_grad(), there:
        model = put(tiny_vdt(given), there)
        latents, folded = encode_given(model.autoencoder, torch.zeros(2, 3, 5, 32, 32).to(CUDA), mask.to(CUDA))
        told = model.conditions([Request(seed=0), Request(seed=1)]).replace(given=latents, mask=folded)
        noise, t = torch.zeros(2, 4, 2, 8, 8).to(CUDA), torch.zeros(2).to(CUDA)
        assert model.denoiser(noise, t, told).device.type == "cuda"


def test_groups_are_found_and_aligned_there() -> None:
    image = ImageConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
    config = DpVaeConfig(image=image, temporal_ratio=2, group_frames=3, key_frames=KeyFrameConfig(rule="best"))
    there = StandIn()
    with torch.no_grad(), there:
        model: Any = there.module(DpVae(config).eval())
        clip = torch.zeros(1, 3, 6, 8, 8).to(CUDA)
        assert model.decode_groups(model.encode_groups(clip)).device.type == "cuda"
        terms = model.regularisation(clip[:, :, :3], model.encode(clip[:, :, :3]))
    assert terms and {term.value.device.type for term in terms.values()} == {"cuda"}


def job_there(recipe: dict[str, Any], there: StandIn) -> Any:
    """A training job, everything it trains and uses moved to the device that isn't there."""
    job: Any = make_job(load_recipe(recipe))
    for part in job.parts.values():
        part.wrapped = there.module(part.module)
    for name in ("autoencoder", "losses"):
        there.module(getattr(job, name, torch.nn.Identity()))
    return job


@pytest.mark.parametrize("recipe", [autoencoder_recipe, odvae_recipe])
def test_an_autoencoder_is_trained_there(recipe: Any) -> None:
    there, ranks = StandIn(), Ranks(device=CUDA)
    job = job_there(recipe(), there)
    with torch.no_grad(), there:
        [batch] = next(job.batches(0, ranks))
        for step in (0, 1):
            assert {job.loss(name, batch, step)[0].device.type for name in job.parts} == {"cuda"}
        assert set(job.evaluate(ranks)) == {"psnr", "ssim"}
        calibrate(job.autoencoder, [job.source[0].video])
        encoder = ShardEncoder(job.source, job.autoencoder, 2, "bfloat16", True, "float32", CUDA)
        stored = encoder.encode(torch.stack([job.source[0].video] * 2))
    assert {value.device.type for value in stored.values()} == {"cpu"}, "a cache is written from the processor"


def recipes_of(autoencoder: Path) -> dict[str, dict[str, Any]]:
    """A denoiser's recipe for each thing that a batch may hold."""
    found = {name: denoiser_recipe(autoencoder) for name in ("joint images", "frames", "prompts")}
    found["joint images"] |= {"image_frames": 2, "label_dropout": 0.5}
    found["frames"] |= {"frames_per_clip": 2, "diffusion": {"learned_variance": True, "loss": "mse_vb"}}
    found["frames"]["denoiser"] |= {"num_frames": 1, "learned_variance": True}
    found["prompts"] |= {"text_encoder": "minilm", "null_prompt": "empty"}
    found["prompts"]["denoiser"]["text_dim"] = 384
    return {**found, "tasks": tasks_recipe(autoencoder)}


@pytest.mark.parametrize("name", ["joint images", "frames", "prompts", "tasks"])
def test_a_denoiser_is_trained_and_held_out_there(tmp_path: Path, name: str) -> None:
    autoencoder: Any = load_recipe(autoencoder_recipe())
    save_autoencoder(build_autoencoder(autoencoder.autoencoder), tmp_path / "autoencoder")
    there, ranks = StandIn(), Ranks(device=CUDA)
    job = job_there(recipes_of(tmp_path / "autoencoder")[name], there)
    with torch.no_grad(), there:
        [batch] = next(job.batches(0, ranks))
        assert job.loss("denoiser", batch, 0)[0].device.type == "cuda"
        assert "loss" in job.evaluate(ranks)
