"""Outputs in a store: `--out s3://bucket/folder` of commands that write folders and files of a disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinolab.errors import InputError

OUTPUTS = ("out", "run")
"""Parameters that say where a command writes."""
INPUTS = ("clip", "clips", "images")
"""Parameters that name clips and pictures a command reads whole."""
THEMSELVES = ("encode", "curate")
"""Commands that put what they make into a store piece by piece."""


def with_addresses(text: str) -> str:
    """A text with the addresses of stores in place of the folders of this machine that stand for them."""
    module = sys.modules.get("kinolab.runtime.put_back")  # where nothing is in a store, nothing is to be read
    return text if module is None else str(module.named(text))


@contextmanager
def in_store(command: str, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A command's values, with a path of this machine for an output in a store, which gets what is written there, and
    for clips and pictures in one, which are fetched.

    Raises:
        InputError: as `runtime.put_back`, and where there is no such clip.
    """
    values = {name: _fetched(value) if name in INPUTS else value for name, value in values.items()}
    found = [name for name in OUTPUTS if isinstance(values.get(name), Path) and ":/" in str(values[name])]
    if not found or command in THEMSELVES:
        yield dict(values)
        return
    from kinolab.cli.options import say
    from kinolab.runtime.put_back import put_back
    from kinolab.runtime.remote import address, is_remote

    [name], path = found[:1], values[found[0]]
    if not is_remote(path):
        yield dict(values)
        return
    training = command == "train"  # which a scheduler may start again at once, elsewhere
    with put_back(path, several=training, patient=say if training else None) as here:
        try:
            yield {**values, name: here}
        except InputError as error:
            error.args = tuple(with_addresses(str(part)) for part in error.args)
            raise
    from kinolab.runtime.ranks import announced

    if announced().rank == 0:
        say(f"put into the store: {address(path)}")


def _fetched(value: Any) -> Any:
    """A path, or a list of them, with copies of this machine for addresses."""
    if isinstance(value, list):
        return [_fetched(each) for each in value]
    if not isinstance(value, Path) or ":/" not in str(value):
        return value
    from kinolab.runtime.remote import local

    return local(value)
