"""`kinolab lora`, and --lora of the commands that make videos, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab import video
from kinolab.checkpoints.adapters import LowRank, read_adapter, write_adapter
from kinolab.models import VideoModel
from tests.cli.every import run
from tests.tiny_model import save_tiny_model, tiny_model, tiny_vdt

Printed = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, one trained on from the other by a change of rank 2 in its attention."""
    folder = tmp_path_factory.mktemp("lora")
    save_tiny_model(folder / "base", text=False)
    tuned = tiny_model(text=False)
    torch.manual_seed(3)
    with torch.no_grad():
        for k in range(2):
            weight = tuned.denoiser.get_parameter(f"blocks.{k}.attn.qkv.weight")
            weight.add_(0.3 * torch.randn(len(weight), 2) @ torch.randn(2, weight.shape[1]))
    tuned.save(folder / "tuned")
    tiny_vdt().save(folder / "vdt")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(VideoModel.load(folder, device="cpu").denoiser.state_dict())


@pytest.mark.slow
def test_what_was_extracted_and_converted_gives_the_tuned_model_again(
    place: Path, tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    out = tmp_path / "style.safetensors"
    assert run("lora", "extract", "base", "tuned", "--rank", 2, "--to", "kohya", "-o", out) == 0
    said = capsys.readouterr().out
    assert "blocks.0.attn.qkv  rank   2, keeps 100.00% of a change of" in said and "in no change" not in said
    assert run("lora", "convert", out, "--model", "base", "--to", "peft", "-o", tmp_path / "peft") == 0
    assert "2 layers named as in kinolab" in capsys.readouterr().out
    assert set(read_adapter(tmp_path / "peft").layers) == {f"blocks.{k}.attn.qkv" for k in range(2)}
    shown = {}
    asked: dict[str, list[Any]] = {
        "tuned": ["--model", "tuned"],
        "style": ["--model", "base", "--lora", f"{out}:1"],
        "halves": ["--model", "base", "--lora", f"{tmp_path / 'peft'}:0.5", "--lora", f"{out}:0.5"],
        "beside": ["--model", "base", "--lora", out, "-s", "merge_lora=false"],
        "base": ["--model", "base"],
    }
    for name, words in asked.items():
        path = tmp_path / f"{name}.mkv"
        assert run("generate", "--label", 1, *words, "--out", path, "-s", "precision=float32") == 0
        shown[name] = video.read(path).frames.astype(int)
    for name in ("style", "halves", "beside"):
        assert abs(shown[name] - shown["tuned"]).max() <= 1, name
    assert abs(shown["base"] - shown["tuned"]).max() > 2
    assert run("rerun", tmp_path / "halves.mkv", "--out", tmp_path / "again.mkv") == 0
    record = json.loads((tmp_path / "halves.json").read_text())
    assert [use["weight"] for use in record["request"]["lora"]] == [0.5, 0.5]
    # VDT's blocks have layers of these names and sizes too.
    told = ("predict", tmp_path / "base.mkv", "--model", "vdt", "--given", 2, "--lora", f"{out}:1")
    assert run(*told, "--out", tmp_path / "p.mkv") == 0
    assert json.loads((tmp_path / "p.json").read_text())["request"]["lora"] == [{"path": str(out), "weight": 1.0}]
    assert run("rerun", tmp_path / "p.mkv", "--out", tmp_path / "again.mkv") == 0


@pytest.mark.slow
def test_a_mistake_is_one_line(place: Path, tmp_path: Path, capsys: Printed) -> None:
    base, out = place / "base", tmp_path / "a.safetensors"
    assert run("lora", "extract", base, place / "tuned", "--rank", 1, "--to", "kohya", "-o", out) == 0
    capsys.readouterr()
    unet = tmp_path / "unet.safetensors"
    write_adapter(unet, {"mid_block.attentions.0.proj_in": LowRank(torch.ones(1, 4), torch.ones(4, 1))}, "kohya", "")
    said = {
        ("lora", "extract", base, base, "-o", tmp_path / "x"): "the same weights in all layers",
        ("lora", "extract", base, place / "vdt", "-o", tmp_path / "x"): "a Latte and a Vdt with",
        ("lora", "extract", base, place / "tuned", "-o", out): "exists; choose another name, or --overwrite",
        ("lora", "extract", base, place / "tuned", "-o", tmp_path / "x.safetensors"): "the form of peft is a folder",
        (
            "lora",
            "extract",
            base,
            place / "tuned",
            "-o",
            tmp_path / "x",
            "--layout",
            "sd3",
        ): "sd3: no layout of a Latte; expected",
        (
            "lora",
            "extract",
            base,
            place / "tuned",
            "-o",
            tmp_path / "x",
            "--layers",
            "q",
        ): "the same weights in all layers",
        ("lora", "convert", unet, "--model", place / "vdt", "-o", tmp_path / "x"): "an adapter for another model: ",
        ("generate", "--label", 1, "--model", base, "--lora", f"{out}:x"): "expected FILE:WEIGHT with a number",
        ("generate", "--label", 1, "--model", base, "--lora", "gone.safetensors:1"): "gone.safetensors: no such file",
        ("generate", "--model", place / "vdt", "--lora", f"{unet}:1"): "an adapter for another model: ",
    }
    for words, expected in said.items():
        assert run(*words) == 2, words
        error = capsys.readouterr().err.strip().splitlines()
        assert expected in error[-1] and error[-1].startswith("kinolab: "), error
    assert not (tmp_path / "x").exists()
