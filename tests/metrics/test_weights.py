"""Weights of metrics: hashes of bytes, and no code from a file."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from kinolab.errors import InputError
from kinolab.metrics.weights import checked_hash, file_hash, fill, read_tensors


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line, self.norm = nn.Linear(2, 3), nn.BatchNorm1d(3)


def test_the_hash_is_over_the_files_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc" * 1000)
    assert file_hash(path) == hashlib.sha256(b"abc" * 1000).hexdigest()
    assert checked_hash(path, file_hash(path).upper()) == file_hash(path)
    with pytest.raises(InputError, match="no such file"):
        file_hash(tmp_path)


class Payload:
    """Runs a command when unpickled by a reader that allows it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    torch.save({"a": Payload(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth: expected a flat mapping of names to tensors") as caught:
        read_tensors(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists() and "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value), "no advice to let it run"


def test_a_network_is_filled_in_float32_and_frozen(tmp_path: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in Tiny().state_dict().items()}
    with torch.device("meta"):
        network = Tiny()
    fill(network, state | {"aux.weight": torch.zeros(1)}, tmp_path, ignored=("aux.",))
    assert network.line.weight.dtype == torch.float32 and not network.line.weight.requires_grad
    assert torch.equal(network.line.weight, state["line.weight"].float()) and not network.training
    assert network.norm(network.line(torch.zeros(1, 2))).shape == (1, 3)
    with pytest.raises(InputError, match=r"not weights of Tiny; 1 missing: line\.bias; 1 unexpected: aux\.weight$"):
        del state["line.bias"]
        fill(Tiny(), state | {"aux.weight": torch.zeros(1)}, tmp_path)
