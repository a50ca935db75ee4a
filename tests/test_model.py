"""Model folders: what is saved is what is loaded, and what a model can't take is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kinolab import VideoModel
from kinolab.errors import InputError
from kinolab.model import find_model, load_autoencoder, pack, save_autoencoder
from tests.tiny_model import save_tiny_model, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def test_a_saved_model_generates_what_the_original_did(folder: Path) -> None:
    loaded = VideoModel.load(folder, precision="float32")
    ours = tiny_model().generate("a red ball", label="throw", seed=3)
    assert ours.shape == (1, 3, 5, 32, 32) and ours.abs().max() <= 1
    torch.testing.assert_close(loaded.generate("a red ball", label="throw", seed=3), ours, atol=0, rtol=0)


def test_prompt_label_and_seed_each_change_the_video(folder: Path) -> None:
    model = VideoModel.load(folder, precision="float32")
    base = model.generate("a red ball", label=0, seed=0)
    for other in (
        model.generate("a blue box", label=0, seed=0),
        model.generate("a red ball", label=1, seed=0),
        model.generate("a red ball", label=0, seed=1),
        model.generate(label=0, seed=0),
    ):
        assert (other - base).abs().max() > 1e-4


def test_a_clip_does_not_depend_on_the_batch_it_is_made_in(folder: Path) -> None:
    model = VideoModel.load(folder, precision="float32")
    both = model.generate(["a red ball", "a blue box"], seed=4)
    alone = model.generate("a blue box", seed=5)
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0)


def test_other_lengths_and_sizes_warn(folder: Path) -> None:
    model = VideoModel.load(folder, precision="float32")
    with pytest.warns(UserWarning, match="interpolat"):
        assert model.generate("a ball", frames=9, size=(32, 48)).shape == (1, 3, 9, 32, 48)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": "jump"}, r"label 'jump'.*0 \(fall\), 1 \(throw\), 2 \(float\)"),
        ({"label": 3}, "label 3"),
        ({"frames": 6}, "1 \\+ 4\\*k frames, got 6; use 5 or 9"),
        ({"size": (30, 32)}, "multiples of 4"),
    ],
)
def test_requests_that_do_not_fit_are_refused(folder: Path, arguments: dict[str, object], message: str) -> None:
    model = VideoModel.load(folder, precision="float32")
    with pytest.raises(InputError, match=message):
        model.generate(**arguments)  # type: ignore[arg-type]


def test_a_model_without_text_refuses_a_prompt(tmp_path: Path) -> None:
    model = VideoModel.load(save_tiny_model(tmp_path, text=False))
    with pytest.raises(InputError, match="takes no prompt; it takes a label"):
        model.generate("a red ball")


def test_wrong_folders_are_explained(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="no such model"):
        find_model(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no model\.yaml inside"):
        find_model(tmp_path)
    save_autoencoder(tiny_model().autoencoder, tmp_path / "autoencoder")
    with pytest.raises(InputError, match="no denoiser"):
        VideoModel.load(tmp_path / "autoencoder")
    assert load_autoencoder(tmp_path / "autoencoder").spec == load_autoencoder(folder).spec


def test_weights_that_do_not_fit_list_every_key(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    weights = load_file(folder / "denoiser.safetensors")
    first, second = list(weights)[:2]
    weights["extra.weight"] = torch.zeros(1)
    weights[second] = torch.zeros(7, 7)
    del weights[first]
    save_file(weights, folder / "denoiser.safetensors")
    with pytest.raises(InputError) as caught:
        VideoModel.load(folder)
    for part in (f"missing {first}", "unexpected extra.weight", f"{second} has shape (7, 7)"):
        assert part in str(caught.value)


def test_half_precision_storage_loads_as_float32(tmp_path: Path) -> None:
    model = tiny_model()
    model.save(tmp_path / "half", dtype=torch.float16)
    loaded = VideoModel.load(tmp_path / "half", precision="float32")
    a, b = loaded.generate("a ball"), model.generate("a ball")
    assert all(p.dtype == torch.float32 for p in loaded.denoiser.parameters())
    assert (a - b).abs().max() < 0.02


def test_packing_takes_another_decoder_but_not_another_encoder(folder: Path, tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.autoencoder.last_layer.mul_(2)
    save_autoencoder(model.autoencoder, tmp_path / "decoder")
    packed = VideoModel.load(pack(folder, tmp_path / "packed", autoencoder=tmp_path / "decoder"))
    torch.testing.assert_close(packed.autoencoder.last_layer, model.autoencoder.last_layer, atol=1e-3, rtol=1e-3)
    with torch.no_grad():
        model.autoencoder.latent_scale.mul_(2)
    save_autoencoder(model.autoencoder, tmp_path / "scaled")
    with pytest.raises(InputError, match="don't fit"):
        pack(folder, tmp_path / "refused", autoencoder=tmp_path / "scaled")
    assert not (tmp_path / "refused").exists()
