"""Files of torch.save: bit for bit what torch reads, and weights beside anything else, without running it."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.runtime import torch_files
from kinolab.runtime.torch_files import named_tensors, read_torch, read_torch_bytes
from kinolab.runtime.unpickling import Placeholder

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
         torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
         torch.uint16, torch.uint32, torch.uint64)  # fmt: skip


def example() -> dict[str, Any]:
    """What files of weights hold, in every type and shape that there is."""
    base = torch.arange(60.0)
    torch.manual_seed(0)
    return {
        **{f"type.{k}": torch.randint(0, 2, (3, 5)).to(t) for k, t in enumerate(TYPES)},
        "views": [base[3:20], base.view(6, 10).t(), base[::7], base.view(3, 4, 5).permute(2, 0, 1)],
        "expanded": base[:1].expand(4, 5),
        "scalar": torch.tensor(3.25),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.randn(2, 2)),
        "channels_last": torch.randn(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        "facts": {"size": torch.Size([1, 2]), "dtype": torch.bfloat16, "device": torch.device("cuda", 1), "step": 7,
                  "text": "ü", "bytes": b"\xff\x00", "none": None, "tuple": (1, (2.5,))},
        "ordered": OrderedDict(a=1, b=base[:2]),
    }  # fmt: skip


def assert_same(actual: Any, expected: Any, where: str = "") -> None:
    """Equal bit for bit, strides included, all the way down."""
    if isinstance(expected, Tensor):
        assert actual.dtype == expected.dtype and actual.shape == expected.shape, where
        assert actual.stride() == expected.stride() or not expected.numel(), where
        a, e = (t.detach().contiguous().flatten().view(torch.uint8) for t in (actual, expected))
        assert torch.equal(a, e), where
    elif isinstance(expected, dict):
        assert list(actual) == list(expected), where
        for key, value in expected.items():
            assert_same(actual[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple) and not isinstance(expected, torch.Size):
        assert len(actual) == len(expected), where
        for k, value in enumerate(expected):
            assert_same(actual[k], value, f"{where}[{k}]")
    else:
        assert actual == expected and type(actual) is type(expected), where


@pytest.mark.parametrize("form", ["zip", "old"])
def test_what_torch_reads_is_read_bit_for_bit(form: str, tmp_path: Path) -> None:
    path, value = tmp_path / "a.pt", example()
    if form == "old":  # which knows no types that came after it
        value = {k: v for k, v in value.items() if not (k.startswith("type.") and v.dtype in TYPES[12:])}
    torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    found = read_torch(path)
    assert found.placeholders == ()
    assert_same(found.value, torch.load(path, weights_only=True))
    in_memory = read_torch_bytes(path.read_bytes(), "bytes")
    assert_same(in_memory.value, found.value)
    first, second = found.value["views"][:2]
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr(), "views share their storage"


def test_a_plain_pickle_of_tensors_is_read(tmp_path: Path) -> None:
    path, state = tmp_path / "a.pkl", {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    path.write_bytes(pickle.dumps(state))
    assert_same(read_torch(path).value, state)


@pytest.fixture
def foreign() -> Iterator[Any]:
    """A module of somebody else's, which is gone when its pickles are read."""
    module: Any = types.ModuleType("somebody_elses")

    class Callback:
        def __init__(self) -> None:
            self.best, self.score = "x.ckpt", torch.ones(2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)
            self.register_buffer("kept", torch.arange(3.0))
            self.register_buffer("left", torch.arange(3.0), persistent=False)
            self.register_parameter("nothing", None)

        def forward(self, x: Tensor) -> Tensor:
            return x

    for made in (Callback, Net):
        made.__module__, made.__qualname__ = module.__name__, made.__name__
        setattr(module, made.__name__, made)
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("form", ["zip", "old"])
def test_weights_are_found_beside_callbacks(form: str, foreign: Any, tmp_path: Path) -> None:
    state = nn.Linear(2, 3).state_dict()
    saved = {"state_dict": state, "callbacks": {foreign.Callback: foreign.Callback()}, "epoch": 3,
             "evil": [Evil(tmp_path / "ran")], "hyper_parameters": argparse.Namespace(lr=0.1)}  # fmt: skip
    torch.save(saved, tmp_path / "a.ckpt", _use_new_zipfile_serialization=form == "zip")
    del sys.modules[foreign.__name__]
    found = read_torch(tmp_path / "a.ckpt")
    assert not (tmp_path / "ran").exists()
    assert foreign.__name__ not in sys.modules, "nothing is imported"
    assert_same(named_tensors(found.value, "a.ckpt"), {f"state_dict.{k}": v for k, v in state.items()})
    assert {"somebody_elses.Callback", "argparse.Namespace"} <= set(found.placeholders)
    assert any(name.endswith(".system") for name in found.placeholders)
    (callback,) = found.value["callbacks"].values()
    assert isinstance(callback, Placeholder) and callback.state["best"] == "x.ckpt"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["zip", "old"])
def test_a_whole_module_gives_its_state_dict(form: str, foreign: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(foreign.Net(), nn.ModuleDict({"x": foreign.Net()}))
    torch.save({"model": net}, tmp_path / "a.pt", _use_new_zipfile_serialization=form == "zip")
    expected = {f"model.{k}": v for k, v in net.state_dict().items()}
    del sys.modules[foreign.__name__]
    found = named_tensors(read_torch(tmp_path / "a.pt").value, "a.pt")
    assert found.keys() == expected.keys() and not any("left" in name for name in found)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def with_program(path: Path, program: bytes, storage: bytes = b"\0" * 64) -> Path:
    """A file of torch.save with a pickle of our own and one storage of 16 float32."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/data/0", storage)
        archive.writestr("a/version", "3\n")
    return path


def tensor_program(size: str, stride: str, offset: int = 0, values: int = 16, key: str = "0") -> bytes:
    """A pickle of one tensor, in operations of texts."""

    def numbers(text: str) -> bytes:
        return b"(" + b"".join(b"I" + n.encode() + b"\n" for n in text.split()) + b"t"

    identity = b"(Vstorage\nctorch\nFloatStorage\nV" + key.encode() + b"\nVcpu\nI" + str(values).encode() + b"\ntQ"
    rest = b"I" + str(offset).encode() + b"\n" + numbers(size) + numbers(stride) + b"I00\nccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + rest + b"tR."


def test_a_tensor_stays_inside_its_storage(tmp_path: Path) -> None:
    good = with_program(tmp_path / "good.pt", tensor_program("4 4", "4 1"))
    assert read_torch(good).value.shape == (4, 4)
    for k, program in enumerate(
        [
            tensor_program("4 5", "4 1"),
            tensor_program("4 4", "4 1", offset=1),
            tensor_program("4", "-1", offset=3),
            tensor_program("-4", "1"),
            tensor_program("4", "1", offset=-1),
            tensor_program("4 4", "4"),
            tensor_program("2", str(2**62)),
            tensor_program(f"{2**62} 0", "1 1"),
            tensor_program("4 4", "4 1", values=17),
            tensor_program("4 4", "4 1", values=2**61),
            tensor_program("4 4", "4 1", values=-16),
            tensor_program("4 4", "4 1", key="1"),
            tensor_program("1000000000000", "0"),
            tensor_program(" ".join(["1"] * 100), " ".join(["1"] * 100)),
        ]
    ):
        with pytest.raises(InputError) as raised:
            read_torch(with_program(tmp_path / f"{k}.pt", program))
        assert len(str(raised.value)) < 300, str(raised.value)


@pytest.mark.slow
def test_containers_that_hold_themselves_or_too_much_are_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {"a": torch.ones(2)}
    endless["self"] = endless
    torch.save(endless, tmp_path / "self.pt")
    shared: list[Any] = [1]
    for _ in range(12):  # 10^12 lists, in 120 references
        shared = [shared] * 10
    torch.save({"a": torch.ones(2), "shared": shared}, tmp_path / "shared.pt")
    rows = [0] * 100_000  # one long list, in many places
    torch.save([rows] * 1000, tmp_path / "rows.pt")
    tensor = torch.ones(500_000)
    torch.save({str(k): tensor for k in range(400)}, tmp_path / "repeated.pt")
    for name, why in {
        "self": "holds itself",
        "shared": "the same",
        "rows": "the same",
        "repeated": "too often",
    }.items():
        path = tmp_path / f"{name}.pt"
        with pytest.raises(InputError, match=why):
            named_tensors(read_torch(path).value, str(path))


def test_what_is_no_file_of_torch_is_told(tmp_path: Path) -> None:
    class Scripted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    cases: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "empty"),
        "text": (b"hello world, this is no pickle", "damaged"),
        "zip": (zip_of({"x.txt": b"1"}), "no data.pkl"),
        "two": (zip_of({"a/data.pkl": b"N.", "b/data.pkl": b"N."}), "TorchScript"),
        "script": (zip_of({"a/data.pkl": b"N.", "a/constants.pkl": b"N."}), "TorchScript"),
        "packed": (zip_of({"a/data.pkl": b"N." * 100}, zipfile.ZIP_DEFLATED), "can't be read"),
        "order": (zip_of({"a/data.pkl": b"N.", "a/byteorder": b"big"}), "byte order"),
        "end": (zip_of({"a/data.pkl": b"N."})[:-5], "damaged"),
    }
    for name, (data, why) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=why):
            read_torch(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_torch(tmp_path / "none.pt")
    with pytest.raises(InputError, match="more parts"):
        read_torch_bytes(zip_of({"a/data.pkl": b"N."})[:-10] + struct.pack("<IIH", 2**30, 0, 0), "x")


def zip_of(parts: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["zip", "old"])
def test_a_cut_or_damaged_file_is_one_error_or_another_value(form: str, tmp_path: Path) -> None:
    whole = io.BytesIO()
    value = {k: v for k, v in example().items() if not (k.startswith("type.") and v.dtype in TYPES[12:])}
    torch.save(value, whole, _use_new_zipfile_serialization=form == "zip")
    data, chance = whole.getvalue(), random.Random(form)
    for k in range(150):
        damaged = bytearray(data)
        if k % 2:
            del damaged[chance.randrange(len(data)) :]
        else:
            for _ in range(3):
                damaged[chance.randrange(len(data))] = chance.randrange(256)
        try:
            named_tensors(read_torch_bytes(bytes(damaged), "x").value, "x")
        except InputError as error:
            assert len(str(error)) < 300 and "\n" not in str(error)
            continue
        assert not k % 2, "a file that was cut is never whole"


def test_the_reader_needs_no_unpickling_of_pythons() -> None:
    for module in ("pickle_parts", "pickle_machine", "unpickling", "torch_parts", "torch_files"):
        text = Path(torch_files.__file__).with_name(f"{module}.py").read_text()
        assert "import pickle\n" not in text and "torch.load" not in text and "importlib" not in text
