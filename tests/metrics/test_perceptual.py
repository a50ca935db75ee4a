from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.metrics.perceptual import (
    NETWORKS,
    SCALE,
    SHIFT,
    Layer,
    Lpips,
    LpipsConfig,
    Network,
    PerceptualConfig,
    PerceptualDistance,
)
from kinolab.metrics.weights import file_hash
from tests.closeness import assert_close

VGG = (3, 3, "M", 4, 4, "M", 5, 5, 5, "M", 6, 6, 6, "M", 6, 6, 6, "M")
"""torchvision's VGG16 with its widths made small."""


def vgg() -> nn.Sequential:
    torch.manual_seed(0)
    blocks: list[nn.Module] = []
    before = 3
    for width in VGG:
        if isinstance(width, int):
            blocks += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        else:
            blocks.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*blocks)


def alexnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 5, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(5, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 5, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )


def features_of(network: nn.Module) -> dict[str, Tensor]:
    state = {f"features.{name}": value.clone() for name, value in network.state_dict().items()}
    return state | {"classifier.0.weight": torch.zeros(2, 2)}


def heads_of(widths: tuple[int, ...], form: str = "lin{}.model.1.weight") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {form.format(i): torch.rand(1, w, 1, 1, generator=generator) for i, w in enumerate(widths)}


@pytest.fixture
def vgg_file(tmp_path: Path) -> Path:
    path = tmp_path / "vgg16.pth"
    torch.save(features_of(vgg()), path)
    return path


def videos(seed: int = 0, size: int = 32, frames: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(2, 1, 3, frames, size, size, generator=generator) * 2 - 1).unbind()
    return x, y


@pytest.mark.parametrize(
    ("name", "taps", "size"), [("vgg16", (3, 8, 15, 22, 29), 32), ("alexnet", (1, 4, 7, 9, 11), 47)]
)
@pytest.mark.parametrize("with_heads", [True, False])
def test_it_is_lpips_over_torchvisions_layout(
    tmp_path: Path, name: str, taps: tuple[int, ...], size: int, with_heads: bool
) -> None:
    """Against the definition, run over torchvision's own sequence of modules at the activations that LPIPS uses."""
    net = vgg() if name == "vgg16" else alexnet()
    save_file(features_of(net), tmp_path / "net.safetensors")
    x, y = videos(size=size)
    shift, scale = torch.tensor(SHIFT).view(1, 3, 1, 1), torch.tensor(SCALE).view(1, 3, 1, 1)
    f, g = ((v[0].transpose(0, 1) - shift) / scale for v in (x, y))
    pairs = []
    for i, block in enumerate(list(net)[: taps[-1] + 1]):
        f, g = block(f), block(g)
        if i in taps:
            pairs.append((f, g))
    heads = heads_of(tuple(f.shape[1] for f, _ in pairs))
    expected = torch.zeros(())
    for (f, g), head in zip(pairs, heads.values(), strict=True):
        d = (nn.functional.normalize(f, dim=1) - nn.functional.normalize(g, dim=1)).square()
        expected = expected + (d * head if with_heads else d).sum(1).mean()

    torch.save(heads, tmp_path / "heads.pth")
    config = PerceptualConfig(
        features=tmp_path / "net.safetensors",
        heads=tmp_path / "heads.pth" if with_heads else None,
        network=name,
    )
    assert_close(PerceptualDistance.load(config)(x, y), expected)


def two_channel(heads: list[Tensor] | None = None) -> PerceptualDistance:
    """A hand-set network whose features are (red, 1): its kernel undoes the scaling of the red channel."""
    kernel = torch.zeros(2, 3, 1, 1)
    kernel[0, 0] = SCALE[0]
    weights = {0: (kernel, torch.tensor([SHIFT[0], 1.0]))}
    return PerceptualDistance(Network((Layer(0, compared=True, padding=0),), smallest=1), weights, heads)


@pytest.mark.parametrize("heads", [None, (0.3, 2.0)])
def test_closed_form_on_a_hand_set_network(heads: tuple[float, float] | None) -> None:
    a, b = 0.75, 0.25
    distance = two_channel(None if heads is None else [torch.tensor(heads)])
    x, y = torch.full((2, 3, 3, 4, 4), a), torch.full((2, 3, 3, 4, 4), b)
    u, v = (torch.tensor([red, 1.0]) / (red * red + 1) ** 0.5 for red in (a, b))
    expected = (torch.tensor(heads or (1.0, 1.0)) * (u - v) ** 2).sum()
    assert_close(distance(x, y), expected)


def test_zero_for_equal_clips_symmetric_and_growing(vgg_file: Path) -> None:
    distance = PerceptualDistance.load(PerceptualConfig(features=vgg_file))
    x, y = videos()
    assert float(distance(x, x)) == 0.0
    assert_close(distance(x, y), distance(y, x))
    near, far = distance(x, x + 0.05 * (y - x)), distance(x, x + 0.5 * (y - x))
    assert 0 < float(near) < float(far)


def test_gradients_reach_the_reconstruction_only_and_are_finite(vgg_file: Path) -> None:
    distance = PerceptualDistance.load(PerceptualConfig(features=vgg_file))
    x, y = videos()
    y.requires_grad_()
    distance(x, y).backward()
    assert y.grad is not None
    assert torch.isfinite(y.grad).all() and float(y.grad.abs().sum()) > 0
    assert not list(distance.parameters())
    assert not distance.state_dict()


def test_dead_features_do_not_poison_the_gradient() -> None:
    kernel = torch.zeros(2, 3, 1, 1)
    dead = PerceptualDistance(
        Network((Layer(0, compared=True, padding=0),), smallest=1), {0: (kernel, torch.tensor([-1.0, -1.0]))}
    )
    y = torch.zeros(1, 3, 1, 2, 2, requires_grad=True)
    dead(torch.ones(1, 3, 1, 2, 2), y).backward()
    assert y.grad is not None and float(y.grad.abs().sum()) == 0.0


def test_a_limited_number_of_frames_moves_over_the_clip() -> None:
    distance = two_channel()
    distance.frames = 2
    x = torch.full((1, 3, 6, 4, 4), 0.5)
    y = x.clone()
    y[:, :, 4] = 0.1
    seen = [float(distance(x, y, step=step)) > 0 for step in range(6)]
    assert sum(seen) == 2
    assert sum(float(distance(x, y, step=step)) for step in range(6)) / 6 == pytest.approx(
        float(two_channel()(x, y)), rel=1e-5
    )


@pytest.mark.parametrize("form", ["lin{}.model.1.weight", "lins.{}.model.1.weight"])
def test_both_layouts_of_heads_and_heads_inside_the_features_file(tmp_path: Path, vgg_file: Path, form: str) -> None:
    heads = heads_of((3, 4, 5, 6, 6), form)
    torch.save(heads, tmp_path / "heads.pth")
    torch.save(features_of(vgg()) | heads, tmp_path / "both.pth")
    apart = PerceptualDistance.load(PerceptualConfig(features=vgg_file, heads=tmp_path / "heads.pth"))
    together = PerceptualDistance.load(PerceptualConfig(features=tmp_path / "both.pth"))
    x, y = videos()
    assert torch.equal(apart(x, y), together(x, y))


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.pth: no such file"):
        PerceptualDistance.load(PerceptualConfig(features=tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors"])
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(InputError, match=f"{name}: .* expected a .pth or .safetensors file of tensors"):
        PerceptualDistance.load(PerceptualConfig(features=tmp_path / name))


def test_missing_and_foreign_keys_are_listed(tmp_path: Path) -> None:
    state = features_of(vgg())
    del state["features.28.bias"]
    state["stem.conv.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"missing: features\.28\.bias; unexpected: stem\.conv\.weight"):
        PerceptualDistance.load(PerceptualConfig(features=tmp_path / "other.pth"))


def test_heads_that_do_not_fit_are_refused(tmp_path: Path, vgg_file: Path) -> None:
    torch.save(heads_of((3, 4)), tmp_path / "few.pth")
    with pytest.raises(InputError, match=r"missing: lin2\.model\.1\.weight, lin3"):
        PerceptualDistance.load(PerceptualConfig(features=vgg_file, heads=tmp_path / "few.pth"))
    torch.save(heads_of((3, 4, 9, 6, 6)), tmp_path / "wide.pth")
    with pytest.raises(InputError, match="head 2 to weigh 5 channels"):
        PerceptualDistance.load(PerceptualConfig(features=vgg_file, heads=tmp_path / "wide.pth"))


def test_wrong_clips_are_refused(vgg_file: Path) -> None:
    distance = PerceptualDistance.load(PerceptualConfig(features=vgg_file))
    with pytest.raises(InputError, match="at least 16 pixels, got 8 x 32"):
        distance(torch.zeros(1, 3, 1, 8, 32), torch.zeros(1, 3, 1, 8, 32))
    with pytest.raises(InputError, match="one shape"):
        distance(torch.zeros(1, 3, 1, 32, 32), torch.zeros(1, 3, 2, 32, 32))


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_smallest_side_is_the_smallest(tmp_path: Path, name: str) -> None:
    torch.save(features_of(vgg() if name == "vgg16" else alexnet()), tmp_path / "net.pth")
    distance = PerceptualDistance.load(PerceptualConfig(features=tmp_path / "net.pth", network=name))
    size = NETWORKS[name].smallest
    x, y = videos(size=size)
    assert torch.isfinite(distance(x, y))
    distance.network = Network(distance.network.layers, smallest=1)
    with pytest.raises(RuntimeError):
        distance(x[..., : size - 1, : size - 1], y[..., : size - 1, : size - 1])


@pytest.fixture
def lpips(tmp_path: Path, vgg_file: Path) -> Lpips:
    torch.save(heads_of((3, 4, 5, 6, 6)), tmp_path / "heads.pth")
    return Lpips(LpipsConfig(features=vgg_file, heads=tmp_path / "heads.pth", network="vgg16"))


def test_the_metric_is_the_mean_over_clips_whatever_the_batches(lpips: Lpips, vgg_file: Path) -> None:
    x, y = (torch.cat(parts) for parts in zip(*(videos(seed) for seed in range(4)), strict=True))
    expected = torch.stack([lpips.distance(a[None], b[None]) for a, b in zip(x, y, strict=True)])
    lpips.update(x[:1], y[:1])
    lpips.update(x[1:], y[1:])
    assert_close(torch.tensor(lpips.per_clip), expected.double().float())
    score = lpips.compute()
    assert score.value == pytest.approx(float(expected.mean()), rel=1e-5) and score.count == 4
    assert score.interval is not None and score.interval.low <= score.value <= score.interval.high
    assert min(lpips.per_clip) <= score.interval.low and score.interval.high <= max(lpips.per_clip)


def test_a_clips_score_is_the_mean_over_its_frames(lpips: Lpips) -> None:
    x, y = videos(frames=3)
    by_frame = lpips.distance.frame_distances(x, y)
    assert by_frame.shape == (1, 3)
    single = [float(lpips.distance(x[:, :, t : t + 1], y[:, :, t : t + 1])) for t in range(3)]
    assert by_frame[0].tolist() == pytest.approx(single, rel=1e-5)
    lpips.update(x, y)
    assert lpips.per_clip == pytest.approx([sum(single) / 3], rel=1e-5)


def test_the_protocol_states_network_files_and_calibration(lpips: Lpips, tmp_path: Path, vgg_file: Path) -> None:
    x, y = videos()
    lpips.update(x, y)
    protocol = lpips.compute().protocol
    assert protocol["network"] == "vgg16" and protocol["calibrated"] is True
    assert protocol["features_sha256"] == file_hash(vgg_file)
    assert protocol["heads_sha256"] == file_hash(tmp_path / "heads.pth")
    plain = Lpips(LpipsConfig(features=vgg_file, network="vgg16"))
    plain.update(x, y)
    assert plain.compute().protocol["calibrated"] is False and "heads_sha256" not in plain.compute().protocol


def test_the_metric_clamps_reconstructions_and_reads_bytes(lpips: Lpips) -> None:
    x, y = videos()
    lpips.update(x, y * 3)
    lpips.update(x, (y * 3).clamp(-1, 1))
    assert lpips.per_clip[0] == lpips.per_clip[1]
    levels = [((v + 1) * 127.5).round().to(torch.uint8) for v in (x, y)]
    lpips.update(levels[0], levels[1])
    lpips.update(levels[0] / 127.5 - 1, levels[1] / 127.5 - 1)
    assert lpips.per_clip[2] == pytest.approx(lpips.per_clip[3], rel=1e-6)


def test_the_metric_without_clips_says_so(lpips: Lpips) -> None:
    with pytest.raises(InputError, match="lpips has seen no clips"):
        lpips.compute()
