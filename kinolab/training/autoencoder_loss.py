"""The loss of autoencoder training: reconstruction + KL, and optionally a perceptual and a late adversarial loss.

Rombach et al. 2022 (latent diffusion), appendix G; Esser et al. 2021 (VQGAN), eq. 6 and 7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kinolab.autoencoders.base import Posterior, Term
from kinolab.config import Config
from kinolab.errors import InputError
from kinolab.metrics.perceptual import PerceptualConfig, PerceptualDistance
from kinolab.training.discriminator import (
    AdversarialLoss,
    DiscriminatorConfig,
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)

NO_TERMS: Mapping[str, Term] = {}
"""What an autoencoder without regularisation adds."""


class AdversarialConfig(Config):
    """A discriminator that joins the training late."""

    weight: float = Field(default=0.5, gt=0)
    """Weight of the adversarial loss, on top of the adaptive weight."""
    start_step: int = Field(default=50_000, ge=0)
    """Optimiser step from which the discriminator is trained and counts; before it there is no adversarial loss."""
    loss: AdversarialLoss = "hinge"
    """`hinge` (VQGAN, OD-VAE) or `vanilla` (cross entropy)."""
    max_weight: float = Field(default=1e4, gt=0)
    """Upper limit of the adaptive weight."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    """The network that tells clips from reconstructions."""


class AutoencoderLossConfig(Config):
    """What an autoencoder is trained on."""

    reconstruction: Literal["l1", "l2", "huber"] = "l1"
    """Distance of pixel values, averaged over all of them: absolute, squared, or Huber's mixture of the two."""
    squared_weight: float = Field(default=0.0, ge=0)
    """Weight of the mean squared error that is added to it: few but large errors, such as the wrong colour of a small
    object, then count more than many small ones."""
    chroma_weight: float = Field(default=0.0, ge=0)
    """Weight of the squared error of the colour differences R - B and G - (R + B) / 2 (YCoCg) that is added. Small
    objects of few pixels keep the wrong hue for long without it, as brightness dominates the error in RGB."""
    huber_delta: float = Field(default=0.1, gt=0)
    """Where Huber's loss turns from d^2 / (2 delta) to |d| - delta / 2 (in pixel units of [-1, 1])."""
    kl_weight: float = Field(default=1e-6, ge=0)
    """Weight of the KL in nats per pixel value: summed over the latents of a clip, divided by its 3 * T * H * W pixel
    values. It then means the same for every size, and 1e-6 means what it does in latent diffusion, where both the
    reconstruction error and the KL are sums over a sample."""
    perceptual: PerceptualConfig | None = None
    """Distance of deep features, from feature weights of your own; null = off."""
    adversarial: AdversarialConfig | None = None
    """The late adversarial loss; null = off."""


class AutoencoderLoss(nn.Module):
    """Scores reconstructions for the autoencoder, and trains the discriminator where there is one.

    Its parameters are the discriminator's alone (None without `adversarial`): give them their own optimiser.
    """

    def __init__(self, config: AutoencoderLossConfig) -> None:
        super().__init__()
        self.config = config
        self.perceptual = PerceptualDistance.load(config.perceptual) if config.perceptual else None
        self.discriminator = PatchDiscriminator(config.adversarial.discriminator) if config.adversarial else None

    def is_adversarial(self, step: int) -> bool:
        """Whether the discriminator is trained and counts at optimiser step `step`."""
        return self.config.adversarial is not None and step >= self.config.adversarial.start_step

    def generator_loss(
        self,
        video: Tensor,
        reconstruction: Tensor,
        posterior: Posterior,
        *,
        step: int,
        last_layer: Tensor | None = None,
        terms: Mapping[str, Term] = NO_TERMS,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The autoencoder's scalar loss, and its unweighted parts as detached scalars for the log.

        Args:
            video, reconstruction: (B, 3, T, H, W) in [-1, 1]; T = 1 for images.
            posterior: of the video's latents, in normalised units.
            step: the optimiser step, which decides whether the adversarial loss counts.
            last_layer: the tensor at which the adaptive weight compares gradients, usually the weight of the
                decoder's last convolution; None = the reconstruction itself, which also works when the decoder's
                parameters are sharded.
            terms: what the autoencoder itself adds (`Autoencoder.regularisation`); like the KL, the adversarial loss
                is not weighed against it.

        Gradients never reach the discriminator's parameters. Without gradients (evaluation) the adaptive weight is 1.
        """
        _check(video, reconstruction)
        c = self.config
        error = self._reconstruction_error(video, reconstruction)
        if c.chroma_weight:
            error = error + c.chroma_weight * F.mse_loss(chroma(reconstruction.float()), chroma(video.float()))
        if c.squared_weight:
            error = error + c.squared_weight * F.mse_loss(reconstruction.float(), video.float())
        # in float32: near the prior the terms of the KL cancel, and bfloat16 would leave nothing of them
        kl = Posterior(posterior.mean.float(), posterior.logvar.float()).kl().mean() / video[0].numel()
        parts = {"reconstruction": error, "kl": kl}
        fidelity = error  # what the adversarial loss is weighed against: all but the KL
        if self.perceptual is not None and c.perceptual is not None:
            parts["perceptual"] = self.perceptual(video, reconstruction, step=step)
            fidelity = fidelity + c.perceptual.weight * parts["perceptual"]
        loss = fidelity + c.kl_weight * kl
        for name, term in terms.items():
            loss = loss + term.weight * term.value
            parts[name] = term.value
        if self.discriminator is not None and c.adversarial is not None and self.is_adversarial(step):
            with _frozen(self.discriminator):
                push = generator_loss(self.discriminator(reconstruction), c.adversarial.loss)
            at = reconstruction if last_layer is None else last_layer
            weight = torch.ones_like(push)
            if push.requires_grad:
                weight = adaptive_weight(fidelity, push, at, c.adversarial.max_weight)
            loss = loss + c.adversarial.weight * weight * push
            parts |= {"adversarial": push, "adversarial_weight": weight}
        parts["loss"] = loss
        return loss, {name: part.detach() for name, part in parts.items()}

    def discriminator_loss(
        self, video: Tensor, reconstruction: Tensor, *, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's scalar loss (gradients stop at the reconstruction), and its parts for the log.

        Before the start step it is a zero that `backward` accepts and that leaves every gradient as it was: skip the
        discriminator's optimiser then (`is_adversarial`).

        video, reconstruction: (B, 3, T, H, W) in [-1, 1]. Parts: the loss, and the mean logits on both.
        """
        _check(video, reconstruction)
        if self.discriminator is None or self.config.adversarial is None or not self.is_adversarial(step):
            return video.new_zeros((), requires_grad=True), {}
        real = self.discriminator(video.detach())
        fake = self.discriminator(reconstruction.detach())
        loss = discriminator_loss(real, fake, self.config.adversarial.loss)
        parts = {"discriminator": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}
        return loss, {name: part.detach() for name, part in parts.items()}

    def _reconstruction_error(self, video: Tensor, reconstruction: Tensor) -> Tensor:
        """Mean distance over all pixel values, in float32."""
        x, y = video.float(), reconstruction.float()
        if self.config.reconstruction == "l1":
            return F.l1_loss(y, x)
        if self.config.reconstruction == "l2":
            return F.mse_loss(y, x)
        delta = self.config.huber_delta
        return F.huber_loss(y, x, delta=delta) / delta


def chroma(video: Tensor) -> Tensor:
    """The colour differences Co = R - B and Cg = G - (R + B) / 2 of (B, 3, ...) pixels: (B, 2, ...)."""
    red, green, blue = video.unbind(1)
    return torch.stack([red - blue, green - 0.5 * (red + blue)], dim=1)


def _check(video: Tensor, reconstruction: Tensor) -> None:
    if video.ndim != 5 or video.shape != reconstruction.shape:
        raise InputError(
            "expected a video and a reconstruction of one shape (B, 3, T, H, W), "
            f"got {tuple(video.shape)} and {tuple(reconstruction.shape)}"
        )


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Inside, gradients pass through the module but its parameters gather none."""
    before = [(p, p.requires_grad) for p in module.parameters()]
    for p, _ in before:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, required in before:
            p.requires_grad_(required)
