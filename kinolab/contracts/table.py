"""A table of the components of one kind, by the names that YAML, commands and errors know them by.

One line of a table is a name and where its class is ("module:Class"). The class is imported when it is asked for, so
that help and errors can list the names without it. A class from elsewhere joins by `register` and is then like any
other: in lists, in YAML and in errors.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import PydanticCustomError, core_schema

from kinolab.config import NESTED, Config
from kinolab.errors import InputError
from kinolab.runtime.lines import shown

T = TypeVar("T")
C = TypeVar("C", bound=type)


class KindConfig(Config):
    """The config of one of a table's classes: `kind` is the class's name in the table."""

    kind: str


class Table(Generic[T]):
    """Classes of one kind by name, in order.

    what: what one of them is called in errors, e.g. "metric".
    members: of each group, name -> class, or where it is. A kind of which all stand in one list has the group "".
    """

    def __init__(self, what: str, members: Mapping[str, Mapping[str, type[T] | str]]) -> None:
        self.what = what
        self._members: dict[str, type[T] | str] = {}
        self._groups: dict[str, str] = {}
        for group, entries in members.items():
            for name, member in entries.items():
                self._add(name, member, group)

    def _add(self, name: str, member: type[T] | str, group: str) -> None:
        if name in self._members:
            raise InputError(f"{name}: there is a {self.what} of that name already; give yours another")
        self._members[name], self._groups[name] = member, group

    def register(self, name: str, group: str = "") -> Callable[[C], C]:
        """Decorator: the class joins under a name, at the end of its group.

        Raises:
            InputError: for a name that is taken.
        """

        def add(cls: C) -> C:
            self._add(name, cast("type[T]", cls), group)
            return cls

        return add

    def remove(self, name: str) -> None:
        """Take a class out again, as a test does with its own."""
        self.get(name)
        del self._members[name], self._groups[name]

    def names(self, group: str | None = None) -> tuple[str, ...]:
        """All names, or those of a group, in order."""
        return tuple(name for name, own in self._groups.items() if group in (None, own))

    def help(self, group: str | None = None) -> str:
        """The names in a row, for a line of help."""
        return ", ".join(self.names(group))

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def get(self, name: str, group: str | None = None) -> type[T]:
        """The class of a name.

        Raises:
            InputError: for a name that is not there, or in another group; lists those that are.
        """
        if name not in self.names(group):
            of = f"{group} has" if group else "expected one of"
            raise InputError(f"unknown {self.what} {shown(name)}; {of} {self.help(group)}")
        member = self._members[name]
        if isinstance(member, str):
            module, _, cls = member.partition(":")
            member = self._members[name] = cast("type[T]", getattr(importlib.import_module(module), cls))
        return member

    def of(self, config: KindConfig) -> type[T]:
        """The class that a config is of.

        Raises:
            InputError: for a config of something else.
        """
        if not isinstance(config, KindConfig):
            raise InputError(f"expected the config of a {self.what} ({self.help()}), got {type(config).__name__}")
        return self.get(config.kind)

    def one_of(self, key: str = "kind") -> OneOf:
        """Marks a field that holds the config of any class of the table: `Annotated[KindConfig, TABLE.one_of()]`."""
        return OneOf(self, key)


class OneOf:
    """How pydantic reads a field that holds the `Config` of one of a table's classes, told apart by the value of `key`.

    The class is looked up when a value is read, so that one that joins later is read too, and one that is not there is
    an error that lists the names.
    """

    def __init__(self, table: Table[Any], key: str) -> None:
        self.table, self.key = table, key

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        def write(value: Config, info: core_schema.SerializationInfo) -> dict[str, Any]:
            return value.model_dump(
                mode=info.mode,
                by_alias=info.by_alias,
                exclude_unset=info.exclude_unset,
                exclude_defaults=info.exclude_defaults,
                exclude_none=info.exclude_none,
            )

        serialization = core_schema.plain_serializer_function_ser_schema(write, info_arg=True)
        return core_schema.no_info_plain_validator_function(self.read, serialization=serialization)

    def read(self, value: Any) -> Config:
        """The config that a value is, or the mapping or the name alone stands for."""
        if isinstance(value, Config):
            return value
        name = value.get(self.key) if isinstance(value, Mapping) else value
        if not isinstance(name, str):
            raise PydanticCustomError(
                "no_kind",
                "expected a mapping with `{key}`, one of {names}",
                {"key": self.key, "names": self.table.help()},
            )
        try:
            config = cast("type[Config]", cast(Any, self.table.get(name)).Config)
        except InputError as error:
            raise PydanticCustomError("no_kind", "{text}", {"text": str(error)}) from None
        try:
            return config.model_validate(value if isinstance(value, Mapping) else {self.key: name})
        except ValidationError as error:
            # The keys of these are the component's own; `config.explain` puts the field's name in front.
            raise PydanticCustomError(NESTED, "{config}", {"config": config, "errors": error.errors()}) from None
