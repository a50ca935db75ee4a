import math

import pytest
import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.reconstruction import K1, K2, MAX_PSNR, Psnr, Ssim, psnr, ssim


def clips(seed: int = 0, shape: tuple[int, ...] = (3, 3, 4, 24, 20)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(shape, generator=generator).cumsum(-1) / shape[-1]
    original = smooth * 1.6 - 0.9
    return original, original + 0.1 * torch.randn(shape, generator=generator)


def test_psnr_of_a_constant_offset_is_known() -> None:
    video = torch.zeros(2, 3, 5, 8, 8)
    for offset in (0.5, 0.1, -0.02):
        expected = 20 * math.log10(2 / abs(offset))
        torch.testing.assert_close(psnr(video, video + offset), torch.full((2, 5), expected).double())


def test_psnr_is_averaged_over_frames_not_over_errors() -> None:
    video = torch.zeros(1, 3, 2, 8, 8)
    worse = video.clone()
    worse[:, :, 0] += 0.2
    worse[:, :, 1] += 0.02
    metric = Psnr()
    metric.update(video, worse)
    assert metric.compute().value == pytest.approx((20.0 + 40.0) / 2, abs=1e-4)


def test_equal_clips_give_the_best_value() -> None:
    x, _ = clips()
    assert psnr(x, x).eq(MAX_PSNR).all()
    torch.testing.assert_close(ssim(x, x), torch.ones(3, 4).double())


def test_the_reconstruction_is_clamped() -> None:
    x = torch.ones(1, 3, 1, 16, 16)
    assert psnr(x, x + 3).item() == MAX_PSNR
    assert ssim(x, x + 3).item() == pytest.approx(1.0)


def test_ssim_of_two_constants_is_the_luminance_term() -> None:
    a, b = 0.5, -0.25
    x, y = torch.full((1, 3, 2, 16, 16), a), torch.full((1, 3, 2, 16, 16), b)
    c1 = (K1 * 2) ** 2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    torch.testing.assert_close(ssim(x, y), torch.full((1, 2), expected).double())


def test_ssim_of_the_negative_is_the_negative_structure() -> None:
    """y = -x has covariance -var: with a pattern whose windows have zero mean, SSIM = (c2 - 2 var) / (c2 + 2 var)."""
    x = torch.ones(1, 3, 1, 32, 32)
    x[..., 1::2] = -1.0  # columns alternate; the Gaussian is wide enough to average them to 0 and their square to 1
    c2 = (K2 * 2) ** 2
    assert ssim(x, -x).item() == pytest.approx((c2 - 2) / (c2 + 2), abs=1e-3)


def test_ssim_is_symmetric_and_falls_with_noise() -> None:
    x, y = clips()
    torch.testing.assert_close(ssim(x, y.clamp(-1, 1)), ssim(y.clamp(-1, 1), x))
    worse = x + 2 * (y - x)
    assert (ssim(x, worse) < ssim(x, y)).all()


@pytest.mark.parametrize("metric", [Psnr, Ssim])
def test_streaming_over_batches_equals_the_whole(metric: type[Psnr] | type[Ssim]) -> None:
    x, y = clips()
    whole, parts = metric(), metric()
    whole.update(x, y)
    for i in range(3):
        parts.update(x[i : i + 1, :, : i + 1], y[i : i + 1, :, : i + 1])
        if i < 2:
            parts.update(x[i : i + 1, :, i + 1 :], y[i : i + 1, :, i + 1 :])
    parts.update(x[2:, :, 3:], y[2:, :, 3:])
    assert parts.compute().value == pytest.approx(whole.compute().value, rel=1e-9)
    assert parts.compute().count == whole.compute().count == 12


@pytest.mark.parametrize("metric", [Psnr, Ssim])
def test_uint8_clips_score_as_their_float_pixels(metric: type[Psnr] | type[Ssim]) -> None:
    x, y = (v.clamp(-1, 1) for v in clips())
    x8, y8 = ((v + 1).mul(127.5).round().to(torch.uint8) for v in (x, y))
    by_bytes, by_floats = metric(), metric()
    by_bytes.update(x8, y8)
    by_floats.update(x8.float() / 127.5 - 1, y8.float() / 127.5 - 1)
    assert by_bytes.compute().value == pytest.approx(by_floats.compute().value, rel=1e-9)
    assert by_bytes.compute().protocol["data_range"] == 2.0
    assert by_bytes.compute().protocol["size"] == "24x20"


def test_bfloat16_autocast_does_not_change_a_score() -> None:
    x, y = clips()
    expected = ssim(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ssim(x, y), expected)


@pytest.mark.parametrize("metric", [Psnr, Ssim])
def test_no_frames_no_value(metric: type[Psnr] | type[Ssim]) -> None:
    with pytest.raises(InputError, match="no frames"):
        metric().compute()


def test_wrong_clips_are_refused() -> None:
    x, y = clips()
    with pytest.raises(InputError, match="one shape"):
        psnr(x, y[:, :, :2])
    with pytest.raises(InputError, match="uint8"):
        psnr(x.to(torch.uint8), y)
    with pytest.raises(InputError, match="at least 11 x 11"):
        ssim(x[..., :8, :8], y[..., :8, :8])


def images(video: Tensor) -> Tensor:
    return video.transpose(1, 2).flatten(0, 1).clamp(-1, 1)


@pytest.mark.filterwarnings("ignore")
def test_parity_with_torchmetrics() -> None:
    """torchmetrics also scores a border of 5 reflected pixels, which the paper leaves out: compare the inside."""
    functional = pytest.importorskip("torchmetrics.functional.image")
    x, y = clips()
    scale = (-1.0, 1.0)
    ours = psnr(x, y).flatten()
    for i, (a, b) in enumerate(zip(images(x), images(y), strict=True)):
        theirs = functional.peak_signal_noise_ratio(b[None], a[None], data_range=scale)
        assert float(ours[i]) == pytest.approx(float(theirs), abs=1e-4)
    _, full = functional.structural_similarity_index_measure(
        images(y), images(x), data_range=scale, reduction="none", return_full_image=True
    )
    inside = full[..., 5:-5, 5:-5].mean((1, 2, 3)).double()
    torch.testing.assert_close(ssim(x, y).flatten(), inside, atol=1e-4, rtol=0)
