"""Adapters on a model: merged and beside, several, in files that say so, made again, and refused in one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinolab import video
from kinolab.checkpoints.adapters import AdapterUse, LowRank, beside, layout_of, parse_use, put_on, write_adapter
from kinolab.errors import InputError
from kinolab.generation.generate import generate, rerun
from kinolab.generation.provenance import provenance_path
from kinolab.models import Request, VideoModel
from tests.closeness import assert_close, assert_same
from tests.models.test_stages import two_experts
from tests.tiny_model import save_tiny_model, tiny_model


def adapter(path: Path, model: VideoModel, seed: int, rank: int = 2) -> Path:
    """A random adapter of all layers of a model's denoiser, in peft's form."""
    source = torch.Generator().manual_seed(seed)
    layers = {}
    for name, place in layout_of(model.denoiser, "kinolab").places.items():
        out, *rest = model.denoiser.get_parameter(f"{place.layer}.weight").shape
        down, up = torch.randn(rank, *rest, generator=source), torch.randn(out, rank, generator=source)
        layers[name] = LowRank(0.2 * down, 0.2 * up, 1.0)
    write_adapter(path, layers, "peft", "transformer")
    return path


def sampled(model: VideoModel) -> Tensor:
    return model.sample_latents([Request(label=1, seed=3)])


def uses(*pairs: tuple[Path, float]) -> Sequence[AdapterUse]:
    return [AdapterUse(path=path, weight=weight) for path, weight in pairs]


def test_several_add_up_merged_or_beside_and_the_model_stays(tmp_path: Path) -> None:
    model = tiny_model(text=False)
    before = sampled(model)
    a, b = adapter(tmp_path / "a", model, 1), adapter(tmp_path / "b", model, 2, rank=1)
    merged = put_on(model, uses((a, 0.7), (b, -0.4)))
    beside = put_on(model, uses((a, 0.7), (b, -0.4)), merged=False)
    twice = put_on(put_on(model, uses((b, -0.4)), merged=False), uses((a, 0.7)), merged=False)
    assert (sampled(merged) - before).abs().max() > 0.01
    assert_close(sampled(beside), sampled(merged), within=1e-3)
    assert_close(sampled(twice), sampled(merged), within=1e-3)
    assert_same(sampled(model), before)
    assert_close(sampled(put_on(model, uses((a, 1.0), (a, -1.0)))), before, within=1e-3)
    assert put_on(model, []) is model


@pytest.mark.slow
def test_a_video_says_its_adapters_and_is_made_again(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", text=False)
    model = VideoModel.load(folder, device="cpu", precision="float32")
    a = adapter(tmp_path / "a", model, 1)
    asked = {"model": str(folder), "precision": "float32", "label": 1, "device": "cpu"}
    [plain] = generate(asked, tmp_path / "plain.mkv")
    files = {}
    for merge in (True, False):
        more = {"lora": [{"path": str(a), "weight": 0.5}], "merge_lora": merge}
        [files[merge]] = generate(asked | more, tmp_path / f"{merge}.mkv")
        record = json.loads(provenance_path(files[merge]).read_text())
        assert record["request"]["lora"] == more["lora"] and record["request"]["merge_lora"] is merge
        assert set(record["inputs_sha256"]) == {
            str(a / n) for n in ("adapter_model.safetensors", "adapter_config.json")
        }
        assert rerun(files[merge], tmp_path / "again.mkv")[1] == []
    frames = {name: video.read(path).frames.astype(int) for name, path in (*files.items(), ("plain", plain))}
    assert abs(frames[True] - frames[False]).max() <= 1 < abs(frames[True] - frames["plain"]).max()
    [same] = generate(asked | {"lora": [{"path": str(a), "weight": 0.5}]}, tmp_path / "held.mkv", model=model)
    assert (video.read(same).frames == frames[True]).all()
    assert_same(dict(model.denoiser.state_dict()), dict(VideoModel.load(folder, device="cpu").denoiser.state_dict()))
    adapter(a, model, 9)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors, which was given, has changed since"):
        rerun(files[True], tmp_path / "again.mkv")


def test_a_weight_stands_behind_the_last_colon(tmp_path: Path) -> None:
    assert parse_use("a.safetensors") == AdapterUse(path=Path("a.safetensors"), weight=1.0)
    assert parse_use("a.safetensors:0.8") == AdapterUse(path=Path("a.safetensors"), weight=0.8)
    assert parse_use("c:/a.safetensors:-1e-1") == AdapterUse(path=Path("c:/a.safetensors"), weight=-0.1)
    (tmp_path / "odd:2").mkdir()
    assert parse_use(str(tmp_path / "odd:2")).weight == 1.0
    for text in ("a.safetensors:much", "a.safetensors:nan", "a.safetensors:inf", "a.safetensors:", ":0.5"):
        with pytest.raises(InputError, match=r"--lora .*: expected FILE:WEIGHT with a number"):
            parse_use(text)


def test_an_adapter_of_another_model_and_one_of_text_alone(tmp_path: Path) -> None:
    model, other = tiny_model(text=False), tmp_path / "x.safetensors"
    layer = LowRank(torch.ones(1, 4), torch.ones(4, 1))
    write_adapter(other, {"down_blocks.0.attentions.0.proj_in": layer}, "kohya", "unet")
    with pytest.raises(InputError, match=r"an adapter for another model: none of its 1 layers is one of this Latte"):
        put_on(model, uses((other, 1.0)))
    write_adapter(other, {"x": layer}, "diffusers", "text_encoder")
    with pytest.raises(InputError, match="changes text encoders alone, and none can be changed here"):
        put_on(model, uses((other, 1.0)))


def test_every_expert_is_changed_and_none_has_one_beside_it(tmp_path: Path) -> None:
    model = two_experts()
    path = adapter(tmp_path / "a", model, 1)
    made = put_on(model, uses((path, 1.0)))
    for before, after in zip((model.denoiser, *model.experts), (made.denoiser, *made.experts), strict=True):
        name = "blocks.0.attn.qkv.weight"
        assert not torch.equal(before.get_parameter(name), after.get_parameter(name))
    assert (sampled(made) - sampled(model)).abs().max() > 0.01
    with pytest.raises(InputError, match="a model of experts has no adapters beside it"):
        beside(model, "style", uses((path, 1.0))[0])
