"""Inception v3 in both public layouts, against a forward pass written here from the paper's figures."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.extractors.inception import CLASSES, InceptionExtractor, InceptionLayout, InceptionV3
from kinolab.metrics.weights import file_hash
from tests.closeness import assert_close


def convolutions() -> dict[str, tuple[int, int, int, int]]:
    """Name -> channels out, channels in, height and width of the kernel, listed from the public state dict."""
    found = {
        "Conv2d_1a_3x3": (32, 3, 3, 3), "Conv2d_2a_3x3": (32, 32, 3, 3), "Conv2d_2b_3x3": (64, 32, 3, 3),
        "Conv2d_3b_1x1": (80, 64, 1, 1), "Conv2d_4a_3x3": (192, 80, 3, 3),
    }  # fmt: skip
    for block, before, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        found |= {f"Mixed_{block}.{k}": v for k, v in {
            "branch1x1": (64, before, 1, 1), "branch5x5_1": (48, before, 1, 1), "branch5x5_2": (64, 48, 5, 5),
            "branch3x3dbl_1": (64, before, 1, 1), "branch3x3dbl_2": (96, 64, 3, 3), "branch3x3dbl_3": (96, 96, 3, 3),
            "branch_pool": (pooled, before, 1, 1),
        }.items()}  # fmt: skip
    found |= {f"Mixed_6a.{k}": v for k, v in {
        "branch3x3": (384, 288, 3, 3), "branch3x3dbl_1": (64, 288, 1, 1), "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
    }.items()}  # fmt: skip
    for block, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        found |= {f"Mixed_{block}.{k}": v for k, v in {
            "branch1x1": (192, 768, 1, 1), "branch7x7_1": (c, 768, 1, 1), "branch7x7_2": (c, c, 1, 7),
            "branch7x7_3": (192, c, 7, 1), "branch7x7dbl_1": (c, 768, 1, 1), "branch7x7dbl_2": (c, c, 7, 1),
            "branch7x7dbl_3": (c, c, 1, 7), "branch7x7dbl_4": (c, c, 7, 1), "branch7x7dbl_5": (192, c, 1, 7),
            "branch_pool": (192, 768, 1, 1),
        }.items()}  # fmt: skip
    found |= {f"Mixed_7a.{k}": v for k, v in {
        "branch3x3_1": (192, 768, 1, 1), "branch3x3_2": (320, 192, 3, 3), "branch7x7x3_1": (192, 768, 1, 1),
        "branch7x7x3_2": (192, 192, 1, 7), "branch7x7x3_3": (192, 192, 7, 1), "branch7x7x3_4": (192, 192, 3, 3),
    }.items()}  # fmt: skip
    for block, before in (("7b", 1280), ("7c", 2048)):
        found |= {f"Mixed_{block}.{k}": v for k, v in {
            "branch1x1": (320, before, 1, 1), "branch3x3_1": (384, before, 1, 1), "branch3x3_2a": (384, 384, 1, 3),
            "branch3x3_2b": (384, 384, 3, 1), "branch3x3dbl_1": (448, before, 1, 1), "branch3x3dbl_2": (384, 448, 3, 3),
            "branch3x3dbl_3a": (384, 384, 1, 3), "branch3x3dbl_3b": (384, 384, 3, 1),
            "branch_pool": (192, before, 1, 1),
        }.items()}  # fmt: skip
    return found


def layout_of(classes: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, shape in convolutions().items():
        inputs = shape[1] * shape[2] * shape[3]
        state[f"{name}.conv.weight"] = torch.randn(shape, generator=g) * (2 / inputs) ** 0.5
        for part, start, spread in (("weight", 1, 0.1), ("bias", 0, 0.1), ("running_mean", 0, 0.1)):
            state[f"{name}.bn.{part}"] = start + spread * torch.randn(shape[0], generator=g)
        state[f"{name}.bn.running_var"] = 0.5 + torch.rand(shape[0], generator=g)
    state["fc.weight"] = torch.randn(classes, 2048, generator=g) * 0.02
    state["fc.bias"] = torch.randn(classes, generator=g)
    return state


def by_hand(state: dict[str, Tensor], x: Tensor, fid: bool) -> Tensor:
    """Frames (N, 3, 299, 299) -> (N, 2048)."""

    def conv(x: Tensor, name: str, stride: int = 1, pad: bool = True) -> Tensor:
        kernel = state[f"{name}.conv.weight"]
        padding = (kernel.shape[2] // 2, kernel.shape[3] // 2) if pad else (0, 0)
        scale = state[f"{name}.bn.weight"] / (state[f"{name}.bn.running_var"] + 0.001).sqrt()
        shift = state[f"{name}.bn.bias"] - state[f"{name}.bn.running_mean"] * scale
        return F.conv2d(x, kernel * scale.view(-1, 1, 1, 1), shift, stride, padding).clamp(min=0)

    def chain(x: Tensor, block: str, *names: str) -> Tensor:
        for name in names:
            x = conv(x, f"{block}.{name}")
        return x

    def mean_pool(x: Tensor) -> Tensor:
        ones = torch.ones_like(x[:1, :1])
        box = torch.ones(1, 1, 3, 3)
        total = F.conv2d(x.flatten(0, 1)[:, None], box, padding=1).view_as(x)
        return total / (F.conv2d(ones, box, padding=1) if fid else 9.0)

    def down(x: Tensor, block: str, before: tuple[str, ...], last: str) -> Tensor:
        return conv(chain(x, block, *before), f"{block}.{last}", 2, pad=False)

    x = conv(x, "Conv2d_1a_3x3", 2, pad=False)
    x = F.max_pool2d(conv(conv(x, "Conv2d_2a_3x3", pad=False), "Conv2d_2b_3x3"), 3, 2)
    x = F.max_pool2d(conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3", pad=False), 3, 2)
    doubles = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    for b in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        parts = [chain(x, b, "branch1x1"), chain(x, b, "branch5x5_1", "branch5x5_2"), chain(x, b, *doubles)]
        x = torch.cat([*parts, chain(mean_pool(x), b, "branch_pool")], 1)
    b = "Mixed_6a"
    parts = [down(x, b, (), "branch3x3"), down(x, b, doubles[:2], doubles[2])]
    x = torch.cat([*parts, F.max_pool2d(x, 3, 2)], 1)
    for b in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        single = chain(x, b, *(f"branch7x7_{i}" for i in range(1, 4)))
        double = chain(x, b, *(f"branch7x7dbl_{i}" for i in range(1, 6)))
        x = torch.cat([chain(x, b, "branch1x1"), single, double, chain(mean_pool(x), b, "branch_pool")], 1)
    b = "Mixed_7a"
    sevens = tuple(f"branch7x7x3_{i}" for i in range(1, 4))
    parts = [down(x, b, ("branch3x3_1",), "branch3x3_2"), down(x, b, sevens, "branch7x7x3_4")]
    x = torch.cat([*parts, F.max_pool2d(x, 3, 2)], 1)
    for b in ("Mixed_7b", "Mixed_7c"):
        single, double = chain(x, b, "branch3x3_1"), chain(x, b, "branch3x3dbl_1", "branch3x3dbl_2")
        parts = [chain(x, b, "branch1x1"), chain(single, b, "branch3x3_2a"), chain(single, b, "branch3x3_2b")]
        parts += [chain(double, b, "branch3x3dbl_3a"), chain(double, b, "branch3x3dbl_3b")]
        pooled = F.max_pool2d(x, 3, 1, 1) if fid and b == "Mixed_7c" else mean_pool(x)
        x = torch.cat([*parts, chain(pooled, b, "branch_pool")], 1)
    return x.mean((2, 3))


@pytest.mark.wide
@pytest.mark.parametrize("layout", ["fid", "torchvision"])
def test_features_and_probabilities_against_a_forward_pass_written_here(
    tmp_path: Path, layout: InceptionLayout
) -> None:
    state = layout_of(CLASSES[layout])
    extra = {"AuxLogits.fc.bias": torch.zeros(1000), "Mixed_5b.branch1x1.bn.num_batches_tracked": torch.tensor(3)}
    path = tmp_path / "inception.pth"
    torch.save(state | (extra if layout == "torchvision" else {}), path)
    extractor = InceptionExtractor.load(path, layout=layout)
    video = torch.rand(1, 3, 1, 299, 299, generator=torch.Generator().manual_seed(2)) * 2 - 1
    expected = by_hand(state, video[:, :, 0], layout == "fid")
    tolerance = 1e-3 * float(expected.std())
    assert_close(extractor(video), expected, within=0.001)
    other = by_hand(state, video[:, :, 0], layout != "fid")
    assert float((other - expected).abs().max()) > 10 * tolerance, "the two networks must be told apart"
    logits = expected @ state["fc.weight"].T + (0 if layout == "fid" else state["fc.bias"])
    assert_close(extractor.probabilities(video), logits.softmax(1), within=0.01)
    assert extractor.spec.sha256 == file_hash(path) and extractor.spec.classes == CLASSES[layout]


class Means(InceptionV3):
    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def pooled(self, frames: Tensor) -> Tensor:
        return frames.mean((1, 2, 3), keepdim=False)[:, None]


def test_one_vector_per_frame_in_the_order_of_the_clips() -> None:
    video = torch.arange(40.0).view(2, 1, 20, 1, 1).expand(2, 3, 20, 8, 8) / 40
    features = InceptionExtractor(Means(), "0")(video)
    assert_close(features[:, 0], torch.arange(40.0) / 40)


@pytest.mark.slow
def test_the_two_files_are_not_mixed_up(tmp_path: Path) -> None:
    torch.save(layout_of(1008), tmp_path / "fid.pth")
    with pytest.raises(InputError, match=r"fc\.weight \(1008, 2048\) instead of \(1000, 2048\)"):
        InceptionExtractor.load(tmp_path / "fid.pth", layout="torchvision")
