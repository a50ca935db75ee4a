"""Nothing in a pickle runs: every operation, every way to call, in every protocol."""

from __future__ import annotations

import collections
import io
import os
import pickle
import random
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from kinolab.errors import InputError
from kinolab.runtime.unpickling import Known, Named, Placeholder, Table, unpickle

PLAIN = {
    "text": ["a", "ü" * 300, "", "x" * 70000],
    "numbers": (1, -1, 2**31, -(2**70), 0.5, float("inf"), 10**300, True, None),
    "bytes": (b"a", b"\xff" * 300),
    5: {"nested": [{1: (2, (3,))}, [], (), {}]},
    (1, "a"): {1, 2},
    None: frozenset(["x"]),
}


def read(data: bytes, table: Table | None = None) -> Any:
    return unpickle(io.BytesIO(data), table or Table(), "file.pt")


class Evil:
    """What `__reduce__` gives is what a pickle calls."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.what = function, args

    def __reduce__(self) -> Any:
        return self.what


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back(protocol: int) -> None:
    functions = {
        "_codecs.encode": Known(lambda text, encoding: text.encode(encoding)),
        "builtins.set": Known(set),
        "builtins.frozenset": Known(frozenset),
    }
    assert read(pickle.dumps(PLAIN, protocol), Table(functions)) == PLAIN


def test_shared_and_endless_containers_stay_so() -> None:
    endless: list[Any] = [1]
    endless.append(endless)
    shared = {"a": [1, 2]}
    found = read(pickle.dumps([endless, shared, shared]))
    assert found[0][1] is found[0] and found[1] is found[2]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that anything that ran would have made."""
    return tmp_path / "ran"


def hostile(mark: Path) -> list[bytes]:
    """Programs that would make the file `mark`, by every operation that calls."""
    command = f"touch {mark}"
    made = [pickle.dumps(Evil(os.system, command), protocol) for protocol in range(6)]
    made += [
        pickle.dumps(Evil(eval, f"open({str(mark)!r}, 'w').close()")),
        pickle.dumps(Evil(subprocess.check_output, ["touch", str(mark)])),
        pickle.dumps({"state_dict": [Evil(collections.OrderedDict, [("a", Evil(os.system, command))])]}),
        pickle.dumps(Evil(Evil, Evil(os.system, command))),
        pickle.dumps(Evil(getattr, Evil(__import__, "os"), "system")),
    ]
    text = command.encode()
    argument = b"X" + struct.pack("<I", len(text)) + text
    made += [
        b"(" + argument + b"ios\nsystem\n.",  # INST
        b"(cos\nsystem\n" + argument + b"o.",  # OBJ
        b"cos\nsystem\n(" + argument + b"tR.",  # GLOBAL, REDUCE
        b"\x80\x04\x8c\x02os\x8c\x06system\x93" + argument + b"\x85R.",  # STACK_GLOBAL
        b"\x80\x02cos\nsystem\n" + argument + b"\x85\x81.",  # NEWOBJ
        b"\x80\x04cos\nsystem\n" + argument + b"\x85}\x92.",  # NEWOBJ_EX
        b"ccopyreg\n__newobj__\n(cos\nsystem\n" + argument + b"tR.",
        b"ccopy_reg\n_reconstructor\n(cos\nsystem\n" + argument + b"NtR.",
        b"c__builtin__\neval\n(" + argument + b"tR.",
        b"cos\nsystem\n(dc__main__\nx\nb" + argument + b"\x85R.",  # BUILD on a function
        b"(dX\x01\x00\x00\x00a" + b"cos\nsystem\nsb.",
        b"c__main__\nX\n)R}X\x08\x00\x00\x00__call__cos\nsystem\nsb" + argument + b"\x85R.",  # BUILD makes it callable
        b"c__main__\nX\n)Rcos\nsystem\na.",  # APPEND calls .append of what it is given
        b"\x82\x01.\x83\x01\x00.\x84\x01\x00\x00\x00.",  # EXT
        b"Pos.system\n.",  # PERSID
        argument + b"Q.",  # BINPERSID
    ]
    return made


def test_nothing_runs(mark: Path) -> None:
    for program in hostile(mark):
        for table in (Table(), Table(strict=True)):
            try:
                found = read(program, table)
            except InputError as error:
                assert len(str(error)) < 300 and "\n" not in str(error)
                continue
            assert not callable(found) and not table.strict, program
        assert not mark.exists(), program


def test_the_programs_are_dangerous(mark: Path) -> None:
    """The test above could not fail if they were not."""
    ran = 0
    for program in hostile(mark)[:14]:
        mark.unlink(missing_ok=True)
        try:
            pickle.loads(program)
        except Exception:
            continue
        ran += mark.exists()
    assert ran >= 8


def test_other_classes_stay_placeholders() -> None:
    evil = Evil(os.system, "true")
    found = read(pickle.dumps({"callbacks": {"x": evil}, "epoch": 3, "args": argument_namespace(), "type": dict}))
    assert found["epoch"] == 3
    system = found["callbacks"]["x"]
    assert isinstance(system, Placeholder) and system.name in ("posix.system", "nt.system")
    assert system.args == ("true",)
    assert isinstance(found["args"], Placeholder) and found["args"].state == {"lr": 0.1}
    assert isinstance(found["type"], Named) and found["type"].name == "builtins.dict"


def argument_namespace() -> Any:
    import argparse

    return argparse.Namespace(lr=0.1)


def test_modules_are_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = read(b"cplanted_module\nThing\n)R.")
    assert found.name == "planted_module.Thing"


def test_a_strict_table_says_what_it_refuses() -> None:
    with pytest.raises(InputError, match=r"file.pt: holds 'os.system', which has no place in such"):
        read(b"cos\nsystem\n.", Table(strict=True))
    made = Known(list)
    assert read(b"\x80\x02cx\ny\n)R.", Table({"x.y": made}, strict=True)) == []


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (b"", "damaged"),
        (b"\x80\x02}", "damaged"),
        (b".", "damaged"),
        (b"a.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"(((", "damaged"),
        (b"\x80\x02X\xff\xff\xff\xffabc.", "more than"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"a.", "more than"),
        (b"\x80\x02\x8b" + struct.pack("<i", 2**20) + b"\x01" * 2**20 + b".", "bits"),
        (b"I" + b"9" * 5000 + b"\n.", "damaged"),
        (b"\x80\x05\x97.", "operation NEXT_BUFFER"),
        (b"}" + b")" + b"\x85" * 20 + b"K\x01s.", "as a key"),
        (b"\x80\x04\x8f()" + b"\x85" * 20 + b"\x90.", "as a key"),
        (b"}]K\x01s.", "as a key"),
        (b"}}K\x01s.", "as a key"),
        (b"cx\ny\nK\x05R.", "arguments"),
        (b"}K\x01K\x02K\x03e.", "damaged"),
    ],
)
def test_what_is_no_pickle_is_one_line(program: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why) as raised:
        read(program)
    assert len(str(raised.value)) < 300


@pytest.mark.slow
def test_deep_and_large_programs_end(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.perf_counter()
    deep = read(b")" + b"\x85" * 300_000 + b".")
    assert isinstance(deep, tuple)
    del deep  # Python takes it apart without recursion
    monkeypatch.setattr("kinolab.runtime.pickle_machine.OBJECTS", 10_000)
    with pytest.raises(InputError, match="more than 10,000"):
        read(b"}" * 20_000 + b".")
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize("seed", range(4))
def test_any_bytes_give_a_value_or_one_error(seed: int, mark: Path) -> None:
    """Mutations of whole pickles and of hostile ones."""
    chance = random.Random(seed)
    corpus = [pickle.dumps(PLAIN, p) for p in range(6)] + hostile(mark)
    for _ in range(300):
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.randrange(1, 8)):
            kind, at = chance.randrange(4), chance.randrange(len(data) + 1)
            if kind == 0 and at < len(data):
                data[at] = chance.randrange(256)
            elif kind == 1:
                data[at:at] = bytes([chance.choice(b"()]}abcdehijloqrstuR0123456\x81\x85\x86\x87\x8f\x90\x93\x94.Q")])
            elif kind == 2:
                del data[at : at + chance.randrange(1, 9)]
            else:
                other = chance.choice(corpus)
                data[at:at] = other[: chance.randrange(len(other))]
            data = data or bytearray(b".")
        try:
            read(bytes(data))
        except InputError as error:
            assert len(str(error)) < 300 and "\n" not in str(error)
    assert not mark.exists()
