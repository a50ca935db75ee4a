"""Options that many commands share, each in one place."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinolab.errors import InputError
from kinolab.runtime.lines import shown

if TYPE_CHECKING:
    import torch

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


_untold: list[str] = []
"""What is to be said when work has begun, and not beside a mistake, which is one line alone."""


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
    typer.echo(line)


def forget() -> None:
    """Say nothing more of what was taken."""
    _untold.clear()


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
