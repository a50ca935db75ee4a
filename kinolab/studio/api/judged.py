"""What was measured, and what people chose: scores with their protocols, and votes with an interval."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime.logs import Appender
from kinolab.runtime.paths import visible
from kinolab.runtime.reading import json_lines, read_json
from kinolab.runtime.summed import summed
from kinolab.studio.api.asked import Asked, Studio
from kinolab.studio.faults import left_out, tried
from kinolab.studio.project import Project

VOTES = "votes.jsonl"
Z = 1.959964
"""Of a normal distribution, the bound that 95% lie within."""
WORDS = ("left", "right", "tie")


def scores(studio: Studio, asked: Asked) -> Any:
    """GET /api/scores -> {scores}: what evaluations wrote to scores/, as it stands there."""
    found = []
    for path in visible(studio.project.scores, "**/*.json"):
        value, problem = tried(studio.project, partial(read_json, path, constants=True))
        found.append({"path": studio.project.shown(path), **({"problem": problem} if problem else {"values": value})})
    return {"scores": found}


def vote(studio: Studio, asked: Asked) -> Any:
    """POST /api/votes {a, b, left, chosen} -> the tally of the pair: a blind choice between two videos or models.

    a, b: what is compared, by any names; left: which of the two stood on the left; chosen: left, right or tie. A line
    of samples/votes.jsonl.
    """
    a, b, left = asked.body.text("a"), asked.body.text("b"), asked.body.text("left")
    chosen = asked.body.choice("chosen", WORDS)
    if a == b or left not in (a, b):
        raise InputError("a, b, left: expected two names, and which of them stood on the left")
    right = b if left == a else a
    won = {"left": left, "right": right}.get(chosen)
    line = {"a": a, "b": b, "left": left, "chosen": chosen, "won": won, "time": round(time.time(), 3)}
    with Appender(studio.project.samples / VOTES) as file:
        file.write(summed(line))
    return tally(studio.project, a, b)


def votes(studio: Studio, asked: Asked) -> Any:
    """GET /api/votes -> {pairs, problem}: the tally of each pair that was voted on.

    problem: which votes can't be read, and are not counted.
    """
    wrong = list[str]()
    pairs = {tuple(sorted((row["a"], row["b"]))) for row in _rows(studio.project, wrong.append)}
    tallies = [tally(studio.project, a, b) for a, b in sorted(pairs)]
    return {"pairs": tallies, "problem": left_out(studio.project, wrong)}


def tally(project: Project, a: str, b: str) -> dict[str, Any]:
    """How often each of a pair won, ties counted half, and the 95% interval of a's share (Wilson's score interval)."""
    wins = {a: 0, b: 0}
    ties = 0
    for row in _rows(project):
        if {row["a"], row["b"]} == {a, b}:
            if row.get("won") in wins:
                wins[row["won"]] += 1
            else:
                ties += 1
    count = wins[a] + wins[b] + ties
    low, high = interval(wins[a] + ties / 2, count)
    return {"a": a, "b": b, "wins_a": wins[a], "wins_b": wins[b], "ties": ties, "count": count,
            "share": (wins[a] + ties / 2) / count if count else None, "low": low, "high": high}  # fmt: skip


def interval(wins: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of 95% for a share (Wilson 1927); all of 0 to 1 where nothing was counted."""
    if not count:
        return 0.0, 1.0
    p, z = wins / count, Z
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _rows(project: Project, say: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """The votes; `say` is told of those that can't be read."""
    path, found = project.samples / VOTES, list[dict[str, Any]]()
    if not path.exists():
        return found
    for number, row in json_lines(path, damaged="skip", say=say):
        if isinstance(row, dict) and isinstance(row.get("a"), str) and isinstance(row.get("b"), str):
            found.append(row)
        else:
            say(f"{path}: line {number}: no vote")
    return found
