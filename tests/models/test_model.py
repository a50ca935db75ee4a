"""Model folders: what is saved is what is loaded, and what a model can't take is said."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kinolab import VideoModel
from kinolab.conditioning.text import ClipTextConfig
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig
from kinolab.models import Request, find_model, load_autoencoder, save_autoencoder
from tests.closeness import NETWORK, assert_close, assert_same
from tests.conditioning.text.tiny_text import make_clip
from tests.runtime.crashing import crashes
from tests.tiny_model import save_tiny_model, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.slow
def test_a_saved_model_generates_what_the_original_did(folder: Path) -> None:
    loaded = VideoModel.load(folder, precision="float32")
    ours = tiny_model().generate("a red ball", label="throw", seed=3)
    assert ours.shape == (1, 3, 5, 32, 32) and ours.abs().max() <= 1
    assert_same(loaded.generate("a red ball", label="throw", seed=3), ours)


@pytest.mark.slow
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


def test_a_negative_prompt_changes_the_video_and_none_does_not(folder: Path) -> None:
    model = VideoModel.load(folder, precision="float32")
    base = model.generate("a red ball", label=0)
    assert (model.generate("a red ball", label=0, negative="a blue box") - base).abs().max() > 1e-4
    away, towards = (Request("a red ball", label=0, negative=n) for n in ("a blue box", None))
    conditions = model.conditions([away, towards])
    negative = model.negative_conditions([away, towards], conditions)
    assert negative is not None and negative.label is not None and negative.null is not None
    assert negative.label.tolist() == [3, 3] and negative.null.tolist() == [False, True]
    assert negative.text is not None and model.text_encoder is not None
    assert torch.equal(negative.text[:1], model.text_encoder.encode(["a blue box"]).states)
    assert model.negative_conditions([towards], conditions) is None
    with pytest.raises(InputError, match="scale 1 has none"):
        model.generate("a red ball", negative="a box", guidance=GuidanceConfig())
    together = model.sample_latents([away, replace(towards, seed=1)])
    assert_close(together[1:], model.sample_latents([replace(towards, seed=1)]), within=NETWORK)


@pytest.mark.slow
def test_an_empty_prompt_may_stand_for_none(folder: Path) -> None:
    learned = VideoModel.load(folder, precision="float32")
    config = learned.config.model_copy(update={"null_prompt": "empty"})
    model = VideoModel(config, learned.autoencoder, learned.denoiser)
    model.precision = "float32"
    empty = learned.generate("a red ball", negative="")
    assert torch.equal(model.generate("a red ball"), empty) and not torch.equal(learned.generate("a red ball"), empty)
    assert model.conditions([Request()]).null is None


def test_an_encoder_of_another_width_is_refused(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    make_clip(tmp_path / "clip")
    model = VideoModel.load(folder)
    encoder = ClipTextConfig(folder=tmp_path / "clip", max_tokens=12)
    wrong = VideoModel(model.config.model_copy(update={"text_encoder": encoder}), model.autoencoder, model.denoiser)
    with pytest.raises(InputError, match=r"denoiser\.text_dim=384: the text encoder clip gives 8; set 8"):
        wrong.generate("a ball")
    wrong.save(tmp_path / "saved")
    assert VideoModel.load(tmp_path / "saved").config.text_encoder == encoder


def test_a_clip_does_not_depend_on_the_batch_it_is_made_in(folder: Path) -> None:
    model = VideoModel.load(folder, precision="float32")
    both = model.generate(["a red ball", "a blue box"], seed=4)
    alone = model.generate("a blue box", seed=5)
    assert_close(both[1:], alone, within=NETWORK)


def test_other_lengths_and_sizes_warn(folder: Path) -> None:
    model = VideoModel.load(folder, precision="float32")
    with pytest.warns(UserWarning, match="interpolat"):
        assert model.generate("a ball", frames=9, size=(32, 48)).shape == (1, 3, 9, 32, 48)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": "jump"}, r"label 'jump'.*0 \(fall\), 1 \(throw\), 2 \(float\)"),
        ({"label": 3}, "label 3"),
        ({"frames": 6}, "1 \\+ 4\\*k frames, got 6; use 5 or 9"),
        ({"size": (30, 32)}, "multiples of 4"),
        ({"sampler": "dim"}, "sampler: unknown sampler 'dim'; expected one of ddpm, ddim, "),
        ({"guidance": -3.0}, "guidance: scale: Input should be greater than or equal to 0"),
    ],
)
def test_requests_that_do_not_fit_are_refused(folder: Path, arguments: dict[str, object], message: str) -> None:
    model = VideoModel.load(folder, precision="float32")
    with pytest.raises(InputError, match=message):
        model.generate(**arguments)  # type: ignore[arg-type]


def test_a_model_without_text_refuses_a_prompt(tmp_path: Path) -> None:
    model = VideoModel.load(save_tiny_model(tmp_path, text=False))
    for arguments in ({"prompt": "a red ball"}, {"negative": "a red ball"}):
        with pytest.raises(InputError, match="takes no prompt; it takes a label"):
            model.generate(**arguments)  # type: ignore[arg-type]


def test_wrong_folders_are_explained(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="no such model"):
        find_model(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no model\.yaml inside"):
        find_model(tmp_path)
    save_autoencoder(tiny_model().autoencoder, tmp_path / "autoencoder")
    with pytest.raises(InputError, match="no denoiser"):
        VideoModel.load(tmp_path / "autoencoder")
    assert load_autoencoder(tmp_path / "autoencoder").spec == load_autoencoder(folder).spec


@pytest.mark.slow
def test_weights_that_do_not_fit_list_every_key(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    weights = load_file(folder / "denoiser.safetensors")
    first, second = list(weights)[:2]
    weights["extra.weight"] = torch.zeros(1)
    weights[second] = torch.zeros(7, 7)
    del weights[first]
    save_file(weights, folder / "denoiser.safetensors")
    with pytest.raises(InputError, match="and was written with"):  # not the file of this set
        VideoModel.load(folder)
    (folder / "manifest.json").unlink()  # as folders of before 0.2 have none
    with pytest.raises(InputError) as caught:
        VideoModel.load(folder)
    for part in (f"missing {first}", "unexpected extra.weight", f"{second} has shape (7, 7)"):
        assert part in str(caught.value)


@pytest.mark.slow
def test_half_precision_storage_loads_as_float32(tmp_path: Path) -> None:
    model = tiny_model()
    model.save(tmp_path / "half", dtype=torch.float16)
    loaded = VideoModel.load(tmp_path / "half", precision="float32")
    a, b = loaded.generate("a ball"), model.generate("a ball")
    assert all(p.dtype == torch.float32 for p in loaded.denoiser.parameters())
    assert (a - b).abs().max() < 0.02


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.wide)])
@pytest.mark.slow
def test_a_model_over_another_is_never_a_mix_of_both(tmp_path: Path, every: int) -> None:
    """Killed before or after any call to the system, the folder holds the old model or the new one, whole."""
    rows = (0.5, 2.0)

    def write(root: Path, value: float) -> None:
        model = tiny_model(text=False)
        for module in (model.autoencoder, model.denoiser):
            for parameter in module.parameters():
                parameter.data.fill_(value)
        model.save(root / "m")

    def values(root: Path) -> set[float]:
        model = VideoModel.load(root / "m")
        parts = (model.autoencoder, model.denoiser)
        return {round(float(p.detach().mean()), 3) for module in parts for p in module.parameters()}

    seen = set()
    for point in crashes(
        lambda root: write(root, rows[0]),
        lambda root: write(root, rows[1]),
        tmp_path,
        points=lambda number: number % every == 0,
    ):
        found = values(point.root)
        assert len(found) == 1, str(point)
        seen |= found
    assert seen == set(rows)


def test_a_part_of_another_model_is_refused(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "a")
    other = tiny_model()
    next(other.denoiser.parameters()).data += 1
    other.save(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "denoiser.safetensors", tmp_path / "a")
    with pytest.raises(InputError, match=r"denoiser\.safetensors: .*write the folder again"):
        VideoModel.load(tmp_path / "a")


def test_a_config_of_more_parameters_than_the_file_holds_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    tiny_model(text=False).save(tmp_path)
    config = (tmp_path / "model.yaml").read_text()
    (tmp_path / "model.yaml").write_text(config.replace("hidden_size: 16\n", "hidden_size: 160000\n"))
    with pytest.raises(InputError, match=r"denoiser.safetensors: does not fit model.yaml, which asks for more param"):
        VideoModel.load(tmp_path, device="cpu")
    (tmp_path / "model.yaml").write_text(config)
    VideoModel.load(tmp_path, device="cpu")
