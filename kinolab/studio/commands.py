"""Commands as forms: the options that each has, read from its own signature, and the words that values make of them.

What the page asks to run is a command's name and values by option; the words are made here, by the same rules for every
command, and are made again, not read, when a job begins: a queue that somebody else wrote runs nothing else. Every path
lies in the project.
"""

from __future__ import annotations

import inspect
import os
import shlex
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import UnionType
from typing import Any, Literal

from kinolab.errors import InputError
from kinolab.runtime.lines import shown
from kinolab.runtime.remote import is_remote
from kinolab.runtime.yaml_files import parse_yaml, read_yaml
from kinolab.studio.project import Project

Kind = Literal["flag", "int", "float", "text", "path", "choice"]

MAKING = ("generate", "predict", "interpolate", "animate", "complete", "control", "extend", "edit")
"""The commands that sample, each a task of the page's panel."""
RUNNABLE = (
    *MAKING, "upscale", "rerun", "reconstruct", "train", "distill", "fit", "encode", "plan", "tune", "convert", "pack",
    "lora extract", "lora convert", "compare", "report", "data check", "data cut", "data shrink", "data curate",
    "data caption", "evaluate generation", "evaluate reconstruction", "evaluate tasks", "evaluate world",
    "evaluate physics",
)  # fmt: skip
"""What a page may run. Commands that install, download or serve are not among them."""
FREE = frozenset({"prompt", "prompt_at", "negative", "label", "currency"})
"""Options that take words for a model or a person, and no path."""
OURS = frozenset({"events", "as_json", "resume_auto", "engine"})
"""Options that the studio sets itself or leaves as they are: a cluster (`ray:HOST`) runs what it is sent, and answers
with what runs here. Where a recipe may name one (`work.engine`), the words say another (`HERE`)."""
CLOSED = {"data caption": frozenset({"command", "server", "model", "frames", "key_file"})}
"""Options of single commands that no page sets: a program that would be run, and a server that would be sent clips and
a key. A model that lies in the project is what is left."""
FOLDER_OF = frozenset({("data curate", "source"), ("data caption", "folder")})
"""Arguments that are a folder of the project, and not a list or an archive, which could name what lies elsewhere."""
HERE = "--engine=embedded"
"""Options win over recipes: what the page asks for runs on this machine, whatever a file of the project says."""


@dataclass(frozen=True)
class Option:
    """One option of a command: `flag` is how it is written, "" for an argument."""

    name: str
    flag: str
    kind: Kind
    many: bool
    required: bool
    help: str
    default: Any
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    rare: bool = False


@cache
def options(command: str) -> tuple[Option, ...]:
    """The options of a command in order, arguments first; those that the studio sets itself left out.

    Raises:
        InputError: for a command that the studio does not run.
    """
    if command not in RUNNABLE:
        raise InputError(f"{shown(command)}: not a command that the studio runs; expected {', '.join(RUNNABLE)}")
    function = _function(command)
    hints = typing.get_type_hints(function, include_extras=True)
    found = [
        _option(name, hints.get(name, str), parameter)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in OURS | CLOSED.get(command, frozenset())
    ]
    return tuple(sorted(found, key=lambda option: option.flag != ""))


def has_events(command: str) -> bool:
    """Whether a command writes what happens to a file of `--events`."""
    options(command)
    return "events" in inspect.signature(_function(command)).parameters


def about(command: str) -> str:
    """The first line of a command's help."""
    options(command)
    return (inspect.getdoc(_function(command)) or "").partition("\n")[0]


def words(project: Project, command: str, values: Mapping[str, Any]) -> list[str]:
    """The words behind `kinolab` that run a command with values by option, in the order of its options.

    Options are written `--name=value`, and arguments behind `--`, so that no value is taken for an option.

    Raises:
        InputError: for an option that it doesn't have, a value of another type, one that is missing, or a path that
            leads out of the project.
    """
    known = {option.name: option for option in options(command)}
    for name in values:
        if name not in known:
            raise InputError(f"kinolab {command}: no option {shown(name)}; expected {', '.join(known)}")
    engine = inspect.signature(_function(command)).parameters.get("engine")
    named: list[str] = [HERE] if engine is not None and engine.default is None else []
    placed: list[str] = []
    for option in known.values():
        value = values.get(option.name)
        if value is None or value in ([], ""):
            if option.required:
                raise InputError(f"kinolab {command}: expected {option.name}: {option.help}")
            continue
        if option.many and not isinstance(value, list):
            raise InputError(f"kinolab {command}: {option.name}: expected a list, got {shown(value)}")
        texts = [_text(project, command, option, each) for each in (value if option.many else [value])]
        if not option.flag:
            placed += texts
        elif option.kind == "flag":
            named += [option.flag] if value else []
        else:
            named += [f"{option.flag}={text}" for text in texts]
    return [*command.split(), *named, *(["--", *placed] if placed else [])]


def copied(project: Project, given: Sequence[str]) -> str:
    """A command as a person may paste it into a terminal."""
    return f"cd {shlex.quote(str(project.folder))} && {shlex.join(['kinolab', *given])}"


def check_path(project: Project, text: str, what: str) -> None:
    """Refuse a text that names something outside the project, as a path, an address of a store, or through a link, also
    one inside a folder.

    Raises:
        InputError: where it does.
    """
    windows = PureWindowsPath(text)
    absolute = PurePosixPath(text).is_absolute() or windows.drive or windows.root or text.startswith("~")
    if absolute or is_remote(text) or ".." in text.replace("\\", "/").split("/"):
        raise InputError(f"{what}: {shown(text)} leads out of the project; name something inside {project.folder}")
    if text:
        project.refuse_links(project.folder if text == "." else project.path(text))


def check_setting(project: Project, text: str, what: str) -> None:
    """Refuse a `key=value` whose value holds, however deep, a path that leads out of the project, also by a link there.

    Raises:
        InputError: where one does, or the value is no YAML.
    """
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise InputError(f"{what}: {shown(text)}: expected key=value, such as training.steps=100")
    if key.rpartition(".")[2] in ("prompts", "negative", "class_names", "name", "prompt"):
        return
    _check_values(project, parse_yaml(value, f"{what} {key}"), f"{what} {key}")


def _check_values(project: Project, value: Any, what: str) -> None:
    """Refuse values that hold, however deep, a path that leads out of the project."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            waiting += [*found.keys(), *found.values()]
        elif isinstance(found, list):
            waiting += found
        elif isinstance(found, str) and (
            "/" in found or "\\" in found or found.startswith(("~", "..")) or os.path.lexists(project.folder / found)
        ):
            check_path(project, found, what)


def _text(project: Project, command: str, option: Option, value: Any) -> str:
    """A value as the word that an option takes."""
    what = f"kinolab {command}: {option.name}"
    types: dict[str, tuple[type, ...]] = {"flag": (bool,), "int": (int,), "float": (int, float)}
    if not isinstance(value, types.get(option.kind, (str,))) or (isinstance(value, bool) and option.kind != "flag"):
        raise InputError(f"{what}: expected {option.kind}, got {shown(value)}")
    if option.kind == "choice" and value not in option.choices:
        raise InputError(f"{what}: expected one of {', '.join(option.choices)}, got {shown(value)}")
    text = str(value)
    if any(ord(c) < 32 and c not in "\t\n" for c in text):
        raise InputError(f"{what}: holds a control character")
    if option.flag == "--set":
        check_setting(project, text, what)
    elif option.kind in ("path", "text") and option.name not in FREE:
        # FILE:WEIGHT, PORT=FILE and NAME=FILE:WEIGHT name a file, too
        for part in [text, *text.replace("=", ":").split(":")]:
            check_path(project, part, what)
        if (command, option.name) in FOLDER_OF and not project.path(text).is_dir():
            raise InputError(f"{what}: {shown(text)}: expected a folder of the project")
        if option.flag == "--settings":
            _check_values(project, read_yaml(project.path(text)), f"{what} {text}")
    return text


@cache
def _function(command: str) -> Any:
    """The function of a command, with the signature that its options are read from."""
    from kinolab.cli import build

    first, *below = command.split()
    app: Any = build([first])
    if below:
        app = next(group.typer_instance for group in app.registered_groups if first == group.name)
    wanted = below[-1] if below else first
    for registered in app.registered_commands:
        if (registered.name or registered.callback.__name__.replace("_", "-")) == wanted:
            return registered.callback
    raise LookupError(command)


def _option(name: str, annotation: Any, parameter: inspect.Parameter) -> Option:
    """An option as its parameter's annotation and default say."""
    info: Any = next(iter(getattr(annotation, "__metadata__", ())), None)
    kind = typing.get_args(annotation)[0] if info is not None else annotation
    plain, many = _plain(kind)
    # In Annotated the first name of an option stands where a default would.
    named = (getattr(info, "default", None), *(getattr(info, "param_decls", None) or ()))
    declared = [word for word in named if isinstance(word, str) and word.startswith("--")]
    argument = type(info).__name__ == "ArgumentInfo"
    found, choices = _kind(plain)
    default = parameter.default
    required = default is inspect.Parameter.empty or default is ...
    return Option(
        name=name,
        flag="" if argument else next(iter(declared), f"--{name.replace('_', '-')}").partition("/")[0],
        kind=found,
        many=many,
        required=required,
        help=str(getattr(info, "help", "") or ""),
        default=None if required else str(default) if isinstance(default, Path) else default,
        choices=choices,
        least=getattr(info, "min", None),
        most=getattr(info, "max", None),
        rare=bool(getattr(info, "hidden", False)),
    )


def _plain(kind: Any) -> tuple[Any, bool]:
    """A type without None, and whether it is a list of them."""
    if isinstance(kind, UnionType) or typing.get_origin(kind) is typing.Union:
        return _plain(next(a for a in typing.get_args(kind) if a is not type(None)))
    if typing.get_origin(kind) in (list, tuple):
        return typing.get_args(kind)[0], True
    return kind, False


def _kind(plain: Any) -> tuple[Kind, tuple[str, ...]]:
    if typing.get_origin(plain) is Literal:
        return "choice", tuple(map(str, typing.get_args(plain)))
    kinds: dict[Any, Kind] = {bool: "flag", int: "int", float: "float", Path: "path"}
    return kinds.get(plain, "text"), ()
