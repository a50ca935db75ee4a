import math

import pytest
import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.reconstruction import K1, K2, MAX_PSNR, Psnr, Ssim, Ssim3d, psnr, ssim, ssim3d
from kinolab.metrics.statistics import mean_interval
from tests.closeness import FLOAT32, assert_close, assert_within

pytestmark = pytest.mark.slow  # many short ones, which take long together


def clips(seed: int = 0, shape: tuple[int, ...] = (3, 3, 4, 24, 20)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(shape, generator=generator).cumsum(-1) / shape[-1]
    original = smooth * 1.6 - 0.9
    return original, original + 0.1 * torch.randn(shape, generator=generator)


def test_psnr_of_a_constant_offset_is_known() -> None:
    video = torch.zeros(2, 3, 5, 8, 8)
    for offset in (0.5, 0.1, -0.02):
        expected = 20 * math.log10(2 / abs(offset))
        assert_close(psnr(video, video + offset), torch.full((2, 5), expected).double(), within=FLOAT32)


def test_psnr_is_averaged_over_frames_not_over_errors() -> None:
    video = torch.zeros(1, 3, 2, 8, 8)
    worse = video.clone()
    worse[:, :, 0] += 0.2
    worse[:, :, 1] += 0.02
    metric = Psnr()
    metric.update(video, worse)
    assert metric.compute().value == pytest.approx((20.0 + 40.0) / 2, rel=1e-5)


def test_equal_clips_give_the_best_value() -> None:
    x, _ = clips()
    assert psnr(x, x).eq(MAX_PSNR).all()
    assert_close(ssim(x, x), torch.ones(3, 4).double())


def test_the_reconstruction_is_clamped() -> None:
    x = torch.ones(1, 3, 1, 16, 16)
    assert psnr(x, x + 3).item() == MAX_PSNR
    assert ssim(x, x + 3).item() == pytest.approx(1.0)


def test_ssim_of_two_constants_is_the_luminance_term() -> None:
    a, b = 0.5, -0.25
    x, y = torch.full((1, 3, 2, 16, 16), a), torch.full((1, 3, 2, 16, 16), b)
    c1 = (K1 * 2) ** 2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert_close(ssim(x, y), torch.full((1, 2), expected).double(), within=FLOAT32)


def test_ssim_of_the_negative_is_the_negative_structure() -> None:
    """y = -x has covariance -var: with a pattern whose windows have zero mean, SSIM = (c2 - 2 var) / (c2 + 2 var)."""
    x = torch.ones(1, 3, 1, 32, 32)
    x[..., 1::2] = -1.0  # columns alternate; the Gaussian is wide enough to average them to 0 and their square to 1
    c2 = (K2 * 2) ** 2
    assert_within(ssim(x, -x), (c2 - 2) / (c2 + 2), 1e-3, "of the scale from -1 to 1")


def test_ssim_is_symmetric_and_falls_with_noise() -> None:
    x, y = clips()
    assert_close(ssim(x, y.clamp(-1, 1)), ssim(y.clamp(-1, 1), x))
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
        assert_within(ours[i], theirs, 1e-3, "dB")
    _, full = functional.structural_similarity_index_measure(
        images(y), images(x), data_range=scale, reduction="none", return_full_image=True
    )
    inside = full[..., 5:-5, 5:-5].mean((1, 2, 3)).double()
    assert_close(ssim(x, y).flatten(), inside, within=1e-4)


@pytest.mark.parametrize("metric", [Psnr, Ssim])
def test_every_clip_has_its_own_mean_and_the_interval_is_over_clips(metric: type[Psnr] | type[Ssim]) -> None:
    x, y = clips(shape=(5, 3, 4, 24, 20))
    y[2] += 0.1
    m = metric()
    m.update(x, y)
    scores = (psnr if metric is Psnr else ssim)(x, y).mean(1)
    assert m.per_clip == pytest.approx(scores.tolist())
    expected, found = mean_interval(m.per_clip), m.compute().interval
    assert expected is not None and found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.low < m.compute().value < found.high


def test_chunks_that_continue_are_one_clip() -> None:
    x, y = clips(shape=(2, 3, 6, 24, 20))
    whole, chunks = Psnr(), Psnr()
    whole.update(x, y)
    chunks.update(x[:, :, :1], y[:, :, :1])
    chunks.update(x[:, :, 1:4], y[:, :, 1:4], continues=True)
    chunks.update(x[:, :, 4:], y[:, :, 4:], continues=True)
    assert chunks.per_clip == pytest.approx(whole.per_clip) and len(chunks.per_clip) == 2
    chunks.update(x[:1], y[:1])
    assert len(chunks.per_clip) == 3
    with pytest.raises(InputError, match="continues 1 clips must hold as many, got 2"):
        chunks.update(x, y, continues=True)


def test_the_interval_of_clips_of_different_lengths_is_around_the_mean_over_frames() -> None:
    metric = Psnr()
    for frames, offset in ((1, 0.2), (1, 0.21), (20, 0.02), (20, 0.021)):
        video = torch.zeros(1, 3, frames, 8, 8)
        metric.update(video, video + offset)
    value = metric.compute()
    assert value.value > 35 and value.interval is not None  # the mean over clips is 30
    assert value.interval.low < value.value < value.interval.high


def test_too_few_clips_have_no_interval() -> None:
    x, y = clips(shape=(2, 3, 3, 16, 16))
    metric = Psnr()
    metric.update(x, y)
    assert metric.compute().interval is None


def test_ssim3d_of_equal_clips_is_one_and_of_one_frame_the_frames_own() -> None:
    x, y = clips(shape=(2, 3, 13, 16, 18))
    assert_close(ssim3d(x, x), torch.ones(2).double())
    assert_close(ssim3d(x[:, :, :1], y[:, :, :1]), ssim(x[:, :, :1], y[:, :, :1])[:, 0])


def test_ssim3d_of_a_still_clip_is_the_ssim_of_its_frame() -> None:
    """Windows over time see equal frames: means and variances are those of one frame, whatever the window's length."""
    x, y = clips(shape=(2, 3, 1, 16, 18))
    for frames in (4, 13):
        still = (v.expand(-1, -1, frames, -1, -1) for v in (x, y))
        assert_close(ssim3d(*still), ssim(x, y)[:, 0])


def test_ssim3d_sees_the_order_of_the_errors_that_ssim_does_not() -> None:
    x = clips(shape=(1, 3, 1, 16, 18))[0].expand(-1, -1, 12, -1, -1)
    offset = torch.full((12,), 0.1)
    flicker = x + (offset * torch.tensor([1.0, -1.0]).repeat(6))[:, None, None]
    slow = x + (offset * torch.tensor([1.0] * 6 + [-1.0] * 6))[:, None, None]
    assert ssim(x, flicker).mean().item() == pytest.approx(ssim(x, slow).mean().item())
    assert ssim3d(x, flicker).item() < ssim3d(x, slow).item() - 0.01


def test_ssim3d_is_a_streaming_mean_over_clips() -> None:
    x, y = clips(shape=(3, 3, 5, 16, 18))
    metric = Ssim3d()
    for k in range(3):
        metric.update(x[k : k + 1], y[k : k + 1])
    value = metric.compute()
    assert metric.per_clip == pytest.approx(ssim3d(x, y).tolist())
    assert (value.value, value.count) == (pytest.approx(ssim3d(x, y).mean().item()), 3)
    assert value.protocol["temporal_window"] == "5" and value.protocol["frames"] == "5"
    assert value.interval is not None


@pytest.mark.filterwarnings("ignore")
def test_ssim3d_agrees_with_torchmetrics() -> None:
    """Inside the five reflected pixels on every side that torchmetrics scores too."""
    functional = pytest.importorskip("torchmetrics.functional.image")
    x, y = clips(shape=(2, 3, 14, 18, 16))
    _, full = functional.structural_similarity_index_measure(
        y.clamp(-1, 1).double(), x.double(), data_range=2.0, reduction="none", return_full_image=True
    )
    inside = full[..., 5:-5, 5:-5, 5:-5].mean((1, 2, 3, 4))
    assert_close(ssim3d(x, y), inside, within=1e-6)
