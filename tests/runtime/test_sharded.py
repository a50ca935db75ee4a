"""Checkpoints without pickles: whole or refused, read by other numbers of processes, and torch's own read safely."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

from kinolab.errors import DamagedError, InputError
from kinolab.runtime import sharded
from kinolab.runtime.shard_storage import Writer, decode, encode
from tests.runtime.crashing import crashes, failures


def example(seed: int) -> dict[str, Any]:
    """A state as training has it: weights, an optimiser that has stepped, averages."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3 * seed, betas=(0.9, 0.99))
    net(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    state = {"weights": get_model_state_dict(net), "optimizer": get_optimizer_state_dict(net, optimizer)}
    return {"net": state, "net.ema": {"a": torch.full((3,), float(seed), dtype=torch.bfloat16)}}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{prefix}.{key}").items()}
    if isinstance(value, list):
        return {k: v for key, item in enumerate(value) for k, v in flat(item, f"{prefix}.{key}").items()}
    return {prefix: value}


def assert_same(actual: Any, expected: Any) -> None:
    a, e = flat(actual), flat(expected)
    assert a.keys() == e.keys()
    for key, value in e.items():
        if torch.is_tensor(value):
            assert torch.equal(a[key], value) and a[key].dtype == value.dtype, key
        else:
            assert a[key] == value and type(a[key]) is type(value), key


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, `new`, and one of the same state in torch's own format, `old`."""
    room = tmp_path_factory.mktemp("stored")
    (room / "new").mkdir()
    sharded.save(example(1), room / "new", alone=True)
    sharded.seal(room / "new")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(example(1), checkpoint_id=room / "old", no_dist=True)
    return room


def copy(stored: Path, form: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored / form, tmp_path / "step-1", dirs_exist_ok=True))


@pytest.mark.parametrize("form", ["new", "old"])
def test_a_state_comes_back_bit_for_bit(form: str, stored: Path) -> None:
    state = example(2)
    sharded.load(state, stored / form, alone=True)
    assert_same(state, example(1))
    assert sharded.problems(stored / form) == [] == sharded.verify(stored / form)


def test_the_files_are_tensors_and_json(stored: Path) -> None:
    names = sorted(p.name for p in (stored / "new").iterdir())
    assert names == ["manifest.json", "metadata.json", "rank-00000.safetensors"]
    values = json.loads((stored / "new" / "metadata.json").read_text())["values"]
    assert values["net.optimizer.param_groups.0.betas"] == {"tuple": [0.9, 0.99]}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_it_is_written_in_the_background_too(tmp_path: Path) -> None:
    state = example(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        future: Any = dcp.async_save(state, storage_writer=Writer(tmp_path), no_dist=True)
        for tensor in flat(state).values():
            if torch.is_tensor(tensor) and tensor.is_floating_point():
                tensor.data.zero_()  # training goes on
        getattr(future, "upload_completion", future).result()
    sharded.seal(tmp_path)
    loaded = example(2)
    sharded.load(loaded, tmp_path, alone=True)
    assert_same(loaded, example(1))


class Pieces:
    """A planner of one process among several, which holds a piece of one tensor."""

    def __init__(self, pieces: dict[tuple[int, ...], torch.Tensor]) -> None:
        self.pieces = pieces

    def resolve_data(self, item: WriteItem) -> torch.Tensor:
        return self.pieces[tuple(item.index.offset or ())]


def test_pieces_of_several_processes_are_read_by_one(tmp_path: Path) -> None:
    whole = torch.arange(40.0).view(8, 5)
    properties = TensorProperties(dtype=whole.dtype)
    chunks, results, writer = [], [], Writer(tmp_path)
    plans = []
    for begin, end in ((0, 3), (3, 8)):
        chunk = ChunkStorageMetadata(torch.Size([begin, 0]), torch.Size([end - begin, 5]))
        chunks.append(chunk)
        data = TensorWriteData(chunk, properties, whole.shape)
        index = MetadataIndex("w", chunk.offsets)
        plans.append(SavePlan([WriteItem(index, WriteItemType.SHARD, tensor_data=data)]))
    for plan, (begin, end) in zip(writer.prepare_global_plan(plans), ((0, 3), (3, 8)), strict=True):
        planner: Any = Pieces({(begin, 0): whole[begin:end]})
        results.append(writer.write_data(plan, planner).value())
    writer.finish(Metadata({"w": TensorStorageMetadata(properties, whole.shape, chunks)}), results)
    sharded.seal(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("rank-*")) == ["rank-00000.safetensors", "rank-00001.safetensors"]
    state = {"w": torch.zeros(8, 5)}
    sharded.load(state, tmp_path, alone=True)
    assert torch.equal(state["w"], whole)


@pytest.mark.parametrize("form", ["new", "old"])
def test_another_state_is_no_damage(form: str, stored: Path) -> None:
    for change in ({"net": {"weights": {"0.weight": torch.zeros(4, 9)}}}, {"other": torch.zeros(2)}):
        with pytest.raises(InputError, match="holds another state") as raised:
            sharded.load(change, stored / form, alone=True)
        assert not isinstance(raised.value, DamagedError)


@pytest.mark.slow
def test_every_flipped_bit_is_noticed(stored: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    folder = copy(stored, "new", tmp_path)
    files = sorted(folder.iterdir())
    for k in range(100):
        path = files[k % len(files)]
        before = path.read_bytes()
        data = bytearray(before)
        at = chance.randrange(len(data))
        data[at] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        if path.name != "manifest.json":  # of its own bits, a blank that is another is no damage
            assert sharded.verify(folder), f"{path.name}: byte {at}"
            with pytest.raises(DamagedError):
                sharded.load(example(2), folder, alone=True)
        else:
            try:
                state = example(2)
                sharded.load(state, folder, alone=True)
            except DamagedError:
                pass
            else:
                assert_same(state, example(1))
        path.write_bytes(before)


@pytest.mark.parametrize("form", ["new", "old"])
def test_missing_empty_and_cut_files_are_noticed(form: str, stored: Path, tmp_path: Path) -> None:
    folder = copy(stored, form, tmp_path)
    for path in sorted(folder.iterdir()):
        before = path.read_bytes()
        for damage in (b"", before[: len(before) // 2], None):
            path.write_bytes(damage) if damage is not None else path.unlink()
            with pytest.raises((DamagedError, FileNotFoundError)) as raised:
                sharded.load(example(2), folder, alone=True)
            assert "\n" not in str(raised.value)
            path.write_bytes(before)


def test_the_newest_whole_one_is_taken(stored: Path, tmp_path: Path) -> None:
    found = [Path(shutil.copytree(stored / "new", tmp_path / f"step-{k}")) for k in range(4)]
    (found[3] / "metadata.json").write_bytes(b"")
    tensors = found[2] / "rank-00000.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + bytes([tensors.read_bytes()[-1] ^ 1]))
    said: list[str] = []

    def load(folder: Path) -> str:
        state = example(2)
        sharded.load(state, folder, alone=True)
        assert_same(state, example(1))
        return folder.name

    assert sharded.newest_whole(found, load, said.append) == "step-1"
    assert [line.split(" ")[0] for line in said] == ["step-3", "step-2", "going"]
    assert sharded.newest_whole([], load, said.append) is None
    with pytest.raises(DamagedError, match="none of 2 checkpoints is whole"):
        sharded.newest_whole(found[2:], load, said.append)

    def misfit(folder: Path) -> str:
        raise InputError("another state")

    with pytest.raises(InputError, match="another state"):
        sharded.newest_whole(found, misfit, said.append)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_planted_metadata_runs_nothing(stored: Path, tmp_path: Path) -> None:
    folder, mark = copy(stored, "old", tmp_path), tmp_path / "ran"
    real: Metadata = pickle.loads((folder / ".metadata").read_bytes())
    planted: list[Any] = [Evil(mark)]
    for field in ("planner_data", "storage_data", "storage_meta", "version", "state_dict_metadata"):
        changed = pickle.loads((folder / ".metadata").read_bytes())
        setattr(changed, field, {"x": Evil(mark)} if field != "version" else Evil(mark))
        planted.append(changed)
    for value in planted:
        (folder / ".metadata").write_bytes(pickle.dumps(value))
        with pytest.raises(DamagedError, match="could run code"):
            sharded.load(example(2), folder, alone=True)
        assert not mark.exists()
    assert real.state_dict_metadata


def test_planted_values_run_nothing(stored: Path, tmp_path: Path) -> None:
    """What torch reads with weights_only=False: the plain values in a `.distcp` file."""
    folder, mark = copy(stored, "old", tmp_path), tmp_path / "ran"
    metadata: Metadata = pickle.loads((folder / ".metadata").read_bytes())
    index = MetadataIndex("net.optimizer.param_groups.0.lr")
    planted = io.BytesIO()
    torch.save(Evil(mark), planted)
    (folder / "planted.distcp").write_bytes(planted.getvalue())
    info = metadata.storage_data[index]
    info.relative_path, info.offset, info.length = "planted.distcp", 0, len(planted.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(DamagedError, match="could run code"):
        sharded.load(example(2), folder, alone=True)
    assert not mark.exists()
    info.relative_path = "../../planted.distcp"
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(DamagedError, match=r"\.\."):
        sharded.load(example(2), folder, alone=True)
    with warnings.catch_warnings(), pytest.raises(BaseException):  # noqa: B017
        warnings.simplefilter("ignore")  # torch itself runs it: the test could not fail otherwise
        info.relative_path = "planted.distcp"
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))
        dcp.load(example(2), checkpoint_id=folder, no_dist=True)
        assert mark.exists()
        raise AssertionError


def saving(root: Path) -> None:
    """A checkpoint as a run writes it: made in a hidden folder, sealed, given its name."""
    from kinolab.runtime import files

    with files.new_folder(root / "step-2") as room:
        sharded.save({"w": torch.arange(6.0), "lr": 0.5}, room, alone=True)
        sharded.seal(room)


@pytest.fixture
def nothing() -> Iterator[Any]:
    yield lambda root: None


def test_a_checkpoint_is_whole_or_not_there_after_every_crash(nothing: Any, tmp_path: Path) -> None:
    for after in crashes(nothing, saving, tmp_path, disks=("kill", "flushed")):
        folder = after.root / "step-2"
        if folder.exists():
            assert sharded.verify(folder) == [], after


def test_an_error_of_the_disk_is_an_oserror(nothing: Any, tmp_path: Path) -> None:
    for after in failures(nothing, saving, tmp_path, numbers=(28,)):
        assert after.error is not None and after.error.errno == 28, after
        assert [p.name for p in after.root.iterdir()] in ([], ["step-2"]), after


@pytest.mark.parametrize(
    "value", [None, True, 5, 0.25, "a", [1, [2]], (0.9, (1,)), {"a": {"b": (1,)}}, float("inf"), -0.0, []]
)
def test_plain_values_keep_their_types(value: Any) -> None:
    found = decode(json.loads(json.dumps(encode(value, "x"), allow_nan=False)), "x")
    assert found == value and type(found) is type(value)


def test_other_values_are_not_stored_or_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="x: an object can't be stored"):
        encode(object(), "x")
    with pytest.raises(InputError, match="can't be stored"):
        sharded.save({"a": torch.ones(2), "b": {1, 2}}, tmp_path, alone=True)
    values: list[Any] = [{"tuple": 5}, {"dict": []}, {"float": "x"}, {"code": "x"}, {}, {"a": 1, "b": 2}]
    for damaged in values:
        with pytest.raises(InputError, match="damaged"):
            decode(damaged, "x")
