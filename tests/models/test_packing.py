"""Packed model folders: which parts they take, how large they are, and what they lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kinolab import VideoModel
from kinolab.checkpoints import inspect
from kinolab.errors import InputError
from kinolab.models import save_autoencoder
from kinolab.models.packing import pack
from tests.closeness import assert_close
from tests.tiny_model import save_tiny_model, tiny_model

pytestmark = pytest.mark.slow  # many short ones, which take long together


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def test_packing_takes_another_decoder_but_not_another_encoder(folder: Path, tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.autoencoder.last_layer.mul_(2)
    save_autoencoder(model.autoencoder, tmp_path / "decoder")
    packed = VideoModel.load(pack(folder, tmp_path / "packed", autoencoder=tmp_path / "decoder").folder)
    assert_close(packed.autoencoder.last_layer, model.autoencoder.last_layer, within=0.001)
    with torch.no_grad():
        model.autoencoder.latent_scale.mul_(2)
    save_autoencoder(model.autoencoder, tmp_path / "scaled")
    with pytest.raises(InputError, match="don't fit"):
        pack(folder, tmp_path / "refused", autoencoder=tmp_path / "scaled")
    assert not (tmp_path / "refused").exists()


def test_what_packing_cost_is_measured_on_the_folder(folder: Path, tmp_path: Path) -> None:
    exact = pack(folder, tmp_path / "exact", dtype=torch.float32)
    assert (exact.tensor, exact.error) == ("", 0.0) and exact.before == exact.after
    small = pack(folder, tmp_path / "small", dtype=torch.int8)
    assert small.after == sum(p.stat().st_size for p in (tmp_path / "small").iterdir()) < small.before
    before, after = tiny_model().state_dict(), VideoModel.load(small.folder).state_dict()
    errors = {k: ((after[k] - v).norm() / v.norm()).item() for k, v in before.items() if v.norm() > 0}
    assert max(errors, key=lambda k: errors[k]) == small.tensor and 1e-3 < small.error < 0.02
    assert errors[small.tensor] == pytest.approx(small.error)


def test_a_model_packed_in_8_bits_is_packed_again_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = pack(folder, tmp_path / "first", dtype=torch.int8)
    again = pack(first.folder, tmp_path / "again", dtype=torch.int8)
    assert again.error == 0.0
    for name in ("autoencoder.safetensors", "denoiser.safetensors", "model.yaml"):
        assert (first.folder / name).read_bytes() == (again.folder / name).read_bytes()


def test_a_clip_of_a_model_in_8_bits_is_nearly_the_same(folder: Path, tmp_path: Path) -> None:
    """Random weights, three steps, guidance 2: pixels in [-1, 1] differ by less than 0.1, the clip by less than 4%."""
    ours = VideoModel.load(folder, precision="float32").generate("a red ball", label="throw", seed=3)
    packed = VideoModel.load(pack(folder, tmp_path / "small", dtype=torch.int8).folder, precision="float32")
    assert all(p.dtype == torch.float32 for p in packed.denoiser.parameters())
    change = packed.generate("a red ball", label="throw", seed=3) - ours
    assert 0 < change.abs().max() < 0.1 and change.norm() < 0.04 * ours.norm()


def test_inspect_says_what_a_folder_is_stored_in(folder: Path, tmp_path: Path) -> None:
    parts = inspect(pack(folder, tmp_path / "small", dtype=torch.int8).folder).parts
    plain = inspect(folder).parts
    for name, part in parts.items():
        assert set(part.dtypes) == {"int8", "float16"} and set(plain[name].dtypes) == {"float32"}
        assert (part.parameters, part.tensors) == (plain[name].parameters, plain[name].tensors)


def test_the_command_says_sizes_and_error(folder: Path, tmp_path: Path) -> None:
    import typer

    from kinolab.cli.pack import pack as command

    app = typer.Typer()
    app.command()(command)
    words = [str(folder), "--out", str(tmp_path / "small"), "--stored", "int8"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0 and "MB in int8, from" in result.output
    assert "largest relative error of a tensor: 0.0" in result.output
