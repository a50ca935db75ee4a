"""Kinds of ControlVideo: its attention across frames, and its sampling loop with the toy parts that the layout says."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file
from torch import Tensor

from kinolab.contracts.conditions import Conditions
from kinolab.contracts.options import AS_TRAINED, ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.layers.unet_attention import QkvAttention
from kinolab.methods import Guidance, GuidanceConfig, Hierarchical, HierarchicalConfig, Method, Smoother, SmootherConfig
from kinolab.methods.between import read_rife
from kinolab.methods.hierarchical import key_frames
from tests.golden_kinds import WEIGHTS, Golden, runs


@runs("ControlVideoAttn", within=1e-5)
def attention(golden: Golden) -> dict[str, Tensor]:
    """FullyFrameAttention, whose frames read all frames, or the first and the last one."""
    config, stored = golden.config, load_file(golden.path)
    module = QkvAttention(config["query_dim"], config["heads"], config["dim_head"])
    module.load_state_dict({name.removeprefix(WEIGHTS): v for name, v in stored.items() if name.startswith(WEIGHTS)})
    frames = config["_frames"]
    x = golden["x"].unflatten(0, (config["_batch"], frames))  # (B * F, N, C) -> (B, F, N, C)
    named = {"out": "all", "out_inter": "first_last"}
    return {
        name: module.over_places(x, Reach(reach).lists(frames)).flatten(0, 1)  # type: ignore[arg-type]
        for name, reach in named.items()
    }


class Toy:
    """The denoiser of the layout: a matrix over channels, the time, the prompt, and the mean of what is read."""

    reach = Reach("own")

    def __init__(self, golden: Golden) -> None:
        self.matrix, self.bias = golden["A"], golden["bias"].view(1, -1, 1, 1, 1)

    def token_frames(self, frames: int) -> int:
        """One for each frame."""
        return frames

    def __call__(self, z: Tensor, t: Tensor, told: Conditions, options: ForwardOptions = AS_TRAINED) -> Tensor:
        """The noise (B, C, F, H, W)."""
        null = told.null_of("text")
        e = torch.ones(len(z)) if null is None else 1.0 - 2.0 * null.float()
        (read,) = set((options.reach or Reach("all")).lists(z.shape[2]))
        noise = torch.einsum("oc,bcfhw->bofhw", self.matrix, z) + t.view(-1, 1, 1, 1, 1) / 1000 * self.bias
        return noise + 0.2 * e.view(-1, 1, 1, 1, 1) + 0.1 * z[:, :, list(read)].mean(2, keepdim=True)


class ToyCodec:
    """The autoencoder of the layout: a matrix each way, and Stable Diffusion's scale."""

    temporal_ratio = spatial_ratio = 1

    def __init__(self, golden: Golden) -> None:
        self.out, self.back = golden["D"], golden["E"]

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) -> (B, 4, F, H, W)."""
        return 0.18215 * torch.einsum("oc,bcfhw->bofhw", self.back, video)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 4, F, H, W) -> (B, 3, F, H, W)."""
        return torch.einsum("oc,bcfhw->bofhw", self.out, latents / 0.18215)


@runs("ControlVideoSampler")
def sampler(golden: Golden) -> dict[str, Tensor]:
    """The pipeline's two loops: a clip whole, and a long one by key frames as the released code reads them."""
    config, noise = golden.config, golden["latents"]
    steps, frames = config["steps"], noise.shape[2]
    process = Diffusion(DiffusionConfig(schedule="scaled_linear"))
    how = SamplerConfig(name="ddim", steps=steps, spacing="sd")
    smoothing = SmootherConfig(steps=tuple(sorted(steps - left for left in config["smooth_steps"])))
    window = config.get("window_size")
    long = HierarchicalConfig(window=window, whole=1 if config["long"] else frames, read="released")
    methods: list[Method] = [
        Guidance(GuidanceConfig(scale=config["guidance_scale"])), Hierarchical(long), Smoother(smoothing),
    ]  # fmt: skip
    walked: list[Tensor] = []
    process.sample(
        Toy(golden), noise, Conditions(text=torch.zeros(1, 1, 1)), sampler=how, methods=methods,
        codec=ToyCodec(golden), callback=lambda step, of, z, x: walked.append(z),
    )  # fmt: skip
    return {
        "timesteps": process.times(how)[:-1].to(golden["timesteps"].dtype),
        "trajectory": torch.stack(walked),
        "key_frames": torch.tensor(key_frames(frames, window) if config["long"] else []).long(),
    }


@runs("RifeIfNet")
def rife(golden: Golden) -> dict[str, Tensor]:
    """RIFE's IFNet, of narrower blocks than the released one, from a file as torch.save writes it."""
    stored = {n.removeprefix(WEIGHTS): v for n, v in load_file(golden.path).items() if n.startswith(WEIGHTS)}
    with TemporaryDirectory() as folder:
        torch.save(stored, Path(folder, "flownet.pkl"))
        network = read_rife(Path(folder, "flownet.pkl"))
    return {"out": network(golden["first"], golden["second"])}
