"""What many commands share, each in one place: options, what is said while a command works, and how it ends."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from kinolab.cli.stored import in_store, with_addresses
from kinolab.errors import InputError
from kinolab.runtime.lines import shown

if TYPE_CHECKING:
    import torch

    from kinolab.cli.watching import Watch
    from kinolab.contracts.events import EventLines, Outcome
    from kinolab.contracts.events import Events as Events_

DEVICE_HELP = "Where to compute: auto (the first of cuda, xpu, mps and cpu that is there), or one of them, as cuda:1."
Device = Annotated[str, typer.Option(help=DEVICE_HELP)]
"""The device of a command; hand it to `take_device`."""
TrainingDevice = Annotated[
    str | None, typer.Option("--device", help=f"{DEVICE_HELP} Default: the recipe's training.device, which is auto.")
]
"""The device of a command that trains a recipe; hand it to `device_override`."""

RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**62), "first": (0, 10**9), "until": (1, 10**12), "threads": (1, 4096), "jobs": (1, 4096),
    "size": (1, 2**16), "upscale": (1, 64), "fps": (0.001, 1000), "given_frames": (0, 10**6), "price": (0, 10**9),
    "refine": (0, 100), "port": (0, 65535), "restarts": (0, 10**6), "clips": (1, 10**15), "clip_bytes": (0, 10**15),
    "between": (0, 10**9),
}  # fmt: skip
"""The least and the most of numbers on the command line, by option. What a command needs beyond that, its config
knows; here is what no machine could do, so that it ends in a line and not in a lack of memory."""
WHOLE, REAL = (1, 10**6), (0, 10**6)
"""Of every other option: whole numbers, and others. Nothing on the command line is negative, but in lists of frames."""
DIGITS = 20
"""Of a number in a text; Python itself refuses thousands of them."""


def check_numbers(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that refuses numbers that are out of all reason, or none, before it begins."""

    @functools.wraps(command)
    def checked(*values: Any, **named: Any) -> Any:
        for name, value in named.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                check_number(value, name)
        return command(*values, **named)

    return checked


def check_number(value: float, name: str, text: str | None = None) -> None:
    """Refuse a number that is outside an option's range.

    Args:
        name: of the option, as its parameter is called.
        text: what was given, where the number is a part of it.

    Raises:
        InputError: for one outside of it, or NaN.
    """
    least, most = RANGES.get(name, WHOLE if isinstance(value, int) else REAL)
    if not least <= value <= most:  # nor is NaN
        kind = "a whole number" if isinstance(value, int) else "a number"
        given = value if text is None else shown(text)
        raise InputError(f"--{name.replace('_', '-')} {given}: expected {kind} from {least:,} to {most:,}")


def whole_number(text: str) -> int:
    """A whole number in digits, perhaps with a sign.

    Raises:
        ValueError: for anything else, such as other signs that Unicode calls digits, or thousands of digits.
    """
    digits = text.strip()
    if len(digits) > DIGITS or not digits.isascii() or "_" in digits:
        raise ValueError(f"{digits[:DIGITS]}: no whole number")
    return int(digits)


def real_number(text: str) -> float:
    """A finite number.

    Raises:
        ValueError: for anything else.
    """
    value = float(text)
    if not math.isfinite(value) or not text.isascii() or "_" in text:
        raise ValueError(f"{text[:DIGITS]}: no finite number")
    return value


def parse_size(text: str | None) -> int | tuple[int, int] | None:
    """`128` or `96x160` (height x width), in pixels.

    Raises:
        InputError: for anything else.
    """
    if text is None:
        return None
    try:
        parts = [whole_number(part) for part in text.lower().split("x")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 2):
        raise InputError(f"--size {shown(text)}: expected a side in pixels, or HEIGHTxWIDTH such as 96x160")
    for part in parts:
        check_number(part, "size", text)
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


Events = Annotated[
    Path | None,
    typer.Option("--events", help="Append what happens to this file, as JSON lines: progress, losses, files, the end."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else to standard output.")]

_untold: list[str] = []
"""What is to be said when work has begun, and not beside a mistake, which is one line alone."""


class _Running:
    """The command that runs: where its events go, and whether its result is printed as JSON."""

    lines: EventLines | None = None
    json = False


def common(
    *, events: bool = False, json: bool = True, extra: Mapping[str, tuple[Any, Any]] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with the options that all have: `--events` where it takes long, `--json` where it prints a result.

    extra: name -> annotation and default of more options, which it takes by its `**`.
    """

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
        named = {name: p for name, p in signature.parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
        own = [p.replace(annotation=hints.get(name, p.annotation)) for name, p in named.items()]
        kind = inspect.Parameter.KEYWORD_ONLY
        more = [(name, given, default) for name, (given, default) in (extra or {}).items()]
        more += [("events", Events, None)] * events + [("as_json", Json, False)] * json
        own += [inspect.Parameter(name, kind, annotation=given, default=default) for name, given, default in more]

        @functools.wraps(command)
        def run(*args: Any, **values: Any) -> None:
            lines, as_json = values.pop("events", None), values.pop("as_json", False)
            with _running(command.__name__, lines, as_json), in_store(command.__name__, values) as settled:
                command(*args, **settled)

        run.__annotations__ = {p.name: p.annotation for p in own} | {"return": None}
        run.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        return run

    return wrap


@contextmanager
def _running(name: str, path: Path | None, as_json: bool) -> Iterator[None]:
    """A command at work; its file of events, if it has one, begins with its name and ends with its outcome."""
    _Running.json, _Running.lines = as_json, None
    try:
        with nullcontext() if path is None else _recorded(name, path):
            yield
    finally:
        _Running.json = False


@contextmanager
def _recorded(name: str, path: Path) -> Iterator[None]:
    """A command whose events are written down."""
    from kinolab import __version__
    from kinolab.contracts.events import EventLines, Stopped
    from kinolab.runtime.lines import one_line

    with EventLines(path) as lines:
        lines.begin(name, __version__)
        _Running.lines = lines
        outcome: tuple[Outcome, str] = ("done", "")
        try:
            yield
        except typer.Exit as stop:
            outcome = ("stopped", "") if stop.exit_code == 130 else ("failed" if stop.exit_code else "done", "")
            raise
        except (Stopped, KeyboardInterrupt) as stop:
            outcome = ("stopped", str(stop))
            raise
        except BaseException as error:
            outcome = ("failed", one_line(error))
            raise
        finally:
            _Running.lines = None
            with suppress(OSError):  # of a full disk; what went wrong before is what counts
                lines.end(*outcome)


def watch(
    title: str,
    unit: str = "",
    *,
    cheaper: Callable[[float], str] | None = None,
    keeps: str = "",
    notes: Callable[[str], None] | None = None,
) -> Watch:
    """The events of a piece of a command's work: on standard error for a person, and in the file of `--events`.

    In a terminal a bar, else a line every few seconds. notes: takes what is noted in place of the bar's own line.
    """
    from kinolab.cli.watching import Watch
    from kinolab.runtime.memory import peak_memory

    told = Watch(title, unit, cheaper=cheaper, memory=peak_memory, keeps=keeps)
    told.take(tell, _Running.lines, notes)
    return told


def also_written(reader: Events_, title: str, unit: str = "") -> Events_:
    """Events for a reader of their own, and for the file of `--events`."""
    from kinolab.contracts.events import Several

    lines = _Running.lines
    if lines is None:
        return reader
    lines.stage(title, unit)
    return Several(reader, lines)


def less(option: str, count: int) -> Callable[[float], str]:
    """What to say where a quarter of a count, such as of clips or steps, takes a quarter of the time."""
    few = max(1, count // 4)

    def said(seconds: float) -> str:
        from kinolab.runtime.progress import duration

        return "" if few == count else f"{option}{few} would take about {duration(seconds * few / count)}"

    return said


def show(values: Any, lines: Iterable[object]) -> None:
    """A command's result: its lines, or with `--json` its values."""
    tell()
    if _Running.json:
        print_json(values)
        return
    for line in lines:
        typer.echo(with_addresses(str(line)))


def print_json(values: Any, indent: int | None = 1) -> None:
    """Values as JSON on standard output; of paths their text, and null for numbers that are none."""
    import json

    typer.echo(with_addresses(json.dumps(_plain(values), indent=indent)))


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    import dataclasses
    import math

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def as_json() -> bool:
    """Whether the command that runs prints its result as JSON."""
    return _Running.json


def on_error(line: str) -> None:
    """Print a line on standard error, as what a command says while it works."""
    typer.echo(line, err=True)


def written(path: Path) -> None:
    """Name a file that was written beside the result."""
    say(str(path))
    wrote(path)


def wrote(path: Path, what: str = "file") -> None:
    """Tell the file of `--events` what is there now."""
    if _Running.lines is not None:
        _Running.lines.wrote(path, what)


def take_device(device: str) -> torch.device:
    """The device that an option names; which one it was is said in one line at the first sign of progress.

    Raises:
        InputError: for a word that names no device, or a device that is not there.
    """
    from kinolab.runtime.devices import announce, choose

    chosen = choose(device)
    told_later(announce(chosen, device))
    return chosen


def told_later(line: str) -> None:
    """Say a line at the first sign of progress."""
    _untold.append(line)


def tell() -> None:
    """Say what was taken, where that is not done yet: called by what shows progress, and at a command's end."""
    while _untold:
        typer.echo(_untold.pop(), err=True)


def say(line: str) -> None:
    """Print a line of a command that shows its progress in lines."""
    tell()
    typer.echo(line, err=_Running.json)


def forget() -> None:
    """Say nothing more of what was taken."""
    _untold.clear()
    _Running.json, _Running.lines = False, None


@contextmanager
def spoken_warnings() -> Iterator[None]:
    """Says each different warning in one line at the end, without the line of code that it comes from."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for note in dict.fromkeys(str(w.message) for w in caught):
        typer.echo(f"warning: {note}", err=True)
        if _Running.lines is not None:
            _Running.lines.note(note)


def device_override(device: str | None) -> list[str]:
    """The override of a recipe that an option asks for; the training says which device it took.

    Raises:
        InputError: for a word that names no device, or a device that is not there.
    """
    from kinolab.runtime.devices import choose

    if device is None:
        return []
    chosen = choose(device)
    return [f"training.device={'auto' if device.strip().lower() == 'auto' else chosen}"]


def whole_numbers(text: str | None, option: str) -> list[int]:
    """`0,8,-1` -> [0, 8, -1]; nothing -> []."""
    if text is None:
        return []
    try:
        return [whole_number(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text!r}: expected whole numbers with commas between, such as 0,8,-1") from None


def pairs_of(option: str, texts: list[str] | None) -> list[tuple[str, str]]:
    """`name=folder` of each use of an option."""
    found = [text.partition("=") for text in texts or []]
    for (name, sign, folder), text in zip(found, texts or [], strict=True):
        if not (name and sign and folder):
            raise InputError(f"{option} {text}: expected two things around a =, such as sr=runs/sr or 0.5=runs/clean")
    return [(name, folder) for name, _, folder in found]


def check_out(out: Path | None, videos: Path | None = None, kind: str = "JSON") -> None:
    """Refuse places that can't be written before anything is computed."""
    if out is not None and out.is_dir():
        raise InputError(f"{out}: is a folder; expected the name of a {kind} file")
    for folder in ([] if out is None else [out.parent]) + ([] if videos is None else [videos]):
        there = next((p for p in (folder, *folder.parents) if p.exists()), None)
        if there is not None and not there.is_dir():
            raise InputError(f"{there}: is a file; expected a folder to write into")
