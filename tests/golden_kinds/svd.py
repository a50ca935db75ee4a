"""Kinds of Stable Video Diffusion: its U-Net and its autoencoder in both layouts, and its sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from kinolab.autoencoders import TemporalDecoderAutoencoder
from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers import Svd
from kinolab.denoisers.svd import IMAGE, IMAGE_TOKENS, NUMBERS
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.diffusion.edm import EdmConfig, EdmPath, preconditioning
from kinolab.methods import Guidance, GuidanceConfig
from kinolab.methods.guidance import mix
from tests.golden_kinds import Golden, runs


def clips(frames: Tensor, batch: int) -> Tensor:
    """(B * F, C, H, W) as (B, C, F, H, W)."""
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)


def folded(video: Tensor) -> Tensor:
    """The other way round."""
    return video.transpose(1, 2).flatten(0, 1)


def told(z: Tensor, context: Tensor, numbers: Tensor | None = None) -> tuple[Tensor, Conditions]:
    """Latents (B, C, F, H, W), and the conditions of what lies behind them on the channels, tokens and numbers."""
    channels = z.shape[1] // 2
    values = {IMAGE: Value("field", z[:, channels:]), IMAGE_TOKENS: Value("tokens", context)}
    if numbers is not None:
        columns = numbers.unbind(1)
        # The reference is told fps - 1, ours the frame rate.
        values |= {n: Value("vector", v + int(n == "fps")) for n, v in zip(NUMBERS, columns, strict=True)}
    return z[:, :channels], Conditions.of(values)


@runs("UnetSVD")
def unet_svd(golden: Golden) -> dict[str, Tensor]:
    """diffusers' UNetSpatioTemporalConditionModel."""
    c = golden.config
    heads = c.get("num_attention_heads", (5, 10, 20, 20))
    model = golden.load(num_heads=heads if isinstance(heads, int) else tuple(heads), head_size=None)
    assert isinstance(model, Svd)
    sample = golden["sample"].transpose(1, 2)
    z, conditions = told(sample, golden["encoder_hidden_states"], golden["added_time_ids"])
    out = model(z, golden["timestep"].reshape(-1).expand(len(z)).float(), conditions)
    return {"out": out.transpose(1, 2)}


@runs("SvdSgmUNet")
def unet_sgm(golden: Golden) -> dict[str, Tensor]:
    """The first code's VideoUNet, which is told the numbers' features ready-made."""
    c, flags = golden.config, golden["image_only"].bool()
    batch = len(flags)
    model = golden.load("model.diffusion_model.", head_size=c["num_head_channels"])
    assert isinstance(model, Svd)
    rows = slice(None, None, flags.shape[1])  # what belongs to a clip stands at each of its frames
    z, conditions = told(clips(golden["x"], batch), golden["context"][rows])
    vars(model)["number_features"] = lambda conditions, t: golden["y"][rows]
    t = golden["timesteps"][rows]
    found = {
        "out": model(z, t, conditions),
        "out_image_only": model(z, t, conditions, ForwardOptions(image_only=flags)),
    }
    return {name: folded(value) for name, value in found.items()}


def coded(golden: Golden, prefix: str, frames: int) -> dict[str, Tensor]:
    """Moments and pictures of an autoencoder, with raw latents."""
    model = golden.load(prefix, latent_scale=1.0, chunk_frames=frames)
    assert isinstance(model, TemporalDecoderAutoencoder)
    posterior = model.encode(clips(golden["video"], 1))
    decoded = model.decode(clips(golden["z"], len(golden["z"]) // frames))
    return {"moments": folded(torch.cat([posterior.mean, posterior.logvar], 1)), "decoded": folded(decoded)}


@runs("SvdVae")
def vae(golden: Golden) -> dict[str, Tensor]:
    """diffusers' AutoencoderKLTemporalDecoder."""
    return coded(golden, "", golden.config["_frames"])


@runs("SvdSgmVae")
def vae_sgm(golden: Golden) -> dict[str, Tensor]:
    """The first code's Encoder and VideoDecoder."""
    return coded(golden, "first_stage_model.", golden.config["_frames"])


def relative(name: str, ours: Tensor, theirs: Tensor) -> float:
    """Values by their own size, trajectories by the largest of each step: they span six orders of magnitude."""
    ours, theirs = ours.double(), theirs.double()
    if name.startswith("trajectory"):
        scale = theirs.flatten(1).abs().amax(1).view(-1, *[1] * (theirs.ndim - 1))
    else:
        scale = theirs.abs().where(theirs != 0, torch.ones(()).double())
    return float(((ours - theirs).abs() / scale).max())


@runs("SvdSampling", within=1e-5, measure=relative)
def sampling(golden: Golden) -> dict[str, Tensor]:
    """Noise levels, factors, guidance over frames, and whole trajectories of both codes."""
    c = golden.config
    edm = EdmConfig(sigma_min=c["sigma_min"], sigma_max=c["sigma_max"])
    path, scales = EdmPath(edm), (c["min_scale"], c["max_scale"])
    times = path.times(c["steps"])
    levels = torch.exp(4 * times)
    svd, own = preconditioning(levels[:-1], v=True), preconditioning(levels[:-1], sigma_data=0.5)
    zero, one = torch.zeros(1, 1, c["frames"], 1, 1), torch.ones(1, 1, c["frames"], 1, 1)
    found = {"sigmas": levels, "timesteps": times[:-1], "init_noise_sigma": (levels[:1].square() + 1).sqrt()}
    for name in ("c_skip", "c_out", "c_in", "c_noise"):
        found[name] = getattr(svd, name)
        found[f"edm_{name}"] = getattr(own, name)
    for name, frames in (("linear", scales), ("triangle", (*scales, scales[0]))):
        found[f"scales_{name}"] = mix([zero], one, GuidanceConfig(frames=frames)).flatten()
    diffusion = Diffusion(DiffusionConfig(schedule="edm", prediction="v", edm=edm))
    for name, sampler in (("diffusers", "euler"), ("euler", "euler"), ("heun", "heun")):
        found[f"trajectory_{name}"] = trajectory(golden, diffusion, sampler, scales)
    return found


def trajectory(golden: Golden, diffusion: Diffusion, sampler: str, scales: tuple[float, ...]) -> Tensor:
    """What a sampler leaves after each step, (steps, B, F, C, h, w), in EDM's units y = x + s e."""
    image, bias = golden["image"].transpose(1, 2), golden["bias"].view(1, -1, 1, 1, 1)

    def denoiser(z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        null = conditions.null_of("label")
        there = torch.ones(len(z)) if null is None else 1.0 - null.float()
        e = (2 * there - 1).view(-1, 1, 1, 1, 1)
        mixed = torch.einsum("co,bofhw->bcfhw", golden["A"], z)
        return mixed + t.view(-1, 1, 1, 1, 1) * bias + 0.2 * e + 0.1 * image * (e > 0)

    how, steps = SamplerConfig(name=sampler, steps=golden.config["steps"]), list[Tensor]()
    times = diffusion.times(how)

    def after(step: int, total: int, z: Tensor, denoised: Tensor) -> None:
        steps.append((z / diffusion.path.scalars(float(times[step]))[0]).transpose(1, 2))

    diffusion.sample(
        denoiser,
        golden["noise"].transpose(1, 2),
        Conditions(label=torch.zeros(1, dtype=torch.int64)),
        sampler=how,
        methods=[Guidance(GuidanceConfig(frames=scales))],
        callback=after,
    )
    return torch.stack(steps)
