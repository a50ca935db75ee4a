"""I3D against stored outputs of the public class, against a forward pass written here, and its TorchScript form."""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.metrics.extractors.i3d import I3dExtractor, I3dTorchScript
from kinolab.metrics.weights import file_hash
from tests.closeness import assert_close

GOLDEN = Path(__file__).parents[2] / "golden" / "i3d.safetensors"
BLOCKS = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")


def golden() -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(GOLDEN, "pt") as file:
        return dict(file.metadata()), {name: file.get_tensor(name) for name in ("logits", "features")}


def drawn() -> tuple[dict[str, Tensor], torch.Generator]:
    """The weights by the rule in the stored numbers' header, and the generator that the input comes from next."""
    header, _ = golden()
    generator = torch.Generator().manual_seed(int(header["seed"]))
    state: dict[str, Tensor] = {}
    for name, shape in sorted(json.loads(header["shapes"]).items()):
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) > 1:
            state[name] = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            noise = 0.1 * torch.randn(shape, generator=generator)
            state[name] = 1 + noise if name.endswith("bn.weight") else noise
    return state, generator


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor], torch.Generator]:
    state, generator = drawn()
    path = tmp_path_factory.mktemp("i3d") / "rgb_imagenet.pt"
    torch.save(state, path)
    return path, state, generator


@pytest.fixture(scope="module")
def extractor(weights: tuple[Path, dict[str, Tensor], torch.Generator]) -> I3dExtractor:
    return I3dExtractor.load(weights[0])


def near(a: Tensor, b: Tensor, tolerance: float) -> None:
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= tolerance * float(b.std())


@pytest.mark.slow
def test_stored_outputs_of_the_public_class(
    extractor: I3dExtractor, weights: tuple[Path, dict[str, Tensor], torch.Generator]
) -> None:
    header, expected = golden()
    video = torch.rand(json.loads(header["input_shape"]), generator=weights[2]) * 2 - 1
    with torch.no_grad():
        pooled = extractor.network.pooled(video)
    near(pooled, expected["features"].flatten(2), 1e-3)
    near(extractor.network.classify(pooled), expected["logits"], 1e-3)


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's SAME padding, one dimension after the other."""
    for dim, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
        size = x.shape[dim]
        pad = max(k - s if size % s == 0 else k - size % s, 0)
        before = x.new_zeros([pad // 2 if d == dim else n for d, n in enumerate(x.shape)])
        after = x.new_zeros([pad - pad // 2 if d == dim else n for d, n in enumerate(x.shape)])
        x = torch.cat([before, x, after], dim)
    return x


def by_hand(state: dict[str, Tensor], video: Tensor) -> tuple[Tensor, Tensor]:
    """The network from the paper's figure 3, over the names of the file: pooled activations and logits per step."""

    def unit(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = state[f"{name}.conv3d.weight"]
        x = F.conv3d(same(x, tuple(kernel.shape[2:]), (stride,) * 3), kernel, stride=stride)
        mean, var, gain, bias = (state[f"{name}.bn.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        shape = (1, -1, 1, 1, 1)
        return ((x - mean.view(shape)) / (var.view(shape) + 1e-3).sqrt() * gain.view(shape) + bias.view(shape)).relu()

    def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return F.max_pool3d(same(x, kernel, stride), kernel, stride)

    x = pool(unit(video, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    for block in BLOCKS:
        if block == "4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if block == "5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        name = f"Mixed_{block}"
        branches = [unit(x, f"{name}.b0")]
        branches += [unit(unit(x, f"{name}.{b}a"), f"{name}.{b}b") for b in ("b1", "b2")]
        branches.append(unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b"))
        x = torch.cat(branches, 1)
    x = torch.stack([x[:, :, t : t + 2].mean((2, 3, 4)) for t in range(x.shape[2] - 1)], 2)
    head = state["logits.conv3d.weight"].flatten(1)
    return x, torch.einsum("kc,bct->bkt", head, x) + state["logits.conv3d.bias"][:, None]


@pytest.mark.wide
def test_the_shortest_clip_against_a_forward_pass_written_here(
    extractor: I3dExtractor, weights: tuple[Path, dict[str, Tensor], torch.Generator]
) -> None:
    """9 frames: odd lengths in time take the uneven padding. Both outputs, and the probabilities."""
    video = torch.rand(1, 3, 9, 224, 224, generator=torch.Generator().manual_seed(3)) * 2 - 1
    pooled, logits = by_hand(weights[1], video)
    assert pooled.shape == (1, 1024, 1) and extractor.spec.min_frames == 9
    with torch.no_grad():
        mine = extractor.network.pooled(video)
    near(mine, pooled, 1e-4)
    near(extractor.network.classify(mine), logits, 1e-4)


def test_outputs_average_over_time_and_have_the_width_they_state(weights: tuple[Path, dict, torch.Generator]) -> None:
    class Constant(nn.Module):
        def pooled(self, video: Tensor) -> Tensor:
            return torch.stack([torch.ones(len(video), 1024), 3 * torch.ones(len(video), 1024)], 2)

        def classify(self, pooled: Tensor) -> Tensor:
            return pooled[:, :400] * torch.arange(400).view(1, 400, 1)

    video = torch.zeros(2, 3, 9, 8, 8)
    features = I3dExtractor(Constant(), "0", "features")  # type: ignore[arg-type]
    assert torch.equal(features(video), 2 * torch.ones(2, 1024)) and features.spec.width == 1024
    logits = I3dExtractor(Constant(), "0")  # type: ignore[arg-type]
    assert torch.equal(logits(video), 2.0 * torch.arange(400).expand(2, 400)) and logits.spec.width == 400
    assert_close(logits.probabilities(video), (2.0 * torch.arange(400)).softmax(0).expand(2, 400))
    assert logits.spec.protocol()["extractor_output"] == "logits"


def test_it_states_its_hash_and_is_frozen(extractor: I3dExtractor, weights: tuple[Path, dict, torch.Generator]) -> None:
    assert extractor.spec.sha256 == file_hash(weights[0])
    assert not extractor.training and not any(p.requires_grad for p in extractor.parameters())
    with pytest.raises(InputError, match="at least 9 frames, got 8"):
        extractor(torch.zeros(1, 3, 8, 32, 32))


@pytest.mark.slow
def test_a_file_without_counters_of_batches_is_read(tmp_path: Path) -> None:
    """rgb_imagenet.pt is older than they are."""
    state = {k: v for k, v in drawn()[0].items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pt")
    network = I3dExtractor.load(tmp_path / "old.pt").network
    assert torch.equal(network.get_parameter("Mixed_5c.b0.bn.weight"), state["Mixed_5c.b0.bn.weight"])


@pytest.mark.slow
def test_what_does_not_fit_is_named_in_one_line(tmp_path: Path) -> None:
    state = drawn()[0]
    del state["Mixed_3b.b0.conv3d.weight"]
    state["head.weight"] = torch.zeros(1)
    state["logits.conv3d.weight"] = torch.zeros(157, 1024, 1, 1, 1)
    torch.save(state, tmp_path / "charades.pt")
    message = (
        r"not weights of I3d; 1 missing: Mixed_3b\.b0\.conv3d\.weight; 1 unexpected: head\.weight; "
        r"1 of another shape: logits\.conv3d\.weight \(157, 1024, 1, 1, 1\) instead of \(400, 1024, 1, 1, 1\)$"
    )
    with pytest.raises(InputError, match=message):
        I3dExtractor.load(tmp_path / "charades.pt")


class Scripted(nn.Module):
    """Says in its 400 outputs how it was called: flags, size, mean."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        told = torch.zeros(x.size(0), 400)
        told[:, 0] = float(rescale)
        told[:, 1] = float(resize)
        told[:, 2] = float(return_features)
        told[:, 3] = float(x.size(3))
        told[:, 4] = x.mean([1, 2, 3, 4])
        return told


class Foreign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def script(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


def test_the_torchscript_file_is_called_as_stylegan_v_calls_it(tmp_path: Path) -> None:
    path = script(Scripted(), tmp_path / "i3d_torchscript.pt")
    video = torch.full((2, 3, 10, 32, 32), 0.5)
    inside = I3dTorchScript.load(path, sha256=file_hash(path))
    assert inside(video)[:, :5].tolist() == [[0.0, 1.0, 1.0, 32.0, 0.5]] * 2
    assert inside.spec.protocol()["extractor_resize"] == "bilinear, not antialiased, by the network"
    before = I3dTorchScript.load(path, own_resize=False)
    assert before(video)[:, :4].tolist() == [[0.0, 0.0, 1.0, 224.0]] * 2
    assert before.spec.protocol()["extractor_resize"] == "bilinear"
    assert_close(inside.probabilities(video), inside(video).softmax(1))
    with pytest.raises(InputError, match="at least 10 frames, got 9"):
        inside(video[:, :, :9])
    with pytest.raises(InputError, match="not finite"):
        inside(video * math.nan)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (I3dTorchScript.load, "not a TorchScript network"),
        (I3dExtractor.load, "i3d_torchscript reads this"),
    ],
)
def test_the_two_files_are_told_apart(tmp_path: Path, read: Callable[[Path], object], message: str) -> None:
    if read == I3dTorchScript.load:
        path = tmp_path / "state.pt"
        torch.save({"a": torch.zeros(1)}, path)
    else:
        path = script(Foreign(), tmp_path / "script.pt")
    with pytest.raises(InputError, match=message):
        read(path)


def test_another_torchscript_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected StyleGAN-V's I3D .* got x"):
        I3dTorchScript.load(script(Foreign(), tmp_path / "other.pt"))


def test_another_hash_is_refused_before_the_file_is_used(tmp_path: Path) -> None:
    path = script(Scripted(), tmp_path / "i3d_torchscript.pt")
    with pytest.raises(InputError, match=f"expected sha256 {'0' * 64}, got {file_hash(path)}"):
        I3dTorchScript.load(path, sha256="0" * 64)
