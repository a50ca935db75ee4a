"""Every part on a device that is not the CPU: no float64 there, nothing left behind on the CPU, the same answers."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab import denoisers
from kinolab.data import encode_to_cache
from kinolab.denoisers import Conditions
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.samplers import SAMPLERS
from kinolab.layers.embeddings import rotary_table, sincos_1d, video_rotary_table
from kinolab.methods import Guidance, GuidanceConfig
from kinolab.metrics.flow import visible, warp
from kinolab.metrics.quality import DynamicDegree, MotionSmoothness, TemporalFlickering, consistency
from kinolab.metrics.reconstruction import Psnr, Ssim, Ssim3d
from kinolab.metrics.temporal import Flicker, FrameDifference, FrequencyProfile, GridArtefacts, WarpError
from kinolab.models import Request
from kinolab.tasks import TasksConfig
from tests.closeness import assert_close
from tests.data.test_cache import MeanAutoencoder
from tests.stand_in_device import MPS, StandInDevice
from tests.test_contracts import AUTOENCODERS, DENOISERS, built
from tests.tiny_model import tiny_model, tiny_vdt

OTHER = 1e-4
"""What the same float32 result may differ by: some layers take another way on the CPU, in layout or kernel."""


def test_the_stand_in_refuses_what_the_device_does() -> None:
    double, single = torch.zeros(2, dtype=torch.float64), torch.zeros(2)
    refused: list[tuple[type[Exception], str, Any]] = [
        (TypeError, "float64", lambda: double.to(MPS)),
        (TypeError, "float64", lambda: torch.arange(3, dtype=torch.float64, device="mps")),
        (TypeError, "float64", lambda: single.to(MPS).double()),
        (TypeError, "float64", lambda: single.to(MPS).mean(dtype=torch.float64)),
        (RuntimeError, "one device", lambda: single.to(MPS) + torch.zeros(2)),
        (RuntimeError, "one device", lambda: torch.where(torch.zeros(2) > 0, single.to(MPS), single.to(MPS))),
        (RuntimeError, "generator", lambda: torch.randn(2, generator=torch.Generator(), device=MPS)),
        (TypeError, "numpy", lambda: single.to(MPS).numpy()),
    ]
    with StandInDevice():
        for kind, text, action in refused:
            with pytest.raises(kind, match=text):
                action()
        there = double.to(MPS, torch.float32) + 2.0 * torch.ones((), dtype=torch.float64)
        assert there.device == MPS and there.diff().device == MPS and there.cpu().device == torch.device("cpu")
        layer = torch.nn.Linear(2, 2).to("mps")
        assert layer.weight.device == MPS and layer(there).device == MPS and single.device == torch.device("cpu")


def moved(conditions: Conditions) -> Conditions:
    return conditions.to(MPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in AUTOENCODERS if name != "diffusers"])  # those are not ours
def test_autoencoders(name: str) -> None:
    model = built(name)
    spec = model.spec
    clip = torch.rand(1, 3, 2 * spec.frame_step + spec.first_frame, 16, 16) * 2 - 1
    with torch.no_grad(), StandInDevice():
        expected = model.decode(model.encode(clip).mean)
        model.to(MPS)
        posterior = model.encode(clip.to(MPS))
        sample = posterior.sample(torch.Generator().manual_seed(0))
        assert sample.device == posterior.mean.device == MPS
        assert_close(model.decode(posterior.mean).cpu(), expected, OTHER)


CONVOLUTIONAL = (
    "unet",
    "svd",
    "modelscope",
    "animatediff",
    "video_ldm",
    "makeavideo",
    "imagen_video",
    "tuneavideo",
    "vdm",
    "space_time_unet",
)
"""The denoisers that have no table of positions for one size."""
POSITIONS: dict[str, list[dict[str, str]]] = {
    "latte": [{}, {"temporal_position": "rotary"}],
    "mmdit": [{}, {"temporal_position": "rotary"}, {"spatial_position": "rotary"}],
}


@pytest.mark.parametrize(
    ("name", "changes"), [(name, changes) for name in DENOISERS for changes in POSITIONS.get(name, [{}])], ids=str
)
@pytest.mark.slow
def test_denoisers(name: str, changes: dict[str, str]) -> None:
    """A clip longer and larger than in training, whose positions are made anew."""
    config: Any = DENOISERS.get(name)
    model = denoisers.build(config.model_copy(update=changes))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    z, t = torch.randn(2, model.spec.channels, 4, 6, 6), torch.tensor([3.0, 900.0])
    text = torch.randn(2, 3, 8) if model.spec.text_dim else None
    conditions = Conditions(label=torch.tensor([1, 2]), text=text)
    stretched = nullcontext() if name in CONVOLUTIONAL else pytest.warns(UserWarning, match="interpolated")
    with stretched, StandInDevice():
        expected = model(z, t, conditions).detach()
        model.to(MPS)
        out = model(z.to(MPS), t.to(MPS), moved(conditions))
        out.square().mean().backward()
        assert_close(out.detach().cpu(), expected, OTHER)
        assert all(p.grad is None or p.grad.device == MPS for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name: str, schedule: Any) -> None:
    learned = schedule == "linear" and name == "ddpm"
    config = DiffusionConfig(
        schedule=schedule, prediction="v", learned_variance=learned, loss="mse_vb" if learned else "min_snr"
    )
    diffusion, noise = Diffusion(config), torch.randn(2, 2, 1, 2, 2)

    def denoiser(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        v = torch.tanh(z) * (t / 1000).view(-1, 1, 1, 1, 1)
        return torch.cat([v, 0.1 * v], dim=1) if learned else v

    def sampled(z: Tensor) -> Tensor:
        told = Conditions(label=torch.zeros(2, dtype=torch.long, device=z.device))
        return diffusion.sample(
            denoiser, z, told, sampler=SamplerConfig(name=name, steps=4), methods=[Guidance(GuidanceConfig(scale=2.0))],
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    def losses(z: Tensor) -> Tensor:
        drawn = torch.Generator().manual_seed(0)
        trained = diffusion.loss(denoiser, z, Conditions(), generator=drawn)["loss"]
        held = diffusion.loss_at(denoiser, z, Conditions(), generator=drawn)
        return torch.cat([trained.cpu(), torch.tensor(list(held.values()))])

    with StandInDevice():
        assert_close(sampled(noise.to(MPS)).cpu(), sampled(noise))
        assert_close(losses(noise.to(MPS)), losses(noise))


def test_positions_are_made_in_float64_and_sent_in_float32() -> None:
    with StandInDevice():
        places = torch.arange(5.0)
        for here, there in zip(
            (sincos_1d(places, 8), *rotary_table(places, 8), *video_rotary_table(places, (2, 2), 1, 1, 8)),
            (sincos_1d(places.to(MPS), 8), *rotary_table(places.to(MPS), 8),
             *video_rotary_table(places.to(MPS), (2, 2), 1, 1, 8)),
            strict=True,
        ):  # fmt: skip
            assert there.device == MPS and there.dtype == torch.float32 and torch.equal(there.cpu(), here)


@pytest.mark.parametrize("kind", ["text", "given", "steered", "pixels"])
@pytest.mark.slow
def test_a_model_generates_what_it_does_on_the_cpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinolab.methods import SteeringConfig

    model = tiny_model() if kind == "text" else tiny_vdt("channels", TasksConfig(predict=1))
    video, mask = torch.rand(1, 3, 5, 32, 32) * 2 - 1, torch.ones(1, 1, 5, 32, 32)
    mask[:, :, :1] = 0
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)

    def made() -> Tensor:
        if kind == "text":
            return model.generate(["a red ball", "a blue box"], negative="a hat", seed=1)
        steering = None if kind == "given" else SteeringConfig(error="pixels" if kind == "pixels" else "latents")
        return model.complete(video, mask, [Request(seed=1)], steering=steering)

    with StandInDevice() as device:
        expected = made()
        assert device.sent == 0
        clips = made() if model.to("mps") is model else expected
        assert model.device == clips.device == MPS and next(model.denoiser.parameters()).device == MPS
        assert_close(clips.cpu(), expected, 10 * OTHER if kind in ("steered", "pixels") else OTHER)


@pytest.mark.slow
@pytest.mark.parametrize(
    "metric",
    [Psnr, Ssim, Ssim3d, Flicker, FrameDifference, WarpError, FrequencyProfile, lambda: GridArtefacts(4),
     TemporalFlickering, MotionSmoothness, DynamicDegree],
    ids=lambda m: getattr(m, "__name__", "GridArtefacts"),
)  # fmt: skip
def test_metrics(metric: Any) -> None:
    moving = torch.rand(1, 3, 1, 1, 40).expand(2, 3, 1, 32, 40)
    clips = torch.cat([moving.roll(k, -1)[..., :32] for k in range(12)], dim=2).contiguous() * 2 - 1
    spoiled = (clips + 0.05 * torch.randn_like(clips)).clamp(-1, 1)
    pair = metric().update.__code__.co_argcount == 3

    def scored(device: torch.device) -> list[float]:
        measure = metric()
        measure.update(*(c.to(device) for c in ((clips, spoiled) if pair else (clips,))))
        return list(measure.per_clip) if hasattr(measure, "per_clip") else [measure.compute().value]

    with StandInDevice():
        assert_close(scored(MPS), scored(torch.device("cpu")))


def test_functions_that_metrics_are_made_of() -> None:
    images, flows = torch.rand(2, 3, 20, 20), torch.rand(2, 20, 20, 2)
    with StandInDevice():
        for made in (warp, lambda i, f: visible(f, -f).float(), lambda i, f: consistency(i.flatten(2)[0])):
            assert_close(
                torch.as_tensor(made(images.to(MPS), flows.to(MPS))).cpu(), torch.as_tensor(made(images, flows)), 1e-4
            )


def test_encoding_into_a_cache(tmp_path: Path) -> None:
    from kinolab.data import CacheConfig, CacheSource, WorldSourceConfig, build
    from kinolab.toyworld.clips import WorldConfig

    source: Any = build(WorldSourceConfig(world=WorldConfig(size=32, frames=5), count=3), MeanAutoencoder().spec)
    with StandInDevice() as device:
        for name in ("cpu", "mps"):
            network = MeanAutoencoder().to(name)
            encode_to_cache(source, network, tmp_path / name, dtype="float32", device=torch.device(name))
        assert device.sent
    caches = [CacheSource(CacheConfig(path=tmp_path / name, split="all")) for name in ("cpu", "mps")]
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(*caches, strict=True))
