"""YAML, within limits: what people write and may get wrong, and what somebody may have made to hurt.

A first pass over the parser's events counts what the text would become, aliases written out, before anything is built:
a few lines can stand for more values than any memory holds, or for themselves. Then plain values are built, and
nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from kinolab.errors import InputError
from kinolab.runtime.lines import one_line, shown
from kinolab.runtime.reading import Limits, check_value, read_text

LIMITS = Limits(bytes=2**20, depth=32, values=100_000)
"""Of a recipe, a plan or a model.yaml."""
DIGITS = 20
"""Digits of an integer: as many as 64 bits have."""
NO_WORDS = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null")
"""The types that YAML gives to keys such as on, off, yes, no and ~."""
NUMBER = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*(?::[0-5]?[0-9])*)")
"""What YAML reads as an integer."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def to_yaml(value: Any) -> str:
    """Plain values as YAML that `parse_yaml` reads back."""
    return str(yaml.safe_dump(value, sort_keys=False, width=120))


def read_yaml(path: Path, limits: Limits = LIMITS) -> Any:
    """The value in a YAML file; None for an empty one.

    Raises:
        InputError: as `parse_yaml`, and for bytes that are no text.
        OSError: where the file can't be read.
    """
    return parse_yaml(read_text(path, limits.bytes), str(path), limits)


def parse_yaml(text: str, name: str, limits: Limits = LIMITS) -> Any:
    """The value that a YAML text stands for: mappings, lists, texts, numbers, dates; `name` is what errors call it.

    Raises:
        InputError: for what is no YAML, an alias of what it stands in, a key that stands twice or is read as true,
            false or nothing, and what exceeds the limits; names the line.
    """
    if len(text) > limits.bytes:
        raise InputError(f"{name}: larger than the {limits.bytes:,} bytes that it may have")
    try:
        _measure(text, limits)
        value = _build(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise InputError(f"{name}: not valid YAML{line}: {one_line(what, 160)}") from None
    except _RefusedError as error:
        raise InputError(f"{name}: {error}") from None
    except (ValueError, KeyError, AttributeError, TypeError, IndexError, OverflowError, RecursionError) as error:
        # PyYAML lets them out where a value doesn't fit its tag: `!!bool x`, the 99th of a month
        raise InputError(f"{name}: not valid YAML: a value doesn't fit its type ({one_line(error, 120)})") from None
    check_value(value, name, limits)
    return value


class _RefusedError(Exception):
    """What is wrong with a text that is YAML."""


def _measure(text: str, limits: Limits) -> None:
    """Count the values that a text stands for, aliases written out, and how deep they lie."""
    sizes: dict[str | None, tuple[int, int]] = {}  # of an anchor: its values, and the levels in it
    opened: list[list[Any]] = []  # of every list or mapping that is not closed: anchor, values, levels
    for event in yaml.parse(text, Loader=_Base):
        anchor: str | None = None
        values, levels = 1, 0
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append([event.anchor, 1, 1])
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, values, levels = opened.pop()
        elif isinstance(event, yaml.AliasEvent):
            if any(o[0] == event.anchor for o in opened):
                raise _RefusedError(f"{_line(event)}: *{event.anchor} stands in what it stands for")
            values, levels = sizes.get(event.anchor, (1, 0))
        elif isinstance(event, yaml.ScalarEvent):
            anchor = event.anchor
            _check_number(event)
        else:
            continue
        sizes[anchor] = values, levels
        if opened and not isinstance(event, yaml.CollectionStartEvent):
            opened[-1][1] += values
            opened[-1][2] = max(opened[-1][2], levels + 1)
        if len(opened) + levels > limits.depth:
            raise _RefusedError(f"{_line(event)}: nested deeper than {limits.depth} levels")
        if values > limits.values or (opened and sum(o[1] for o in opened) > limits.values):
            raise _RefusedError(f"{_line(event)}: holds more than {limits.values:,} values")


def _check_number(event: Any) -> None:
    """Refuse a number that takes longer to read than it can be worth."""
    number = event.tag is not None or (event.implicit[0] and NUMBER.fullmatch(event.value))
    if number and len(event.value) > DIGITS + 2 and (event.tag or ":int").endswith((":int", ":float")):
        raise _RefusedError(
            f"{_line(event)}: {shown(event.value, 30)} is a number of {len(event.value)} digits; numbers have at most "
            f"{DIGITS}, and words stand in quotes"
        )


def _build(text: str) -> Any:
    """The value, by PyYAML's safe loader, once all keys are checked."""
    loader = _Base(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_keys(root: Any) -> None:
    """Refuse keys that stand twice in a mapping, and those that YAML reads as no word, such as on; first to last."""
    waiting, met = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in met:  # an alias
            continue
        met.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += reversed(node.value)
        elif isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if key.tag in NO_WORDS:
                    word, read = key.value[:20], yaml.safe_load(key.value[:20])
                    raise _RefusedError(
                        f"line {key.start_mark.line + 1}: the key {word} is read by YAML as {read}; write it in "
                        f'quotes: "{word}"'
                    )
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        what = f"the key {shown(key.value, 40)} stands twice in one mapping"
                        raise _RefusedError(f"line {key.start_mark.line + 1}: {what}")
                    seen.add(key.value)
            waiting += reversed([value for _, value in node.value])


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"
