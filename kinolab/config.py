"""Recipes: YAML files and dotted overrides, checked against the components' own config classes.

Every component has a config class derived from `Config`, in the same file, above it. A recipe is a YAML mapping that
sets its fields; `key.sub=value` overrides any of them. An unknown key or a wrong type is an `InputError` that names
the key, what was expected and the nearest valid key.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from kinolab.errors import InputError
from kinolab.runtime import yaml_files
from kinolab.runtime.lines import one_line, shown

C = TypeVar("C", bound="Config")
NESTED = "nested"
"""The type of an error that holds those of a component's own config (`contracts.table.OneOf`)."""


class Config(BaseModel):
    """Base of every component's config: unknown keys are errors, fields are documented by the string below them."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


def load_config(
    cls: type[C], source: Path | str | Mapping[str, Any], overrides: Sequence[str] = (), *, name: str = "config"
) -> C:
    """Read a config of class `cls` from a YAML file or a mapping, with `a.b=value` overrides applied on top.

    `name` is what errors call a mapping; a file is called by its path.

    Raises:
        InputError: for a missing file, bad YAML, an unknown key, or a value of the wrong type; names the key.
    """
    if isinstance(source, Mapping):
        values = dict(source)
    else:
        name, values = str(source), read_yaml(Path(source))
    merged = apply_overrides(values, overrides)
    try:
        return cls.model_validate(merged)
    except ValidationError as error:
        raise InputError(f"{name}: " + "; ".join(_explain(cls, e) for e in error.errors()[:5])) from None
    except (TypeError, ValueError, ArithmeticError, RecursionError, AttributeError, LookupError) as error:
        # Of a validator that meets a value no one thought of, such as `path: true`.
        raise InputError(f"{name}: holds a value that can't be taken ({one_line(error, 160)})") from None


def problems(cls: type[BaseModel], values: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with values for a config of class `cls`, a phrase each by its dotted key; {} where nothing is."""
    try:
        cls.model_validate(values)
    except ValidationError as error:
        return {_dotted(cls, each): _explain(cls, each) for each in reversed(error.errors())}
    except (TypeError, ValueError, ArithmeticError, RecursionError, AttributeError, LookupError) as error:
        return {"": f"holds a value that can't be taken ({one_line(error, 160)})"}
    return {}


def _dotted(cls: type[BaseModel], error: Any) -> str:
    """The dotted key that a validation error is about."""
    key = ".".join(_keys(cls, [str(part) for part in error["loc"]]))
    if error["type"] != NESTED:
        return key
    nested = error["ctx"]
    return ".".join(part for part in (key, _dotted(nested["config"], nested["errors"][0])) if part)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises InputError where there is none, or it is none within bounds."""
    try:
        loaded = yaml_files.read_yaml(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a YAML recipe") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: expected a mapping of keys to values, got {type(loaded).__name__}")
    return loaded


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with each `a.b.c=value` set; the value is parsed as YAML (`true`, `3e-4`, `[1, 2]`)."""
    result = _deep_copy(values)
    for item in overrides:
        key, sep, text = item.partition("=")
        if not sep or not key:
            raise InputError(f"override {item!r}: expected key=value, for example training.steps=100")
        node = result
        *parents, last = key.split(".")
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise InputError(f"override {item!r}: {parent!r} holds the value {child!r}, not a group of keys")
            node = child
        node[last] = yaml_files.parse_yaml(text, f"override {shown(item)}") if text else None
    return result


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` with `changes` on top: groups of keys key by key, every other value whole.

    A group that names another `kind` than the base's takes its place: the fields of the one kind aren't the other's.
    """
    result = _deep_copy(base)
    for key, value in _deep_copy(changes).items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            kind = below.get("kind")
            value = merged(below, value) if value.get("kind", kind) == kind else value
        result[key] = value
    return result


def to_yaml(config: Config) -> str:
    """The whole config, defaults included, as YAML that `load_config` reads back to an equal config."""
    return yaml_files.to_yaml(config.model_dump(mode="json"))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`key: old -> new` for every value that differs between two nested mappings."""
    for key in [*old, *(k for k in new if k not in old)]:
        a, b, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f"{name}.")
        elif a != b:
            yield f"{name}: {a!r} -> {b!r}"


def _deep_copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k if k is None or isinstance(k, bool) else str(k): _deep_copy(v) for k, v in value.items()}
    return list(value) if isinstance(value, list) else value


def _explain(cls: type[BaseModel], error: Any, within: str = "") -> str:
    """One validation error as a phrase: the dotted key, what was expected, what came, the nearest valid key.

    `within` is the dotted key of the component whose config `cls` is.
    """
    path = [str(part) for part in error["loc"]]
    names = _field_names(cls)
    key = ".".join([*([within] if within else []), *_keys(cls, path)])
    if error["type"] == NESTED:
        nested = error["ctx"]
        return "; ".join(_explain(nested["config"], e, key) for e in nested["errors"][:5])
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
        hint = f", did you mean {close[0]!r}?" if close else ""
        return f"unknown key {key!r}{hint}"
    if error["type"] == "missing":
        return f"missing key {key!r}"
    if error["type"] == "invalid_key" or path[-1:] == ["[key]"]:
        inner = _keys(cls, path[: path.index("[key]") - 1] if "[key]" in path else path[:-1])
        where = ".".join([*([within] if within else []), *inner]) or "keys"
        came = f"{error['input']!r} ({type(error['input']).__name__})"
        hint = "write it in quotes, as YAML reads on, off, yes and no as true or false"
        return f"{where}: expected words as keys, got {came}; {hint}"
    came = repr(error.get("input"))
    came = came if len(came) < 80 else came[:77] + "..."
    text = str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {text} (got {came})" if key else f"{text} (got {came})"


def _keys(cls: Any, path: list[str]) -> Iterator[str]:
    """The keys of an error's path as the person wrote them: without pydantic's names of a union's members."""
    node: Any = cls
    for part in path:
        fields = node.model_fields if isinstance(node, type) and issubclass(node, BaseModel) else None
        arguments = typing.get_args(node)
        if fields is not None:
            yield part
            node = _inside(fields[part].annotation) if part in fields else None
        elif typing.get_origin(node) is dict and arguments:
            yield part
            node = _inside(arguments[1])
        elif typing.get_origin(node) in (tuple, list) and arguments:
            yield part
            node = _inside(arguments[0])
        elif part.isdigit():
            yield part
            node = None
        else:
            node = next((m for m in (node if isinstance(node, tuple) else ()) if part in _tags(m)), None)


def _inside(annotation: Any) -> Any:
    """The type that an annotation names beside None, or a tuple of several."""
    members = [m for m in _members(annotation) if m is not type(None)]
    return members[0] if len(members) == 1 else tuple(members)


def _members(annotation: Any) -> list[Any]:
    """The types that a union names, through Annotated; of any other type, itself."""
    if typing.get_origin(annotation) is Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Union or isinstance(annotation, types.UnionType):
        return [m for a in typing.get_args(annotation) for m in _members(a)]
    return [annotation]


def _tags(member: Any) -> tuple[Any, ...]:
    """What pydantic calls a member of a union: the value of its `kind`, or its name."""
    if not (isinstance(member, type) and issubclass(member, BaseModel)):
        return ()
    kind = member.model_fields.get("kind")
    return (member.__name__, *(typing.get_args(kind.annotation) if kind is not None else ()))


def _field_names(cls: Any, seen: frozenset[Any] = frozenset()) -> set[str]:
    """The names of all fields of a config class and of the classes nested in it."""
    if typing.get_origin(cls) is not None or isinstance(cls, types.UnionType):
        return set().union(*(_field_names(a, seen) for a in typing.get_args(cls)), set())
    if not (isinstance(cls, type) and issubclass(cls, BaseModel)) or cls in seen:
        return set()
    nested = [_field_names(f.annotation, seen | {cls}) for f in cls.model_fields.values()]
    return set(cls.model_fields).union(*nested)
