"""What is fuzzed: every kind of file that Kinolab reads."""

from __future__ import annotations

from fuzz import readers
from fuzz.cases import Target

MEASURED = ("cost.json", "f7c3.json", "cf88.json", "log.jsonl")
"""Endings of the small files of a measured cell; no other changes what the tables are of."""
TARGETS = (
    Target("media", "video", readers.video, outside=True),
    Target("media", "mask", readers.mask, outside=True),
    Target("media", "clips", readers.folder_of_clips, outside=True),
    Target("yaml", "recipe", readers.recipe, outside=True),
    Target("yaml", "protocol", readers.protocol, outside=True),
    Target("yaml", "model-yaml", readers.model_config, outside=True),
    Target("plans", "plan", readers.plan, outside=True, changed=(".yaml",)),
    Target("plans", "compared", readers.compared, outside=True, changed=MEASURED),
    Target("reports", "report", readers.report, changed=(".json", ".jsonl")),
    Target("provenance", "rerun", readers.provenance, outside=True, changed=(".json",)),
    Target("tables", "table", readers.table, changed=(".csv", ".tsv", ".jsonl", ".json", ".txt")),
    Target("tables", "prompts", readers.prompts, outside=True),
    Target("weights", "file", readers.weights, outside=True),
    Target("weights", "model", readers.model, outside=True),
    Target("weights", "adapter", readers.adapter, outside=True),
    Target("runs", "checkpoint", readers.checkpoint),
    Target("runs", "state", readers.run_state),
    Target("runs", "log", readers.report, changed=(".jsonl", ".yaml")),
    Target("caches", "cache", readers.cache),
    Target("caches", "embeddings", readers.embeddings),
)
KINDS = tuple(dict.fromkeys(target.kind for target in TARGETS))


def of_kind(kind: str) -> tuple[Target, ...]:
    """The targets of a kind."""
    return tuple(target for target in TARGETS if target.kind == kind)
