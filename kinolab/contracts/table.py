"""A table of the components of one kind, by the names that YAML, commands and errors know them by.

One line of a table is a name and where its class is ("module:Class"). The class is imported when it is asked for, so
that help and errors can list the names without it. A class from elsewhere joins by `register` and is then like any
other: in lists, in YAML and in errors.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Generic, TypeVar, cast

from pydantic import SerializeAsAny, ValidationError, WrapValidator

from kinolab.config import Config, explain
from kinolab.errors import InputError
from kinolab.runtime.lines import shown

T = TypeVar("T")
C = TypeVar("C", bound=type)


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

    def union(self, key: str = "kind") -> Any:
        """A type for a field of a config: any `Config` of the table's classes, told apart by the value of `key`.

        It looks a value up when it is read, so that a class that joins later is read too, and one that is not there is
        an error that lists the names.
        """

        def read(value: Any, _handler: Callable[[Any], Any]) -> Config:
            if isinstance(value, Config):
                return value
            name = value.get(key) if isinstance(value, Mapping) else value
            if not isinstance(name, str):
                raise ValueError(f"expected a mapping with `{key}`: one of {self.help()}")
            try:
                config = cast("type[Config]", cast(Any, self.get(name)).Config)
                return config.model_validate(value if isinstance(value, Mapping) else {key: name})
            except ValidationError as error:
                raise ValueError("; ".join(explain(config, e) for e in error.errors()[:5])) from None
            except InputError as error:
                raise ValueError(str(error)) from None

        return Annotated[SerializeAsAny[Config], WrapValidator(read)]
