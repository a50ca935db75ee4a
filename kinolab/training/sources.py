"""The clips of a recipe: those to train on and those held out."""

from __future__ import annotations

from kinolab import data
from kinolab.contracts.events import Events
from kinolab.contracts.examples import ShapeRules, Source, SourceConfig
from kinolab.errors import InputError


def sources_of(config: SourceConfig, rules: ShapeRules, events: Events, *, annotated: bool) -> tuple[Source, Source]:
    """The windows to train on, and the held-out ones; a folder with one clip is measured on what it trains on."""
    source = data.build(config, rules, split="train", annotated=annotated)
    for note in source.notes():
        events.note(note)
    try:
        heldout = data.build(config, rules, split="heldout", annotated=annotated)
    except InputError as error:
        meant = getattr(config, "heldout_fraction", None) == 0
        why = "heldout_fraction is 0" if meant else str(error)
        events.note(f"nothing is held out, so the held-out numbers are of training clips: {why}")
        return source, source
    events.note(f"data: {len(source)} windows to train on, {len(heldout)} held out")
    return source, heldout
