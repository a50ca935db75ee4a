"""Tables: names in order and groups, classes imported when asked for, a union for YAML that grows with the table."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any, ClassVar, Literal

import pytest

from kinolab.config import Config, load_config, to_yaml
from kinolab.contracts.table import Table
from kinolab.errors import InputError


class PathConfig(Config):
    """Of the class below."""

    kind: Literal["path"] = "path"
    depth: int = 2


class Lamp:
    Config: ClassVar[type[Config]] = PathConfig


LAMPS: Table[Any] = Table("lamp", {"": {"path": Lamp}})


class Room(Config):
    """Holds one of the table's configs."""

    lamp: Annotated[Config, LAMPS.one_of()] = PathConfig()


def table() -> Table[Any]:
    return Table("lamp", {"hall": {"a": Lamp, "path": "pathlib:PurePath"}, "yard": {"b": "collections:OrderedDict"}})


def test_names_stand_in_order_and_in_groups() -> None:
    lamps = table()
    lamps.register("c", "hall")(Lamp)
    assert list(lamps) == ["a", "path", "b", "c"] and lamps.names("hall") == ("a", "path", "c")
    assert lamps.help("hall") == "a, path, c" and "b" in lamps and "d" not in lamps
    lamps.remove("a")
    assert lamps.names("hall") == ("path", "c")


def test_a_class_is_imported_when_it_is_asked_for() -> None:
    from collections import OrderedDict

    assert table().get("b") is OrderedDict and table().get("a", "hall") is Lamp
    code = "from kinolab.metrics import METRICS; import sys; METRICS.help(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", "lists of names must not cost seconds"


def test_errors_list_what_there_is() -> None:
    lamps = table()
    with pytest.raises(InputError, match="unknown lamp 'd'; expected one of a, path, b"):
        lamps.get("d")
    with pytest.raises(InputError, match="unknown lamp 'b'; hall has a, path"):
        lamps.get("b", "hall")
    with pytest.raises(InputError, match="a: there is a lamp of that name already"):
        lamps.register("a")(Lamp)


def test_a_union_takes_what_joins_later() -> None:
    class OtherConfig(Config):
        kind: Literal["other"] = "other"
        size: int = 1

    with pytest.raises(InputError, match="lamp: unknown lamp 'other'; expected one of path"):
        load_config(Room, {"lamp": {"kind": "other"}})
    LAMPS.register("other")(type("Other", (), {"Config": OtherConfig}))
    try:
        room = load_config(Room, {"lamp": {"kind": "other"}}, ["lamp.size=3"])
        assert room.lamp == OtherConfig(size=3) and "size: 3" in to_yaml(room)
        assert load_config(Room, {"lamp": "other"}).lamp == OtherConfig()
    finally:
        LAMPS.remove("other")
    assert load_config(Room, {}).lamp == PathConfig()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "path", "dept": 3}, "unknown key 'lamp.dept', did you mean 'depth'"),
        ({"kind": "path", "depth": "x"}, "lamp.depth: .*integer"),
        ({"depth": 3}, "lamp: expected a mapping with `kind`, one of path"),
        (7, "lamp: expected a mapping with `kind`"),
    ],
)
def test_a_wrong_value_is_named(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(Room, {"lamp": value})
