"""Agreement with the prompt, on tiny random CLIP and X-CLIP models written to disk."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.errors import InputError
from kinolab.metrics.text import PromptAgreement, weights_hash
from kinolab.metrics.weights import file_hash
from tests.closeness import assert_close

transformers = pytest.importorskip("transformers")
START, END = "<|startoftext|>", "<|endoftext|>"
SIZE = 16
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def tokenizer_files(folder: Path) -> list[str]:
    """A tokenizer of single letters, as CLIP's vocab.json and merges.txt write it."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{c}</w>" for c in letters), START, END]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return words


def make(folder: Path, kind: str) -> Any:
    folder.mkdir()
    words = tokenizer_files(folder)
    text = {
        "vocab_size": len(words), "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 12, "bos_token_id": len(words) - 2,
        "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": SIZE, "patch_size": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
        model = transformers.CLIPModel(config)
    else:
        more = {"num_frames": 2, "mit_hidden_size": 6, "mit_intermediate_size": 8, "mit_num_attention_heads": 1}
        config = transformers.XCLIPConfig(
            text_config=text,
            vision_config=vision | more,
            projection_dim=6,
            prompt_layers=1,
            prompt_num_attention_heads=1,
        )
        model = transformers.XCLIPModel(config)
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD, "resample": 3}))
    return model


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("models") / "clip"
    return folder, make(folder, "clip")


@pytest.fixture(scope="module")
def xclip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("models") / "xclip"
    return folder, make(folder, "xclip")


def video(batch: int = 2, frames: int = 3, size: int = SIZE) -> Tensor:
    return torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def ids(prompt: str) -> Tensor:
    """Start, letters (the last of each word marked), end."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    found = [52]
    for word in prompt.split():
        found += [letters.index(c) for c in word[:-1]] + [26 + letters.index(word[-1])]
    return torch.tensor([[*found, 53]])


def normalised(clip: Tensor) -> Tensor:
    """(3, T, H, W) in [-1, 1] -> (T, 3, H, W)."""
    shape = (3, 1, 1, 1)
    return (((clip + 1) / 2 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)).transpose(0, 1)


@pytest.mark.slow
def test_clipsim_is_the_mean_over_frames_of_the_cosine(clip: tuple[Path, Any]) -> None:
    folder, model = clip
    metric = PromptAgreement(folder)
    clips, prompts = video(), ["a red ball", "abc"]
    metric.update(clips, prompts)
    expected = []
    with torch.no_grad():
        for c, prompt in zip(clips, prompts, strict=True):
            answer = model(input_ids=ids(prompt), pixel_values=normalised(c), attention_mask=None)
            expected.append(float((answer.logits_per_image / model.logit_scale.exp()).mean()))
    assert_close(metric.per_clip, expected)
    assert abs(expected[0] - expected[1]) > 1e-3
    assert_close(metric.compute().value, sum(expected) / 2)


def test_x_clip_looks_at_its_number_of_frames_of_the_whole_clip(xclip: tuple[Path, Any]) -> None:
    folder, model = xclip
    metric = PromptAgreement(folder)
    clips = video(frames=5)
    metric.update(clips, ["a red ball", "abc"])
    with torch.no_grad():
        chosen = normalised(clips[0])[[0, 4]]
        answer = model(input_ids=ids("a red ball"), pixel_values=chosen[None], attention_mask=None)
        expected = float(answer.logits_per_video / model.logit_scale.exp())
    assert_close(metric.per_clip[0], expected)
    assert metric._settings()["encoder_frames"] == 2
    with pytest.raises(InputError, match="at least 2 frames, got 1"):
        metric.update(clips[:, :, :1], ["a", "b"])


def test_wide_frames_are_shrunk_and_cut_to_the_middle(clip: tuple[Path, Any]) -> None:
    metric = PromptAgreement(clip[0])
    clips = video(1, size=2 * SIZE)
    wide = torch.cat([torch.ones_like(clips), clips, -torch.ones_like(clips)], 4)
    small = F.interpolate(clips[0].transpose(0, 1), (SIZE, SIZE), mode="bicubic", antialias=True)
    frames = metric._pixels((wide[0] + 1) / 2)
    assert frames.shape == (3, 3, SIZE, SIZE)
    inner = (..., slice(4, 12), slice(4, 12))  # the filter mixes in what lies beside the crop
    expected = normalised(small.clamp(-1, 1).transpose(0, 1))
    assert_close(frames[inner], expected[inner])


def test_value_interval_and_protocol(clip: tuple[Path, Any]) -> None:
    folder, _ = clip
    metric = PromptAgreement(folder)
    with pytest.raises(InputError, match="prompt_agreement has seen no clips"):
        metric.compute()
    metric.update(video(4), ["a", "b", "c", "d"])
    score = metric.compute()
    assert score.count == 4 and score.interval is not None and score.interval.low < score.value < score.interval.high
    assert score.protocol["encoder"] == "clip" and score.protocol["encoder_size"] == f"{SIZE}x{SIZE}"
    assert score.protocol["encoder_sha256"] == file_hash(folder / "model.safetensors") == weights_hash(folder)


def test_one_prompt_per_clip(clip: tuple[Path, Any]) -> None:
    metric = PromptAgreement(clip[0])
    for prompts in (["a"], "ab", ["a", 3]):
        with pytest.raises(InputError, match="expected one prompt for each of 2 clips"):
            metric.update(video(), prompts)  # type: ignore[arg-type]
    assert not metric.per_clip


def test_a_long_prompt_is_cut_with_a_warning(clip: tuple[Path, Any]) -> None:
    metric = PromptAgreement(clip[0])
    with pytest.warns(UserWarning, match="cut to 12 tokens"):
        metric.update(video(1), ["a very long prompt indeed"])
    assert len(metric.per_clip) == 1


def test_folders_that_hold_no_such_model(clip: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        PromptAgreement(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="a model of type 'bert', expected clip or xclip"):
        PromptAgreement(tmp_path)
    (tmp_path / "config.json").write_text((clip[0] / "config.json").read_text())
    with pytest.raises(InputError, match=r"no weights; expected model\.safetensors"):
        PromptAgreement(tmp_path)


@pytest.mark.parametrize("name", ["vocab.json", "preprocessor_config.json"])
def test_a_folder_that_is_not_whole(clip: tuple[Path, Any], tmp_path: Path, name: str) -> None:
    for file in clip[0].iterdir():
        if file.name != name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError) as caught:
        PromptAgreement(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_weights_are_not_made_up(clip: tuple[Path, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in clip[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    del state["text_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights of CLIPModel are missing: text_projection\.weight"):
        PromptAgreement(tmp_path)
