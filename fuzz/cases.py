"""One input: which files of a valid folder are changed, and to what. It comes from its kind, seed and number alone."""

from __future__ import annotations

import base64
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fuzz import bytes as by_byte
from fuzz import formats
from fuzz.values import OUTSIDE

PLACES = ("missing", "folder", "link", "loop", "pipe", "empty")
"""What may stand where a file was: nothing, a folder, a link to what lies outside, one to itself, a pipe, no bytes."""


@dataclass(frozen=True)
class Target:
    """Something that Kinolab reads.

    kind, name: what it is called; read: reads all of the given folder that it reads at all, or raises.
    outside: whether files may name others anywhere, as recipes name folders of clips; else reading them is a finding.
    changed: endings of the files that are changed; empty for all.
    """

    kind: str
    name: str
    read: Callable[[Path], Any]
    outside: bool = False
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """An input: a target, one of its valid folders, and name -> (what, bytes) of what is changed in it.

    what: "bytes", or one of `PLACES`.
    """

    target: str
    variant: str
    changes: Mapping[str, tuple[str, bytes]]

    def text(self) -> str:
        """As it is kept."""
        changes = {n: [w, base64.b64encode(zlib.compress(d, 9)).decode()] for n, (w, d) in self.changes.items()}
        return json.dumps({"target": self.target, "variant": self.variant, "changes": changes}, indent=1) + "\n"


def parse_case(text: str) -> Case:
    """A case as it was kept."""
    value = json.loads(text)
    changes = {n: (w, zlib.decompress(base64.b64decode(d))) for n, (w, d) in value["changes"].items()}
    return Case(value["target"], value["variant"], changes)


def make_case(targets: Sequence[Target], seeds: Path, seed: int, number: int) -> Case:
    """Input `number` of a kind.

    Args:
        targets: those of the kind, which take turns.
        seeds: target/variant/files, all valid.
    """
    target = targets[number % len(targets)]
    rng = Random(f"{seed} {target.kind} {target.name} {number}")
    variant = rng.choice(sorted(p for p in (seeds / target.name).iterdir() if p.is_dir()))
    files = [p for p in sorted(variant.rglob("*")) if p.is_file()]
    files = [p for p in files if not target.changed or p.name.endswith(target.changed)]
    changes = {}
    for path in rng.sample(files, min(len(files), rng.choice((1, 1, 1, 1, 2, 3)))):
        name, data = path.relative_to(variant).as_posix(), path.read_bytes()
        choice = rng.random()
        if choice < 0.05:
            changes[name] = (rng.choice(PLACES), b"")
        elif choice < 0.6:
            changes[name] = ("bytes", formats.changed(name, data, rng))
        elif choice < 0.97:
            changes[name] = ("bytes", by_byte.changed(data, rng))
        else:
            changes[name] = ("bytes", rng.choice(files).read_bytes())
    return Case(target.name, variant.name, changes)


def lay_out(case: Case, seeds: Path, room: Path) -> Path:
    """Write a case into `room/in`, beside `room/secret...`, which it may not touch; returns the folder to read."""
    folder = room / "in"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeds / case.target / case.variant, folder, copy_function=shutil.copyfile)
    for name, (what, data) in case.changes.items():
        path = folder / name
        path.unlink()
        if what == "bytes":
            path.write_bytes(data.replace(OUTSIDE.encode(), os.fsencode(room)))
        elif what == "empty":
            path.touch()
        elif what == "folder":
            path.mkdir()
        elif what == "link":
            path.symlink_to(room / f"secret{path.suffix}")
        elif what == "loop":
            path.symlink_to(path)
        elif what == "pipe":
            os.mkfifo(path)
    return folder
