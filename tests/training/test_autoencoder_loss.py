import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from kinolab.autoencoders.base import Posterior
from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.training.autoencoder_loss import AutoencoderLoss, AutoencoderLossConfig
from tests.closeness import assert_close

ADVERSARIAL = {"weight": 0.5, "start_step": 10, "discriminator": {"width": 4, "layers": 2}}


def posterior(mean: float = 0.0, logvar: float = 0.0, shape: tuple[int, ...] = (2, 4, 2, 2, 2)) -> Posterior:
    return Posterior(torch.full(shape, mean), torch.full(shape, logvar))


def build(**values: object) -> AutoencoderLoss:
    torch.manual_seed(0)
    return AutoencoderLoss(load_config(AutoencoderLossConfig, values))


class Decoder(nn.Module):
    """The end of a decoder: noise through a 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner = nn.Conv3d(3, 3, 1)
        self.last = nn.Conv3d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(x).tanh())


def batch(frames: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    video = torch.rand(2, 3, frames, 16, 16, generator=generator) * 2 - 1
    return video, torch.randn(video.shape, generator=generator)


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize(
    ("kind", "offset", "expected"),
    [
        ("l1", -0.3, 0.3),
        ("l2", 0.3, 0.09),
        ("huber", 0.3, 0.3 - 0.1 / 2),
        ("huber", 0.02, 0.02**2 / (2 * 0.1)),
    ],
)
def test_reconstruction_of_a_constant_offset(
    kind: Literal["l1", "l2", "huber"], offset: float, expected: float, frames: int
) -> None:
    video = torch.zeros(2, 3, frames, 8, 8)
    loss, parts = build(reconstruction=kind).generator_loss(video, video + offset, posterior(), step=0)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert set(parts) == {"reconstruction", "kl", "loss"}


def test_kl_is_in_nats_per_pixel_value() -> None:
    """KL(N(m, 1) || N(0, 1)) = m^2 / 2 and KL(N(0, e^v) || N(0, 1)) = (e^v - 1 - v) / 2, per latent."""
    video = torch.zeros(2, 3, 5, 16, 16)
    latents, values = 4 * 2 * 2 * 2, 3 * 5 * 16 * 16
    loss, parts = build(kl_weight=0.1).generator_loss(video, video, posterior(mean=3.0), step=0)
    assert float(parts["kl"]) == pytest.approx(4.5 * latents / values, rel=1e-5)
    assert float(loss) == pytest.approx(0.1 * 4.5 * latents / values, rel=1e-5)
    _, parts = build().generator_loss(video, video, posterior(logvar=-2.0), step=0)
    assert float(parts["kl"]) == pytest.approx((math.exp(-2.0) + 1) / 2 * latents / values, rel=1e-5)


def test_kl_keeps_its_digits_for_a_bfloat16_posterior() -> None:
    video = torch.zeros(2, 3, 5, 16, 16)
    near = Posterior(torch.full((2, 4, 2, 2, 2), 0.03125).bfloat16(), torch.full((2, 4, 2, 2, 2), 0.03125).bfloat16())
    _, parts = build().generator_loss(video, video, near, step=0)
    per_latent = (0.03125**2 + math.exp(0.03125) - 1 - 0.03125) / 2
    assert float(parts["kl"]) == pytest.approx(per_latent * 32 / (3 * 5 * 16 * 16), rel=1e-3)


def test_the_same_latents_per_pixel_give_the_same_kl_at_any_size() -> None:
    small, large = torch.zeros(1, 3, 4, 8, 8), torch.zeros(3, 3, 8, 16, 16)
    loss = build()
    kls = [
        loss.generator_loss(v, v, posterior(1.0, -1.0, shape), step=0)[1]["kl"]
        for v, shape in ((small, (1, 4, 1, 1, 1)), (large, (3, 4, 2, 2, 2)))
    ]
    assert_close(kls[0], kls[1])


def test_gradients_reach_reconstruction_and_posterior() -> None:
    video, noise = batch()
    mean = torch.ones(2, 4, 1, 2, 2, requires_grad=True)
    reconstruction = noise.requires_grad_()
    loss, parts = build(kl_weight=0.1).generator_loss(
        video, reconstruction, Posterior(mean, torch.zeros_like(mean)), step=0
    )
    loss.backward()
    assert mean.grad is not None and reconstruction.grad is not None
    assert_close(mean.grad, torch.full_like(mean, 0.1 / 2 / video[0].numel()))
    assert not any(p.requires_grad for p in parts.values())


@pytest.mark.parametrize("frames", [1, 3])
def test_nothing_adversarial_happens_before_the_start_step(frames: int) -> None:
    with_gan, without = build(adversarial=ADVERSARIAL), build()
    video, noise = batch(frames)
    a, parts = with_gan.generator_loss(video, noise, posterior(), step=9)
    b, _ = without.generator_loss(video, noise, posterior(), step=9)
    assert torch.equal(a, b) and "adversarial" not in parts
    loss, parts = with_gan.discriminator_loss(video, noise, step=9)
    loss.backward()
    assert float(loss.detach()) == 0.0 and not parts
    assert all(p.grad is None for p in with_gan.parameters())
    assert [with_gan.is_adversarial(step) for step in (9, 10)] == [False, True]
    assert not without.is_adversarial(10**9) and not list(without.parameters())


@pytest.mark.parametrize("frames", [1, 3])
def test_the_adversary_pulls_on_the_last_layer_as_hard_as_its_weight_says(frames: int) -> None:
    loss = build(adversarial=ADVERSARIAL, kl_weight=0.0)
    decoder = Decoder()
    video, noise = batch(frames)
    gradients = []
    for step in (9, 10):
        decoder.zero_grad()
        total, parts = loss.generator_loss(
            video, decoder(noise), posterior(), step=step, last_layer=decoder.last.weight
        )
        total.backward()
        assert decoder.last.weight.grad is not None
        gradients.append(decoder.last.weight.grad.clone())
    adversarial = gradients[1] - gradients[0]
    assert float(adversarial.norm() / gradients[0].norm()) == pytest.approx(0.5, rel=1e-3)
    assert float(parts["loss"]) == pytest.approx(
        float(parts["reconstruction"] + 0.5 * parts["adversarial_weight"] * parts["adversarial"]), rel=1e-5
    )


def test_without_a_last_layer_the_gradients_are_compared_at_the_reconstruction() -> None:
    loss = build(adversarial=ADVERSARIAL, kl_weight=0.0)
    video, noise = batch()
    gradients = []
    for step in (9, 10):
        reconstruction = noise.clone().requires_grad_()
        total, _ = loss.generator_loss(video, reconstruction, posterior(), step=step)
        gradients.append(torch.autograd.grad(total, reconstruction)[0])
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) == pytest.approx(0.5, rel=1e-3)


def test_each_loss_trains_only_its_own_network() -> None:
    loss = build(adversarial=ADVERSARIAL)
    decoder = Decoder()
    video, noise = batch()
    reconstruction = decoder(noise)
    loss.generator_loss(video, reconstruction, posterior(), step=10, last_layer=decoder.last.weight)[0].backward()
    assert all(p.grad is None and p.requires_grad for p in loss.parameters())
    before = [p.grad.clone() for p in decoder.parameters() if p.grad is not None]
    assert len(before) == 4
    total, parts = loss.discriminator_loss(video, reconstruction, step=10)
    total.backward()
    assert all(p.grad is not None for p in loss.parameters())
    after = [p.grad for p in decoder.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert set(parts) == {"discriminator", "logits_real", "logits_fake"}


def test_evaluation_needs_no_gradients() -> None:
    loss = build(adversarial=ADVERSARIAL)
    video, noise = batch()
    with torch.no_grad():
        _, parts = loss.generator_loss(video, noise, posterior(), step=10)
    assert float(parts["adversarial_weight"]) == 1.0


def test_the_perceptual_part_is_weighted_and_its_weights_are_not_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state, before = {}, 3
    for index, width in zip((0, 3, 6, 8, 10), (4, 4, 4, 4, 4), strict=True):
        size = {0: 11, 3: 5}.get(index, 3)
        state[f"features.{index}.weight"] = torch.randn(width, before, size, size) * 0.1
        state[f"features.{index}.bias"] = torch.zeros(width)
        before = width
    torch.save(state, tmp_path / "alexnet.pth")
    perceptual = {"features": str(tmp_path / "alexnet.pth"), "network": "alexnet", "weight": 0.7}
    loss = build(perceptual=perceptual, kl_weight=0.0)
    generator = torch.Generator().manual_seed(0)
    video, other = (torch.rand(2, 1, 3, 2, 32, 32, generator=generator) * 2 - 1).unbind()
    total, parts = loss.generator_loss(video, other, posterior(), step=0)
    assert float(parts["perceptual"]) > 0
    assert float(total) == pytest.approx(float(parts["reconstruction"] + 0.7 * parts["perceptual"]), rel=1e-6)
    assert not loss.state_dict()


def test_wrong_shapes_and_keys_are_refused() -> None:
    video, _ = batch()
    with pytest.raises(InputError, match="one shape"):
        build().generator_loss(video, video[:, :, :1], posterior(), step=0)
    with pytest.raises(InputError, match=r"kl_wieght.*did you mean 'kl_weight'"):
        build(kl_wieght=1.0)
