"""Results that versions before one form of scores wrote, brought into it.

The evaluations of 0.1.0 on the toy world, `tune`, `plan` and `sensitivity` each had a form of their own. What they hold
stays where it is; kind, subject, data, protocol's hash, metrics and groups are added as `ScoreReport` writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kinolab.evaluation.records import settings_hash

Record = Mapping[str, Any]
Scores = dict[str, dict[str, Any]]


def in_one_form(record: Record) -> dict[str, Any]:
    """A result as `ScoreReport.to_json` has it, of whichever version; a record of no known kind stays as it is.

    Raises:
        KeyError, TypeError, AttributeError: for one that looks like a kind but is not of its form.
    """
    if "metrics" in record and "kind" in record:
        return {"groups": {}, **record}
    for keys, kind, read in FORMS:
        if all(key in record for key in keys):
            metrics, groups = read(record)
            protocol = record.get("protocol") or {}
            name, count = protocol.get("model") or protocol.get("name"), protocol.get("count", protocol.get("clips"))
            return {
                "kind": kind, "subject": {"name": name, "sha256": protocol.get("model_sha256")},
                "data": {"name": "toy world", "clips": count}, "protocol": protocol,
                "protocol_hash": settings_hash(protocol), "facts": {}, **record, "metrics": metrics, "groups": groups,
            }  # fmt: skip
    return dict(record)


def _score(
    value: Any, count: int = 0, interval: tuple[Any, Any, str] | None = None, level: float = 0.95
) -> dict[str, Any]:
    bounds = None
    if interval is not None:
        low, high, method = interval
        bounds = {"low": low, "high": high, "method": method, "level": level}
    return {"value": value, "count": count, "protocol": {}, "interval": bounds}


def _shares(part: Record) -> Scores:
    shares = {name: share for name, share in part.items() if isinstance(share, Mapping) and share["count"]}
    found = {f"asked_{n}": _score(s["share"], s["count"], (s["low"], s["high"], "wilson")) for n, s in shares.items()}
    return found | {"roughness": _score(part["physics"])}


def _world(record: Record) -> tuple[Scores, dict[str, Scores]]:
    groups = {subject: _shares(part) for subject, part in record["checks"].items()}
    own = groups.pop("generated", {})
    groups = {subject: scores for subject, scores in groups.items() if len(scores) > 1}
    return own, groups | {f"generated, {n}": _shares(part["generated"]) for n, part in record["scenarios"].items()}


def _physics(record: Record) -> tuple[Scores, dict[str, Scores]]:
    names = {"error_first_8": "position_error", "error_first_8_contacts": "contact_error"}
    count = record["protocol"]["count"]
    groups = {
        f"{subject}, {given} given": {
            names.get(key, key): _score(value, count) for key, value in part.items() if not isinstance(value, list)
        }
        for given, subjects in record["means"].items()
        for subject, part in subjects.items()
    }
    return groups.pop(f"model, {max(map(int, record['means']))} given"), groups


def _tasks(record: Record) -> tuple[Scores, dict[str, Scores]]:
    groups: dict[str, Scores] = {}
    for task in record["tasks"]:
        own = {"given_psnr": "given_psnr", "made_psnr": "made_psnr", "error": "position_error", "found": "found"}
        ceiling = {"given_ceiling": "given_psnr", "made_ceiling": "made_psnr"}
        count = record["protocol"]["count"]
        groups[task["task"]] = {name: _score(task[key], count) for key, name in own.items()}
        groups[f"{task['task']}, autoencoder"] = {name: _score(task[key], count) for key, name in ceiling.items()}
    return {}, groups


def _tune(record: Record) -> tuple[Scores, dict[str, Scores]]:
    groups: dict[str, Scores] = {}
    for number, row in enumerate(record["outcomes"]):
        seconds, passed = row["seconds"], row["passed"]
        turns = (min(seconds), max(seconds), "range of turns")
        scores = {
            "seconds_per_clip": _score(row["median"], len(seconds), turns, 1.0),
            "faster": _score(row["faster"], len(seconds)),
            "drift_psnr": _score(row["psnr"], record["protocol"]["clips"]),
        }
        if passed is not None:
            share = passed["passed"] / passed["count"]
            scores["asked_all"] = _score(share, passed["count"], (passed["low"], passed["high"], "wilson"))
        groups[row["options"] if number else ""] = scores
    return groups.pop("", {}), groups


def _plan(record: Record) -> tuple[Scores, dict[str, Scores]]:
    scores = {"disk_bytes": _score(record["disk"], 1)}
    if record["memory"]["peak"] is not None:
        scores["peak_memory"] = _score(record["memory"]["peak"], 1)
    steps = sum(len(phase["computing"]) for phase in record["phases"])
    for name, key in (("run_seconds", "seconds"), ("cost", "cost")):
        if record[key] is not None:
            low, middle, high = record[key]
            scores[name] = _score(middle, steps, (low, high, "range of steps"), 1.0)
    return scores, {}


def _sensitivity(record: Record) -> tuple[Scores, dict[str, Scores]]:
    plain: Scores = {}
    groups: dict[str, Scores] = {}
    for response in record["responses"]:
        first, *others = ({"protocol": {}, **value} for value in response["values"])
        plain[response["metric"]] = first
        for strength, value in zip(record["strengths"], others, strict=True):
            groups.setdefault(f"{response['distortion']} {strength:g}", {})[response["metric"]] = value
    return plain, groups


FORMS: tuple[tuple[tuple[str, ...], str, Callable[[Record], tuple[Scores, dict[str, Scores]]]], ...] = (
    (("checks", "scenarios"), "world", _world),
    (("means", "clips"), "physics", _physics),
    (("tasks", "protocol"), "tasks", _tasks),
    (("outcomes", "protocol"), "tune", _tune),
    (("phases", "memory", "disk"), "plan", _plan),
    (("responses", "strengths"), "sensitivity", _sensitivity),
)
"""The keys by which a form is known, its kind, and what reads its scores."""
