"""The cases of everything else that computes on a device: text encoders, networks of metrics and losses, sampling, the
shipped weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.cases import Case, fresh, seeded
from benchmarks.gpu.cases_models import CLASSES, Sizes
from kinolab.autoencoders.base import Posterior
from kinolab.conditioning.text.clip import ClipText, ClipTextConfig
from kinolab.conditioning.text.minilm import Bert
from kinolab.conditioning.text.t5 import T5Text, T5TextConfig
from kinolab.denoisers import Conditions, Latte, LatteConfig
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.methods import Guidance, GuidanceConfig, Held, Method, SteeringConfig, StepCache, StepCacheConfig
from kinolab.metrics.extractors.c3d import C3d
from kinolab.metrics.extractors.encoder import VideoEncoder, VideoEncoderConfig, shipped_encoder
from kinolab.metrics.extractors.i3d import I3d
from kinolab.metrics.extractors.inception import InceptionV3
from kinolab.metrics.perceptual import NETWORKS, Network, PerceptualDistance
from kinolab.metrics.reconstruction import Psnr, Ssim
from kinolab.models import VideoModel, read_model_config, shipped_models
from kinolab.training.autoencoder_loss import AdversarialConfig, AutoencoderLoss, AutoencoderLossConfig
from kinolab.training.discriminator import DiscriminatorConfig
from kinolab.training.muon import orthogonalize

SAMPLERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ddpm, learned variance": ({"learned_variance": True, "loss": "mse_vb"}, {"name": "ddpm", "steps": 6}),
    "ddim, eta 0.5": ({}, {"name": "ddim", "steps": 6, "eta": 0.5}),
    "dpmpp_2m": ({"prediction": "v"}, {"name": "dpmpp_2m", "steps": 6}),
    "euler, flow": ({"schedule": "flow", "prediction": "flow"}, {"name": "euler", "steps": 6}),
    "heun, flow": ({"schedule": "flow", "prediction": "flow"}, {"name": "heun", "steps": 4}),
    "stochastic, flow": ({"schedule": "flow", "prediction": "flow"}, {"name": "stochastic", "steps": 4}),
    "consistency, flow": (
        {"schedule": "flow", "prediction": "flow"},
        {"name": "consistency", "steps": 4, "shift": 3.0},
    ),
}
"""Name -> fields of the diffusion, fields of the sampler."""


def networks(small: bool) -> Iterator[Case]:
    """Text encoders, networks of metrics, and losses."""
    yield from _text(small)
    frames, batch = (9, 1) if small else (16, 2)
    i3d = lambda: (seeded(30, batch, 3, frames, 224, 224).clamp(-1, 1),)  # noqa: E731
    c3d = lambda: (40 * seeded(31, batch, 3, 16, 112, 112),)  # noqa: E731
    inception = lambda: (seeded(32, batch, 3, 299, 299).clamp(-1, 1),)  # noqa: E731
    yield Case("i3d", fresh(I3d, 0.002), i3d, lambda m, x: m.classify(m.pooled(x)), gradients=False)
    yield Case("c3d", fresh(C3d, 0.002), c3d, lambda m, x: m.activations(x)["fc8"], gradients=False)
    yield Case("inception", fresh(InceptionV3, 0.002), inception, lambda m, x: m.pooled(x), gradients=False)
    encoder = VideoEncoderConfig()
    clip = lambda: (seeded(33, 2, 3, frames, encoder.size, encoder.size).clamp(-1, 1),)  # noqa: E731
    yield Case("video encoder", fresh(lambda: VideoEncoder(encoder)), clip)
    side = 32 if small else 64
    for name, network in NETWORKS.items():
        yield Case(f"lpips: {name}", _lpips(network), lambda: _pair(side, 2), gradients=True)
    yield Case("psnr, ssim", nn.Identity, lambda: _pair(side, 5), _psnr_ssim, gradients=False)
    yield Case("autoencoder's loss, adversarial", _adversarial, lambda: _pair(side, 5), _loss)
    yield Case("muon", nn.Identity, lambda: (seeded(35, 3, side, 2 * side),), lambda m, x: orthogonalize(x))


def _text(small: bool) -> Iterator[Case]:
    ids = torch.arange(14)[None] % 90 + 3
    depth, heads = (2, 2) if small else (6, 12)
    yield Case("minilm", fresh(lambda: Bert(24 * heads, depth, heads, 100)), lambda: (ids,))
    yield Case("clip text", lambda: TextModule("clip", small), lambda: (ids,), gradients=False)
    yield Case("t5 encoder", lambda: TextModule("t5", small), lambda: (ids,), gradients=False)


class TextModule(nn.Module):
    """A random CLIP or T5 of transformers, written to disk and read as Kinolab reads a person's own folder."""

    def __init__(self, kind: str, small: bool) -> None:
        super().__init__()
        import transformers

        width, heads, layers = (16, 2, 2) if small else (256, 4, 4)
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            if kind == "clip":
                config = transformers.CLIPTextConfig(
                    vocab_size=100, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
                    num_attention_heads=heads, projection_dim=width, bos_token_id=98, eos_token_id=99, pad_token_id=0,
                )  # fmt: skip
                transformers.CLIPTextModelWithProjection(config).save_pretrained(folder)
                self.reader: ClipText | T5Text = ClipText(ClipTextConfig(folder=folder, layer="penultimate"))
            else:
                shape = transformers.T5Config(
                    vocab_size=100, d_model=width, d_kv=width // heads, d_ff=2 * width, num_layers=layers,
                    num_heads=heads, feed_forward_proj="gated-gelu",
                )  # fmt: skip
                transformers.T5EncoderModel(shape).save_pretrained(folder)
                self.reader = T5Text(T5TextConfig(folder=folder))
            self.network = self.reader.model
            self.reader.settings  # noqa: B018  (read while the folder is there)

    def forward(self, ids: Tensor) -> Any:
        """ids (1, L) -> states, and CLIP's pooled embedding."""
        self.reader.to(ids.device)
        return self.reader.run(ids[0].tolist())


def _lpips(network: Network) -> Callable[[], nn.Module]:
    widths = (64, 192, 384, 256, 256) if len(network.layers) == 5 else (64, 64, 128, 128, *(256,) * 3, *(512,) * 6)
    first, others = (11, (5, 3, 3, 3)) if len(network.layers) == 5 else (3, (3,) * 12)

    def build() -> nn.Module:
        weights, before = {}, 3
        for k, (layer, width) in enumerate(zip(network.layers, widths, strict=True)):
            side = first if not k else others[k - 1]
            kernel = seeded(40 + k, width, before, side, side) * (2 / (before * side**2)) ** 0.5
            weights[layer.index], before = (kernel, 0.1 * seeded(60 + k, width)), width
        return PerceptualDistance(network, weights).eval()

    return build


def _pair(side: int, frames: int) -> tuple[Tensor, Tensor]:
    clip = seeded(36, 1, 3, frames, side, side).clamp(-1, 1)
    return clip, (clip + 0.2 * seeded(37, *clip.shape)).clamp(-1, 1)


def _psnr_ssim(module: nn.Module, original: Tensor, rebuilt: Tensor) -> Tensor:
    values = []
    for metric in (Psnr(), Ssim()):
        metric.update(original, rebuilt)
        values.append(metric.compute().value)
    return torch.tensor([*values, 0.0])


def _adversarial() -> nn.Module:
    config = AutoencoderLossConfig(
        adversarial=AdversarialConfig(start_step=0, discriminator=DiscriminatorConfig(width=16))
    )
    return fresh(lambda: AutoencoderLoss(config))()


def _loss(module: Any, original: Tensor, rebuilt: Tensor) -> tuple[Tensor, Tensor]:
    posterior = Posterior(original[:, :1], 0.1 * original[:, 1:2])
    rebuilt = rebuilt if rebuilt.requires_grad else rebuilt.clone().requires_grad_(torch.is_grad_enabled())
    loss, _ = module.generator_loss(original, rebuilt, posterior, step=1)
    judged, _ = module.discriminator_loss(original, rebuilt, step=1)
    return loss, judged


def sampling(small: bool) -> Iterator[Case]:
    """The samplers with guidance, the loss, steering and a step cache, each of one small Latte."""
    sizes = Sizes(small)
    for name, (diffusion_fields, sampler_fields) in SAMPLERS.items():
        diffusion = Diffusion(DiffusionConfig(**diffusion_fields))
        variance = diffusion.config.learned_variance
        sampler, guidance = SamplerConfig(**sampler_fields), GuidanceConfig(scale=2.0, rescale=0.5)
        config = LatteConfig(**sizes.fields({"num_classes": CLASSES, "learned_variance": variance}))
        build = fresh(lambda config=config: Latte(config))  # type: ignore[misc]
        inputs = lambda: _noise(sizes)  # noqa: E731
        yield Case(f"sampler: {name}", build, inputs, _sampled(diffusion, sampler, guidance), gradients=False)
        yield Case(f"loss: {name.split(',')[0]}", build, inputs, _training_loss(diffusion))
    flow = Diffusion(DiffusionConfig(schedule="flow", prediction="flow"))
    euler = SamplerConfig(name="euler", steps=4)
    build = fresh(lambda: Latte(LatteConfig(**sizes.fields({"num_classes": CLASSES}))))
    steered = _sampled(flow, euler, GuidanceConfig(), steering="reconstruction")
    cached = _sampled(flow, euler, GuidanceConfig(), cache=True)
    yield Case("steering: reconstruction", build, lambda: _noise(sizes), steered, gradients=False)
    yield Case("step cache", build, lambda: _noise(sizes), cached, gradients=False)


def _noise(sizes: Sizes) -> tuple[Tensor, Conditions]:
    label = torch.arange(sizes.batch) % CLASSES
    return seeded(50, sizes.batch, 4, sizes.frames, sizes.side, sizes.side), Conditions(label=label)


def _sampled(
    diffusion: Diffusion, sampler: SamplerConfig, guidance: GuidanceConfig, *, steering: str = "", cache: bool = False
) -> Callable[..., Tensor]:
    def run(module: nn.Module, noise: Tensor, conditions: Conditions) -> Tensor:
        methods: list[Method] = [Guidance(guidance)]
        if steering:
            known = torch.zeros_like(noise[:, :1], dtype=torch.bool)
            known[:, :, 0] = True
            methods.append(SteeringConfig(method="reconstruction").build(Held(noise.flip(2), known)))
        if cache:
            methods.append(StepCache(StepCacheConfig(every=2)))
        return diffusion.sample(
            module, noise, conditions, sampler=sampler, methods=methods,
            generator=torch.Generator().manual_seed(3), device=noise.device,
        )  # fmt: skip

    return run


def _training_loss(diffusion: Diffusion) -> Callable[..., Tensor]:
    def run(module: nn.Module, noise: Tensor, conditions: Conditions) -> Tensor:
        generator = torch.Generator().manual_seed(4)
        return diffusion.loss(module, 0.5 * noise, conditions, generator=generator)["loss"]

    return run


def shipped(small: bool) -> Iterator[Case]:
    """The shipped models' networks with their own weights, on a clip of moving discs."""
    for name, folder in shipped_models().items():
        if read_model_config(folder).denoiser is None:
            continue
        config = VideoModel.load(name, precision="float32").config
        frames, side = (5, 32) if small else (config.frames, config.size[0])
        clip = _discs_of(frames, side)
        yield Case(f"{name}: autoencoder", lambda name=name: VideoModel.load(name).autoencoder, clip, _rebuilt)  # type: ignore[misc]
        yield Case(
            f"{name}: denoiser", lambda name=name: VideoModel.load(name).denoiser,  # type: ignore[misc]
            _shipped_inputs(name, config.frames), gradients=True,
        )  # fmt: skip
    yield Case("encoder", lambda: shipped_encoder().encoder, _discs_of(9, 64), gradients=False)


def _discs_of(frames: int, side: int) -> Callable[[], tuple[Any, ...]]:
    return lambda: (discs(frames, side)[None],)


def discs(frames: int, side: int) -> Tensor:
    """A clip (3, T, S, S) in [-1, 1] of two discs that move on a grey ground."""
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    clip = torch.full((3, frames, side, side), 0.87)
    for colour, start, way in (((0.7, -0.6, -0.5), (0.2, 0.3), 0.5), ((-0.6, -0.2, 0.7), (0.8, 0.7), -0.5)):
        for t in range(frames):
            at = start[0] + way * t / max(frames - 1, 1)
            inside = torch.sigmoid(2 * (0.12 * side - torch.hypot(x - at * side, y - start[1] * side)))
            clip[:, t] += inside * (torch.tensor(colour)[:, None, None] - clip[:, t])
    return clip


def _rebuilt(module: Any, video: Tensor) -> tuple[Tensor, Tensor]:
    mean = module.encode(video).mean
    return mean, module.decode(mean)


def _shipped_inputs(name: str, frames: int) -> Callable[[], tuple[Any, ...]]:
    def inputs() -> tuple[Any, ...]:
        model = VideoModel.load(name, precision="float32")
        spec, sizes = model.denoiser.spec, Sizes(small=False)
        _, T, h, _ = model.autoencoder.spec.latent_shape(frames, *model.config.size)
        sizes.side = h
        return sizes.inputs(spec, T)

    return inputs
