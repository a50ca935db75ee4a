"""--lora of the commands that measure: the model wears the adapter, the record names it, and nothing ignores it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kinolab.checkpoints.adapters import AdapterUse, LowRank, layout_of, put_on, write_adapter
from kinolab.errors import InputError
from kinolab.evaluation.records import settings_hash
from kinolab.generation.generate import generate
from kinolab.generation.request import GenerateConfig
from kinolab.models import VideoModel
from tests.cli.every import run
from tests.tiny_model import save_tiny_model, tiny_model

Printed = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model `m`, and an adapter `style.safetensors` of its attention."""
    folder = tmp_path_factory.mktemp("worn")
    save_tiny_model(folder / "m")
    source, layers = torch.Generator().manual_seed(5), {}
    denoiser = tiny_model().denoiser
    for name, place in layout_of(denoiser, "kinolab").places.items():
        if name.endswith("attn.qkv"):
            out, width = denoiser.get_parameter(f"{place.layer}.weight").shape
            layers[name] = LowRank(torch.randn(2, width, generator=source), torch.randn(out, 2, generator=source), 2.0)
    write_adapter(folder / "style.safetensors", layers, "kohya", "transformer")
    return folder


@pytest.mark.slow
def test_vbenchs_videos_are_those_of_generate(place: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a ball falls\n")
    use = f"{place / 'style.safetensors'}:0.5"
    made = ("--steps", 1, "--model", place / "m", "--precision", "float32", "--lora", use)
    assert run("vbench", tmp_path / "list.txt", "--videos", 1, "-o", tmp_path / "v", *made) == 0
    assert run("generate", "a ball falls", "--out", tmp_path / "a.mp4", *made) == 0
    bare = [word for word in made if word not in ("--lora", use)]
    assert run("generate", "a ball falls", "--out", tmp_path / "b.mp4", *bare) == 0
    of = [tmp_path / name for name in ("v/provenance/a ball falls-0.json", "a.json", "b.json")]
    theirs, worn, bare_record = (json.loads(path.read_text()) for path in of)
    assert theirs["frames_sha256"] == worn["frames_sha256"] != bare_record["frames_sha256"]
    assert theirs["request"]["lora"] == worn["request"]["lora"] and theirs["inputs_sha256"] == worn["inputs_sha256"]
    # What another adapter made is not gone on with.
    assert run("vbench", tmp_path / "list.txt", "--videos", 1, "-o", tmp_path / "v", *bare) == 2


@pytest.mark.slow
def test_tune_says_the_adapter_in_its_record_and_in_the_options(place: Path, tmp_path: Path, capsys: Printed) -> None:
    use, out = f"{place / 'style.safetensors'}:-1", tmp_path / "t.json"
    lists = ("--steps", "1", "--full-steps", 2, "--samplers", "euler", "--thresholds", "0.5", "--precisions", "float32")
    told = ("--prompt", "a ball", "--repeats", 1, *lists, "--lora", use, "--out", out)
    assert run("tune", place / "m", *told) == 0
    printed = capsys.readouterr().out
    assert f"kinolab generate --model {place / 'm'} --lora {use} " in printed or f"it is: --lora {use} " in printed
    record = json.loads(out.read_text())
    (worn,) = record["subject"]["adapters"]
    assert worn["weight"] == -1 and len(worn["sha256"]) == 1
    assert record["subject"]["name"] == f"{place / 'm'} + style.safetensors:-1"
    bare = {key: value for key, value in record["protocol"].items() if key != "adapters"}
    assert settings_hash(bare) == settings_hash(record["protocol"])  # a score with it compares with one without


def test_a_mistake_is_one_line(place: Path, tmp_path: Path, capsys: Printed) -> None:
    model = VideoModel.load(place / "m", device="cpu", precision="float32")
    worn = put_on(model, [AdapterUse(path=place / "style.safetensors", weight=0.5)])
    assert model.adapters == () and worn.adapters[0].weight == 0.5
    with pytest.raises(InputError, match=r"adapters on it that are not the request's \(.*style.safetensors:0.5\)"):
        generate(GenerateConfig(model=str(place / "m"), prompts=("a ball",)), tmp_path / "x.mkv", model=worn)
    assert run("evaluate", "world", "--model", place / "m", "--lora", place / "none.safetensors") == 2
    assert "none.safetensors: no such file" in capsys.readouterr().err
    (tmp_path / "clips").mkdir()
    for words in (["world", "--videos"], ["generation"]):
        asked = ("evaluate", *words, tmp_path / "clips", *["world"] * (len(words) == 1), "--lora", "style.safetensors")
        assert run(*asked) == 2 and "--lora is for a model" in capsys.readouterr().err
