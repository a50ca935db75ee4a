"""C3D against a forward pass written here, over the public layout."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.extractors.c3d import C3dExtractor
from kinolab.metrics.weights import file_hash
from tests.closeness import assert_close

WIDTHS = {
    "conv1": (64, 3), "conv2": (128, 64), "conv3a": (256, 128), "conv3b": (256, 256), "conv4a": (512, 256),
    "conv4b": (512, 512), "conv5a": (512, 512), "conv5b": (512, 512),
}  # fmt: skip
CLASSES = 101


def overlapping(rows: int, columns: int, scale: float, seed: int) -> Tensor:
    """A random matrix whose rows overlap in memory, shifted by 5: full size to the reader, small on disk."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(5 * rows + columns, generator=generator) * scale
    return values.as_strided((rows, columns), (5, 1))


def layout() -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    shapes = [*WIDTHS.items(), ("fc6", (4096, 8192)), ("fc7", (4096, 4096)), ("fc8", (CLASSES, 4096))]
    for seed, (name, (out, before)) in enumerate(shapes):
        inputs = before if name.startswith("fc") else before * 27
        matrix = overlapping(out, inputs, (2 / inputs) ** 0.5 if name != "conv1" else 0.002, seed)
        state[f"{name}.weight"] = matrix if name.startswith("fc") else matrix.unflatten(1, (before, 3, 3, 3))
        state[f"{name}.bias"] = torch.randn(out, generator=torch.Generator().manual_seed(100 + seed)) * 0.1
    return state


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("c3d") / "c3d.pickle"
    torch.save(layout(), path)
    return path


def by_hand(video: Tensor, mean: tuple[float, float, float]) -> dict[str, Tensor]:
    """Tran et al. 2015, section 3.2 and figure 3, on one RGB clip (3, 16, 112, 112) in [-1, 1]."""
    state = layout()
    x = torch.stack([(video[2 - c] + 1) / 2 * 255 - mean[c] for c in range(3)])[None]

    def conv(x: Tensor, name: str) -> Tensor:
        return F.conv3d(F.pad(x, (1,) * 6), state[f"{name}.weight"], state[f"{name}.bias"]).clamp(min=0)

    def halve(x: Tensor, dims: tuple[int, ...]) -> Tensor:
        for d in dims:
            x = x.unflatten(d, (-1, 2)).amax(d + 1)
        return x

    x = halve(conv(x, "conv1"), (3, 4))
    x = halve(conv(x, "conv2"), (2, 3, 4))
    x = halve(conv(conv(x, "conv3a"), "conv3b"), (2, 3, 4))
    x = halve(conv(conv(x, "conv4a"), "conv4b"), (2, 3, 4))
    x = conv(conv(x, "conv5a"), "conv5b")
    assert x.shape == (1, 512, 2, 7, 7)
    x = F.pad(x.amax(2), (1, 0, 1, 0))  # 7 -> 4: a border of nothing before, the last cells pair up
    x = halve(x, (2, 3)).flatten(1)
    found = {}
    for name in ("fc6", "fc7", "fc8"):
        x = x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
        x = found[name] = x if name == "fc8" else x.clamp(min=0)
    return found


@pytest.mark.wide
def test_activations_and_probabilities_against_a_forward_pass_written_here(path: Path) -> None:
    mean = (80.0, 97.0, 120.0)
    extractor = C3dExtractor.load(path, mean=mean)
    video = torch.rand(1, 3, 16, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = by_hand(video[0], mean)
    with torch.no_grad():
        found = extractor._activations(video)
    for name, value in expected.items():
        assert 0.05 < float(value.std()) < 100, "the comparison would say little"
        assert_close(found[name], value, within=0.001)
    extractor.network.activations = lambda frames: found  # type: ignore[method-assign]
    assert_close(extractor(video), expected["fc6"], within=0.001)
    p = extractor.probabilities(video)
    assert_close(p, expected["fc8"].softmax(1), within=0.01)
    assert p.shape == (1, CLASSES) and extractor.spec.classes == CLASSES


def test_its_protocol_states_layer_mean_and_hash(path: Path) -> None:
    extractor = C3dExtractor.load(path, output="fc7")
    protocol = extractor.spec.protocol()
    assert protocol["extractor_output"] == "fc7" and protocol["extractor_mean_bgr"] == "90.25, 97.66, 101.41"
    assert protocol["extractor_sha256"] == file_hash(path) and protocol["extractor_size"] == "112x112"
    extractor.network.activations = lambda frames: {"fc7": frames.amax((2, 3, 4))}  # type: ignore[method-assign]
    white_blue = torch.ones(1, 3, 16, 40, 40) * torch.tensor([-1.0, -1.0, 1.0]).view(1, 3, 1, 1, 1)
    expected = torch.tensor([[255 - 90.25, -97.66, -101.41]])
    assert_close(extractor(white_blue), expected, within=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [15, 17])
def test_only_clips_of_16_frames(path: Path, frames: int) -> None:
    with pytest.raises(InputError, match=f"16 frames, got {frames}"):
        C3dExtractor.load(path)(torch.zeros(1, 3, frames, 16, 16))


def test_other_files_are_one_clear_line(tmp_path: Path) -> None:
    torch.save({"features": {"a": torch.zeros(1)}}, tmp_path / "nested.pth")
    with pytest.raises(InputError, match="expected a flat mapping of names to tensors"):
        C3dExtractor.load(tmp_path / "nested.pth")
    with pytest.raises(InputError, match=f"nested.pth: expected sha256 {'0' * 64}"):
        C3dExtractor.load(tmp_path / "nested.pth", sha256="0" * 64)
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(InputError, match=r"not weights of C3d; 21 missing: conv1\.bias, .* and 17 more$"):
        C3dExtractor.load(tmp_path / "part.pth")
    with pytest.raises(InputError, match=r"none\.pth: no such file"):
        C3dExtractor.load(tmp_path / "none.pth")
