"""Options that many commands share, each in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

DEVICE_HELP = "Where to compute: auto (the first of cuda, xpu, mps and cpu that is there), or one of them, as cuda:1."
Device = Annotated[str, typer.Option(help=DEVICE_HELP)]
"""The device of a command; hand it to `take_device`."""
TrainingDevice = Annotated[
    str | None, typer.Option("--device", help=f"{DEVICE_HELP} Default: the recipe's training.device, which is auto.")
]
"""The device of a command that trains a recipe; hand it to `device_override`."""


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
