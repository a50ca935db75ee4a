"""Weights on disk: what 8 bits round, what stays exact, that nothing is mistaken for a scale, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.runtime.modules import (
    FRACTIONS,
    INT8_ROWS,
    LEVELS,
    decode,
    encode,
    from_int8,
    load_weights,
    read_tensors,
    save_weights,
    to_int8,
)
from tests.closeness import assert_close, assert_same


class Network(nn.Module):
    """One tensor of each kind: large, small, of one dimension, huge values, integers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(seed)
        self.linear = nn.Linear(96, 64)
        self.conv = nn.Conv3d(8, 16, 3)
        self.narrow = nn.Parameter(torch.empty(4, 5))
        self.long = nn.Parameter(torch.empty(3000))
        self.huge = nn.Parameter(torch.empty(7))
        self.register_buffer("steps", torch.arange(2000).view(2, 1000))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=source))
            self.huge.mul_(1e6)


def stored(tmp_path: Path, module: nn.Module, dtype: torch.dtype = torch.int8) -> Path:
    save_weights(module, tmp_path / "x.safetensors", dtype)
    return tmp_path / "x.safetensors"


def unclipped_error(value: Tensor) -> Tensor:
    """Squared error of each row with its largest value at 127."""
    rows = value.flatten(1)
    step = rows.abs().amax(1, keepdim=True) / LEVELS
    return (((rows / step).round() * step - rows) ** 2).sum(1)


@pytest.mark.parametrize("shape", [(64, 96), (16, 8, 3, 3, 3), (1, 40, 40)])
def test_rows_without_outliers_are_within_half_a_step(shape: tuple[int, ...]) -> None:
    value = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2.2 - 1.1).clamp(-1, 1)
    value *= 10.0 ** torch.linspace(-6, 6, shape[0]).view(-1, *[1] * (len(shape) - 1))
    q, scale = to_int8(value)
    assert q.shape == value.shape and q.dtype == torch.int8 and scale.shape == shape[:1]
    half_step = value.flatten(1).abs().amax(1) / LEVELS / 2
    error = (from_int8(q, scale) - value).flatten(1).abs().amax(1)
    assert (error <= half_step * (1 + 1e-4)).all()
    assert (error >= 0.9 * half_step).all(), "no scale is finer than it has to be for its row"


@pytest.mark.slow
def test_a_scale_is_never_worse_than_the_unclipped_one_and_better_where_a_value_stands_out() -> None:
    value = torch.randn(32, 200_000, generator=torch.Generator().manual_seed(2))
    value[16:, 0] = 7.0
    error = ((from_int8(*to_int8(value)) - value) ** 2).sum(1)
    unclipped = unclipped_error(value)
    assert (error <= unclipped * (1 + 1e-3)).all()
    assert error[16:].sum() < 0.7 * unclipped[16:].sum()


def test_every_row_has_the_best_of_all_scales() -> None:
    """Errors go up and down with the scale: the best is the least of all, not one that is better than its neighbour."""
    value = torch.randn(200, 512, generator=torch.Generator().manual_seed(4))
    q, scale = to_int8(value)
    unclipped = value.abs().amax(1) / LEVELS
    tried = torch.stack([fraction * unclipped for fraction in FRACTIONS])[..., None]  # (F, N, 1)
    errors = ((value / tried).round().clamp(-LEVELS, LEVELS) * tried - value).square().sum(2)
    assert int((errors.diff(dim=0).sign().diff(dim=0) != 0).sum()) > 50, "or any search would do"
    found = (from_int8(q, scale) - value).square().sum(1)
    assert (found <= 1.003 * errors.amin(0)).all(), "up to the scales' own rounding to 16 bits"


def test_rows_of_zeros_and_of_tiny_values_come_back() -> None:
    value = torch.zeros(4, 512)
    value[1], value[2], value[3] = 1e-30, -1e-44, 1e30
    back = from_int8(*to_int8(value))
    assert torch.equal(back[0], value[0])
    assert_close(back[[1, 3]], value[[1, 3]])
    assert (back[2] - value[2]).abs().max() <= 1e-44


@pytest.mark.parametrize("seed", range(5))
def test_what_was_decoded_is_encoded_to_the_same_numbers(seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    value = torch.randn(64, 700, generator=source) ** 3 * torch.rand(64, 1, generator=source) ** 4
    q, scale = to_int8(value)
    again = to_int8(from_int8(q, scale))
    assert torch.equal(again[0], q) and torch.equal(again[1], scale)


def test_large_tensors_are_in_8_bits_and_the_others_exact(tmp_path: Path) -> None:
    module, back = Network(), Network(seed=1)
    path = stored(tmp_path, module)
    tensors, header = read_tensors(path)
    assert json.loads(header[INT8_ROWS]) == ["conv.weight", "linear.weight"]
    kinds = {name: value.dtype for name, value in tensors.items()}
    assert kinds["linear.weight"] == kinds["conv.weight"] == torch.int8
    assert kinds["linear.weight.scale"] == kinds["conv.weight.scale"] == kinds["huge"] == torch.float32
    assert kinds["narrow"] == kinds["long"] == kinds["linear.bias"] == torch.float16 and kinds["steps"] == torch.int64
    load_weights(back, path)
    assert all(p.dtype == torch.float32 for p in back.parameters())
    expected, found = module.state_dict(), back.state_dict()
    for name in ("narrow", "long", "linear.bias", "conv.bias"):
        assert torch.equal(found[name], expected[name].half().float())
    assert torch.equal(found["huge"], expected["huge"]) and torch.equal(found["steps"], expected["steps"])
    for name in ("linear.weight", "conv.weight"):
        rms = ((found[name] - expected[name]) ** 2).flatten(1).sum(1)
        assert (rms <= unclipped_error(expected[name]) * (1 + 1e-3)).all() and rms.min() > 0


def test_loaded_and_stored_again_the_file_is_the_same(tmp_path: Path) -> None:
    path, back = stored(tmp_path, Network()), Network(seed=1)
    first = path.read_bytes()
    load_weights(back, path)
    assert stored(tmp_path, back).read_bytes() == first


def test_8_bits_take_half_of_float16(tmp_path: Path) -> None:
    module = nn.Linear(512, 512)
    half, small = (stored(tmp_path, module, d).stat().st_size for d in (torch.float16, torch.int8))
    assert 0.5 < small / half < 0.51


def test_a_file_without_the_entry_is_read_bit_for_bit(tmp_path: Path) -> None:
    """As folders before: tensors of any kind, int8 and names that end in `.scale` among them."""
    state = {"a": torch.randn(40, 40).half(), "a.scale": torch.randn(40), "b": torch.ones(40, 40, dtype=torch.int8)}
    save_file(state, tmp_path / "old.safetensors")
    back = decode(tmp_path / "old.safetensors", *read_tensors(tmp_path / "old.safetensors"))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in state.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_precisions_are_plain_tensors(tmp_path: Path, dtype: torch.dtype) -> None:
    module, back = Network(), Network(seed=1)
    path = stored(tmp_path, module, dtype)
    assert read_tensors(path)[1] == {}
    load_weights(back, path)
    for name, value in load_file(path).items():
        expected = module.state_dict()[name]
        if name == "huge" and dtype == torch.float16:
            assert torch.equal(value, expected), "values that float16 can't hold stay float32"
        elif expected.is_floating_point():
            assert value.dtype == dtype and torch.equal(value, expected.to(dtype))
        assert torch.equal(back.state_dict()[name], value.float() if value.is_floating_point() else value)


def test_a_parameter_called_scale_is_no_scale() -> None:
    """`a.scale` is the model's: `a` then stays out of 8 bits. `b.scale` is large itself, and `b` is not there."""
    large = torch.randn(64, 64)
    state = {"a": large, "a.scale": torch.randn(64), "b.scale": large + 1, "c": large - 1}
    tensors, header = encode(state, torch.int8)
    assert header is not None and json.loads(header[INT8_ROWS]) == ["b.scale", "c"]
    assert set(tensors) == {*state, "b.scale.scale", "c.scale"}
    back = decode(Path("x"), tensors, header)
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert (back[name].float() - value).norm() < 0.01 * value.norm()
    assert torch.equal(back["a.scale"], state["a.scale"].half())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_values_that_no_scale_can_hold_stay_as_they_are(value: float) -> None:
    state = {"a": torch.ones(64, 64)}
    state["a"][3, 3] = value
    tensors, header = encode(state, torch.int8)
    assert header is None and tensors.keys() == state.keys()
    assert_same(tensors["a"].float(), state["a"])


def test_only_known_precisions_are_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one of float32, float16, bfloat16, int8; got uint8"):
        save_weights(nn.Linear(2, 2), tmp_path / "x.safetensors", torch.uint8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv.weight.scale": None}, r"conv\.weight\.scale is missing, expected float32 \(16,\)"),
        ({"conv.weight.scale": torch.ones(15)}, r"conv\.weight\.scale is float32 \(15,\), expected float32 \(16,\)"),
        ({"conv.weight.scale": torch.ones(16).half()}, r"conv\.weight\.scale is float16 \(16,\), expected"),
        ({"conv.weight": None}, r"conv\.weight is missing, expected int8"),
        ({"conv.weight": torch.ones(16, 100)}, r"conv\.weight is float32 \(16, 100\), expected int8"),
        ({INT8_ROWS: "[1]"}, "'int8_rows' entry of its header is no JSON list of names"),
        ({INT8_ROWS: "{"}, "'int8_rows' entry of its header is no JSON list of names"),
        ({INT8_ROWS: '["linear.weight"]'}, r"unexpected conv\.weight\.scale"),
    ],
)
def test_damaged_files_are_explained(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = stored(tmp_path, Network())
    tensors, header = read_tensors(path)
    for name, value in change.items():
        if name == INT8_ROWS:
            header[name] = value
        elif value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, path, header)
    with pytest.raises(InputError, match=message) as caught:
        load_weights(Network(), path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_file_that_is_cut_off_or_missing_is_explained(tmp_path: Path) -> None:
    path = stored(tmp_path, Network())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged or cut off"):
        load_weights(Network(), path)
    with pytest.raises(InputError, match="missing; the model folder is not complete"):
        load_weights(Network(), tmp_path / "none.safetensors")
