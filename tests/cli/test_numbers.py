"""Numbers on the command line: any command refuses those that no machine could do, in one line, before it begins."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import pytest
import typer

from kinolab.cli import COMMANDS, build, main
from kinolab.cli.options import RANGES, check_number, parse_size, real_number, whole_number
from kinolab.errors import InputError
from tests.tiny_model import save_tiny_model

pytestmark = pytest.mark.slow  # many short ones, which take long together


def registered(app: typer.Typer, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command's whole name and its function."""
    for command in app.registered_commands:
        assert command.callback is not None
        yield f"{name}{command.name or command.callback.__name__}", command.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from registered(group.typer_instance, f"{name}{group.name} ")


def numbers(function: Any) -> Iterator[tuple[str, type, Any]]:
    """Name, type and default of each number that a command takes."""
    for name, hint in get_type_hints(function).items():
        kinds = [k for k in (get_args(hint) if isinstance(hint, UnionType) else (hint,)) if k in (int, float)]
        if kinds:
            yield name, kinds[0], inspect.signature(function).parameters[name].default


FOUND = [(command, *number) for command, function in registered(build(list(COMMANDS))) for number in numbers(function)]


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints that refuses its words."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_every_number_is_found() -> None:
    assert len(FOUND) > 130 and {"count", "frames", "fps", "steps", "batch", "size", "tile"} <= {f[1] for f in FOUND}
    assert len({f[0] for f in FOUND}) >= 20
    assert RANGES.keys() <= {f[1] for f in FOUND} | {"size"}, "a range of an option that is no more"


def test_defaults_are_within_their_ranges() -> None:
    for _, name, _, default in FOUND:
        if default is not None:
            check_number(default, name)


@pytest.mark.parametrize("command", sorted({f[0] for f in FOUND}))
def test_numbers_out_of_all_reason_are_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed = required(command)
    for name, kind in [(f[1], f[2]) for f in FOUND if f[0] == command]:
        option = "--" + name.replace("_", "-")
        wrong = ["-5", str(2**63), "x", "²", ""] + (["nan", "inf", "-inf", "1e400"] if kind is float else ["1.5"])
        for text in wrong:
            line = said([*command.split(), *needed, f"{option}={text}"], capsys)
            assert line.startswith("kinolab: ") and line.count("\n") == 1 and option in line, (option, text, line)
            assert "Traceback" not in line and len(line) < 300


def required(command: str) -> list[str]:
    """What a command must be given; it is never looked at, as numbers are checked before."""
    app = typer.main.get_command(build([command.split()[0]]))
    found: Any = app
    for word in command.split():
        found = getattr(found, "commands", {}).get(word, found)
    words = []
    for parameter in found.params:
        if parameter.required:
            words += ["x"] if parameter.param_type_name == "argument" else [parameter.opts[0], "x"]
    return words


@pytest.mark.parametrize("option", ["--count=1000000000", "--frames=1000000001", "--frames=-1", "--seed=-1"])
def test_what_once_ran_out_of_memory_is_one_line(option: str, tmp_path: Path, capsys: Any) -> None:
    line = said(["generate", "--model", "x", "--out", str(tmp_path / "clip.mkv"), option], capsys)
    assert line.startswith("kinolab: ") and option.split("=")[0] in line and line.count("\n") == 1


@pytest.mark.parametrize("command", ["generate", "encode world --out x", "data check .", "reconstruct x"])
def test_sizes_are_read_in_one_way(command: str, tmp_path: Path, capsys: Any) -> None:
    words = command.split()
    if command == "generate":
        save_tiny_model(tmp_path, text=False)
        words += ["--model", str(tmp_path)]
    for size in ["²", "0", "-1", "9" * 5000, "64x", "x64", "64x²", "1_0", "1e3", "99999999", "8x8x8"]:
        line = said([*words, f"--size={size}"], capsys)
        assert line.startswith(f"kinolab: --size '{size[:5]}") and line.count("\n") == 1 and len(line) <= 300


def test_sizes_that_are_right() -> None:
    assert parse_size(None) is None and parse_size("64") == 64 and parse_size("64X96") == (64, 96)


@pytest.mark.parametrize("text", ["²", "٣", "1_0", "1.0", "", "x", "9" * 5000, "nan"])
def test_whole_numbers_are_digits(text: str) -> None:
    with pytest.raises(ValueError):
        whole_number(text)
    assert whole_number(" -1 ") == -1


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "1e999", "1_0", "", "x", "٣"])
def test_other_numbers_are_finite(text: str) -> None:
    with pytest.raises(ValueError):
        real_number(text)
    assert real_number("-0.5") == -0.5


def test_a_range_says_what_was_expected() -> None:
    with pytest.raises(InputError, match=r"^--given-frames 10000000: expected a whole number from 0 to 1,000,000$"):
        check_number(10**7, "given_frames")
    with pytest.raises(InputError, match=r"^--fps nan: expected a number from 0.001 to 1,000$"):
        check_number(float("nan"), "fps")


@pytest.mark.parametrize(
    "words", [["genrate"], ["world"], ["evaluate", "world", "--bach", "3"], ["encode", "--count"], ["convert", "x"]]
)
def test_wrong_words_are_one_line_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = said(words, capsys)
    assert line.startswith("kinolab: ") and line.endswith("--help'\n") and line.count("\n") == 1
