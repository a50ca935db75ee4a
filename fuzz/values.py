"""Changes of plain values, as in JSON and YAML: wrong types, huge numbers, NaN, deep nesting, names that lead out."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

OUTSIDE = "SECRET"
"""In a text: the path of a folder beside the one that is read, which nothing may touch."""
TEXTS = (
    "", " ", ".", "..", "../secret.json", "../secret.safetensors", "a/../../secret.json", f"{OUTSIDE}/secret.json",
    f"{OUTSIDE}/secret.safetensors", "/etc/passwd", "/dev/zero", "\0", "a\0b", "\n", "a\nb\nc", "\u2028", "\u0085",
    "\ud800", "é" * 300, "x" * 5000, "²", "٣", "NaN", "null", "true", "con", "CON.mp4", "-", "--out", "%s%n", "{0}",
    "{}", "1e999", "\N{PILE OF POO}", "a" * 256 + ".mp4", "~", "~root", "$HOME", "file:///etc/passwd",
    "http://localhost:1/x", "int8", "float8_e4m3fn", "torch.float32", "cuda:99", "meta", "!!python/name:os.system",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 7, 255, 65536, 10**6, 10**9, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64,
    -(2**63), 10**12, 10**30, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e300, -1e300, float("nan"), float("inf"),
    float("-inf"),
)  # fmt: skip
LEAVES = (None, True, False)


def leaf(rng: Random) -> Any:
    """A value that code rarely expects."""
    choice = rng.random()
    if choice < 0.4:
        return rng.choice(NUMBERS)
    if choice < 0.75:
        return rng.choice(TEXTS)
    if choice < 0.85:
        return rng.choice(LEAVES)
    if choice < 0.92:
        return rng.choice(([], {}, [None], {"": 0}, [[[]]], {"a": {"b": []}}, [1] * 1000, ["x"] * 300))
    return nested(rng.choice((30, 70, 200, 900)), rng)


def nested(depth: int, rng: Random) -> Any:
    """Lists or mappings inside each other."""
    value: Any = 0
    for _ in range(depth):
        value = [value] if rng.random() < 0.7 else {"a": value}
    return value


def changed(value: Any, rng: Random) -> Any:
    """A copy of a value with one to three changes somewhere in it."""
    holder = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change(holder, rng)
    return holder[0]


def _change(holder: list[Any], rng: Random) -> None:
    parent, key = rng.choice(list(_places(holder)))
    choice = rng.random()
    if choice < 0.5:
        parent[key] = leaf(rng)
    elif choice < 0.6 and (isinstance(parent, dict) or parent is not holder):
        del parent[key]
    elif choice < 0.7 and isinstance(parent, dict):
        parent[str(leaf(rng))] = parent.pop(key) if rng.random() < 0.5 else parent[key]
    elif choice < 0.8 and isinstance(parent, list) and parent is not holder:
        parent[key:key] = [parent[key]] * rng.choice((1, 2, 50, 2000))
    elif choice < 0.9:
        other, name = rng.choice(list(_places(holder)))
        parent[key] = copy.deepcopy(other[name])
    elif isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        parent[key] = parent[key] * rng.choice((-1, 2, 1000, 0.5)) + rng.choice((0, 1, -1))
    else:
        parent[key] = [parent[key]] if rng.random() < 0.5 else {"value": parent[key]}


def _places(holder: list[Any]) -> list[tuple[Any, Any]]:
    """(container, key) of every value, the outermost included; of very many, those nearest to the outside."""
    found: list[tuple[Any, Any]] = []
    level: list[Any] = [holder]
    while level and len(found) < 3000:
        below = []
        for container in level:
            keys = list(container) if isinstance(container, dict) else list(range(len(container)))
            found += [(container, key) for key in keys]
            below += [container[key] for key in keys if isinstance(container[key], dict | list)]
        level = below
    return found
