import math

import pytest
import torch

from kinolab.errors import InputError
from kinolab.training.discriminator import (
    DiscriminatorConfig,
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)


@pytest.mark.parametrize(
    ("shape", "patches"),
    [((17, 64, 64), (5, 8, 8)), ((1, 64, 48), (1, 8, 6)), ((2, 5, 7), (1, 1, 1))],
)
def test_clips_images_and_odd_sizes_are_judged_by_the_same_weights(
    shape: tuple[int, int, int], patches: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator(DiscriminatorConfig(width=4))
    assert model(torch.zeros(2, 3, *shape)).shape == (2, 1, *patches)


def test_a_logit_sees_only_its_patch() -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator(DiscriminatorConfig(width=4, layers=2, norm="batch")).eval()
    video = torch.randn(1, 3, 5, 64, 64, requires_grad=True)
    model(video)[0, 0, 0, 0, 0].backward()
    assert video.grad is not None
    reached = video.grad[0].abs().sum((0, 1)).nonzero()
    assert 8 < int(reached.max()) < 32


def test_it_learns_to_tell_clips_apart() -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator(DiscriminatorConfig(width=8, layers=2))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    columns = torch.ones(2, 3, 3, 16, 16)
    columns[..., ::2] = -1.0
    real, fake = columns, columns.mT
    for _ in range(20):
        optimiser.zero_grad()
        loss = discriminator_loss(model(real), model(fake))
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.2


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(InputError, match="B, 3, T, H, W"):
        PatchDiscriminator(DiscriminatorConfig(width=4))(torch.zeros(2, 3, 8, 8))


def test_hinge_closed_form() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0])
    assert float(discriminator_loss(real, fake, "hinge")) == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1) / 2))
    assert float(generator_loss(fake, "hinge")) == pytest.approx(1.5)


def test_vanilla_is_cross_entropy() -> None:
    real, fake = torch.tensor([0.3, -2.0]), torch.tensor([1.5])

    def log_p(logit: float) -> float:
        return -math.log(1 / (1 + math.exp(-logit)))

    expected = 0.5 * ((log_p(0.3) + log_p(-2.0)) / 2 + log_p(-1.5))
    assert float(discriminator_loss(real, fake, "vanilla")) == pytest.approx(expected)
    assert float(generator_loss(fake, "vanilla")) == pytest.approx(log_p(1.5))


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms() -> None:
    w = torch.zeros(2, 2, requires_grad=True)
    a, b = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 0.5], [0.0, 0.0]])
    weight = adaptive_weight((a * w).sum(), (b * w).sum(), w)
    assert float(weight) == pytest.approx(5.0 / 0.5, rel=1e-4)
    assert not weight.requires_grad
    assert w.grad is None


def test_the_adaptive_weight_is_clamped_and_survives_a_flat_adversary() -> None:
    w = torch.ones(3, requires_grad=True)
    assert float(adaptive_weight(w.sum(), 1e-9 * w.sum(), w, maximum=100.0)) == 100.0
    assert float(adaptive_weight(0 * w.sum(), 0 * w.sum(), w)) == 0.0
