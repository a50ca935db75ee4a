"""What `kinolab verify` says of whole and damaged runs, caches, models, results and videos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from kinolab import video
from kinolab.cli import main
from kinolab.errors import InputError
from kinolab.generation.provenance import frames_hash, provenance_path
from kinolab.runtime import sets, sharded
from kinolab.runtime.hashes import file_sha256
from kinolab.runtime.records import write_record
from kinolab.runtime.summed import summed
from kinolab.runtime.weights import write_weights
from kinolab.verify import Finding, verify


def tensors() -> dict[str, torch.Tensor]:
    return {"w": torch.linspace(-1, 1, 3000).view(30, 100), "h": torch.arange(70).half(), "n": torch.arange(5)}


def damage(path: Path) -> list[Finding]:
    return [finding for finding in verify(path) if finding.damaged]


def notes(path: Path) -> list[Finding]:
    return [finding for finding in verify(path) if not finding.damaged]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    with sets.new_set(folder, "model", manifest=sets.MANIFEST) as room:
        write_weights(room / "autoencoder.safetensors", tensors())
        shutil.copyfile(Path(__file__).parents[1] / "kinolab/pretrained/world/model.yaml", room / "model.yaml")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    checkpoint = folder / "checkpoints" / "step-00000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"step": 3, "processes": 1, "optimizers": []}) + "\n")
    sharded.save({"net": {"weights": tensors(), "rate": 0.5}}, checkpoint, alone=True)
    sharded.seal(checkpoint)
    (folder / "log.jsonl").write_text((summed({"step": 1, "kind": "train", "loss": 0.5}) + "\n") * 3)
    (folder / "recipe.yaml").write_text("kind: autoencoder\n")
    return folder


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "videos" / "clip.mkv"
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[1:, 4:9] = 200
    video.write(path, frames, 8.0, lossless=True)
    record = {"request": {"model": "world"}, "index": 0, "model_sha256": "0" * 64, "threads": 1}
    hashes = {"frames_sha256": frames_hash(path), "file_sha256": file_sha256(path)}
    write_record(provenance_path(path), record | hashes)
    return path


@pytest.fixture
def cache(net_cache: Path, tmp_path: Path) -> Path:
    """The archive's cache, its shards written again with the sums of today."""
    folder = tmp_path / "cache"
    shutil.copytree(net_cache, folder)
    for shard in sorted((folder / "shards").iterdir()):
        from safetensors.torch import load

        state = load(shard.read_bytes())
        shard.unlink()
        write_weights(shard, state)
    return folder


@pytest.fixture(scope="session")
def net_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tarfile

    folder = tmp_path_factory.mktemp("caches")
    with tarfile.open(Path(__file__).parent / "net" / "d564d33.tar.xz") as tar:
        members = [m for m in tar if m.name.startswith("caches/plain")]
        tar.extractall(folder, members, filter="data")
    return folder / "caches" / "plain"


def flips(path: Path, count: int, seed: int = 0) -> Iterator[int]:
    """Flip one bit after the other, each undone again; yields where."""
    data, rng = path.read_bytes(), Random(seed)
    for _ in range(count):
        bit = rng.randrange(8 * len(data))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        yield bit
    path.write_bytes(data)


def missed(folder: Path, path: Path, count: int) -> list[int]:
    """Flips of which not a word was said; a flip in the hash of a file that people edit is a note, as is an edit."""
    return [bit for bit in flips(path, count) if not list(verify(folder))]


def test_what_is_whole_is_whole(model: Path, run: Path, cache: Path, clip: Path, tmp_path: Path) -> None:
    for path in (model, run, cache, clip, provenance_path(clip), tmp_path):
        assert not damage(path), path
    assert not notes(model) and not notes(run) and not notes(clip)


@pytest.mark.slow
def test_every_flipped_bit_of_a_model_is_noticed(model: Path) -> None:
    assert not missed(model, model / "autoencoder.safetensors", 100)
    assert not missed(model, model / "manifest.json", 30)


def test_every_flipped_bit_of_weights_alone_is_noticed(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.safetensors", tensors())
    assert not missed(tmp_path / "a.safetensors", tmp_path / "a.safetensors", 100)


@pytest.mark.slow
def test_every_flipped_bit_of_a_checkpoint_is_noticed(run: Path) -> None:
    for path in sorted((run / "checkpoints" / "step-00000003").iterdir()):
        assert not missed(run, path, 100 if path.suffix == ".safetensors" else 15), path.name


def test_every_flipped_bit_of_a_shard_is_noticed(cache: Path) -> None:
    shard = min((cache / "shards").iterdir())
    assert not missed(cache, shard, 100)


def test_a_flipped_bit_of_a_video_changes_its_file(clip: Path) -> None:
    """Either its frames are others, or it is said to be another file with the same ones."""
    assert not [bit for bit in flips(clip, 25) if not list(verify(clip))]


def test_the_same_frames_in_another_file_are_no_damage(clip: Path) -> None:
    frames = video.read(clip)
    video.write(clip, frames.frames, 12.0, lossless=True)
    (found,) = verify(clip)
    assert not found.damaged and "re-muxed" in found.what


def test_other_frames_are_damage(clip: Path) -> None:
    frames = video.read(clip)
    video.write(clip, 255 - frames.frames, 8.0, lossless=True)
    (found,) = damage(provenance_path(clip))
    assert "frames are not those" in found.what and "rerun" in found.todo


def test_files_that_people_edit_get_a_note(model: Path, run: Path) -> None:
    text = (model / "model.yaml").read_text(encoding="utf-8")
    (model / "model.yaml").write_text("# mine\n" + text, encoding="utf-8")
    (run / "recipe.yaml").write_text("kind: autoencoder\nname: mine\n")
    assert not damage(model) and not damage(run)
    assert ["changed" in note.what for note in notes(model)] == [True]


def test_what_has_no_sums_gets_a_note(net_cache: Path) -> None:
    assert not damage(net_cache)
    assert "no sums" in notes(net_cache)[0].what


def test_missing_files_are_damage(model: Path, cache: Path) -> None:
    (model / "autoencoder.safetensors").unlink()
    min((cache / "shards").iterdir()).unlink()
    assert "missing" in damage(model)[0].what and "missing" in damage(cache)[0].what
    assert "encode again" in damage(cache)[0].todo


def test_nothing_that_kinolab_writes_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for path in (tmp_path, tmp_path / "a.txt", tmp_path / "none"):
        with pytest.raises(InputError):
            list(verify(path))


def test_the_command_lists_all_and_ends_with_one_line(
    model: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(model), str(run)])
    assert not stop.value.code
    assert capsys.readouterr().out.startswith("whole: ")
    for path in (model / "autoencoder.safetensors", min(run.glob("checkpoints/*/*.safetensors"))):
        next(flips(path, 1))
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(model), str(run)])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.err.count("\n") == 1 and "damaged" in said.err
    lines = said.out.splitlines()
    assert len([line for line in lines if line.startswith("damaged")]) >= 2
    assert all("; " in line for line in lines if line.startswith("damaged"))
