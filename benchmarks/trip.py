"""`python -m benchmarks.trip [FOLDER]`: the way of a prompt through the house, from the command to its file.

`kinolab generate` makes a clip of one step while every call is watched that gets the prompt, by itself or in what it is
told (a request, a list, a config). Each run of such calls in one file is a stay. A move is a climb where the file that
is entered stands above the one that is left, that is where it imports it, perhaps through others; it is a return
where the trip was in that file before. FOLDER is the folder `kinolab` of another checkout.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

PROMPT = "a red ball falls to the floor"
DEPTH, MOST = 4, 32
"""How deep an argument is searched for the prompt, and how many entries of each."""


def holds(value: Any, depth: int = DEPTH) -> bool:
    """Whether a value is the prompt, or holds it."""
    if isinstance(value, str):
        return PROMPT in value
    if depth == 0 or value is None or isinstance(value, int | float | bytes | type):
        return False
    if type(value) is dict:  # others may not be made yet
        return any(holds(v, depth - 1) for v in list(value.values())[:MOST])
    if isinstance(value, list | tuple):
        return any(holds(v, depth - 1) for v in value[:MOST])
    if dataclasses.is_dataclass(value) or hasattr(type(value), "model_fields"):
        return (
            any(holds(v, depth - 1) for v in list(vars(value).values())[:MOST]) if hasattr(value, "__dict__") else False
        )
    return False


def walk(root: Path, words: list[str]) -> list[str]:
    """The files of the package in `root` in which the prompt stays, in order, while a command runs."""
    stays: list[str] = []
    inside = str(root) + os.sep

    def seen(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(inside):
            return
        count = code.co_argcount + code.co_kwonlyargcount
        count += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
        if any(holds(frame.f_locals.get(name)) for name in code.co_varnames[:count]):
            file = code.co_filename.removeprefix(inside)
            if not stays or stays[-1] != file:
                stays.append(file)

    from kinolab.cli import main

    sys.setprofile(seen)
    try:
        main(words)
    except SystemExit as stop:
        if stop.code:
            raise
    finally:
        sys.setprofile(None)
    return stays


def above(root: Path) -> dict[str, set[str]]:
    """For each file of a package, the files that it imports, and those that they import, and so on."""
    files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*.py"))}
    direct = {name: imported(path, root, files) for name, path in files.items()}

    @cache
    def below(name: str) -> frozenset[str]:
        found, left = set[str](), [name]
        while left:
            for other in direct[left.pop()] - found:
                found.add(other)
                left.append(other)
        return frozenset(found)

    return {name: set(below(name)) for name in files}


def imported(path: Path, root: Path, files: Mapping[str, Path]) -> set[str]:
    """The files of the package that a file imports, for type checkers' sake alone too."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        for name in names:
            package, _, rest = name.partition(".")
            place = rest.replace(".", "/")
            found |= {f for f in (f"{place}.py", f"{place}/__init__.py") if package == root.name and f in files}
    return found


def summary(stays: list[str], below: Mapping[str, set[str]]) -> dict[str, int]:
    """How long the trip is, how many of its moves climb, and how many return."""
    moves = list(itertools.pairwise(stays))
    climbs = sum(here in below[there] and there not in below[here] for here, there in moves)
    returns = sum(there in stays[: k + 1] for k, (_, there) in enumerate(moves))
    return {"stays": len(stays), "files": len(set(stays)), "climbs": climbs, "returns": returns}


def by_rooms(stays: list[str]) -> list[str]:
    """The same trip from room to room: a folder of the package, or a file beside the folders."""
    return [room for room, _ in itertools.groupby(stay.split(os.sep)[0] for stay in stays)]


def told(stays: list[str], below: Mapping[str, set[str]]) -> str:
    """The summary in words: of files, and of rooms."""
    rooms = by_rooms(stays)
    found = summary(stays, below)
    return (
        f"{found['stays']} stays in {found['files']} files, {found['climbs']} climbs, {found['returns']} returns; "
        f"{len(rooms)} stays in {len(set(rooms))} rooms, {len(rooms) - len(set(rooms))} returns"
    )


def measure(root: Path) -> tuple[list[str], str]:
    """The trip through the package in a folder, in a process of its own, and its summary."""
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "trip.py"  # in a folder of its own: what stands beside a script is found first
        script.write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
        out = Path(place) / "out.json"
        environment = os.environ | {"PYTHONPATH": str(root.parent), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, str(script), "--walk", str(root), str(out)], env=environment,
                              cwd=place, capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr)
        stays: list[str] = json.loads(out.read_text(encoding="utf-8"))
    return stays, told(stays, above(root))


def main(arguments: list[str]) -> None:
    """Print the trip and its summary."""
    if arguments[:1] == ["--walk"]:
        root, out = Path(arguments[1]), Path(arguments[2])
        words = ["generate", PROMPT, "--steps", "1", "--precision", "float32", "--out", str(out.with_suffix(".mp4"))]
        out.write_text(json.dumps(walk(root, words)), encoding="utf-8")
        return
    root = Path(arguments[0]).resolve() if arguments else Path(__file__).resolve().parents[1] / "kinolab"
    stays, found = measure(root)
    print(" -> ".join(stays))
    print(found)


if __name__ == "__main__":
    main(sys.argv[1:])
