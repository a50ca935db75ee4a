"""The machine that a pickle is a program for (see `runtime.unpickling`, which is how it is used).

One method per operation; none of them imports, looks an attribute up by a name from the file, or calls anything but
what the caller's table holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kinolab.errors import InputError
from kinolab.runtime.lines import one_line, shown
from kinolab.runtime.pickle_parts import INTEGER, OBJECTS, Known, Named, Placeholder, Table, check_key, names_in

OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "__builtins__": "builtins"}
"""What Python 2 called them."""


class Machine:
    """The stack, the marks and the memo of a pickle."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.builders = {k.call: k.build for k in table.functions.values() if k.build is not None}
        self.made = 0
        self.ended = False

    def step(self, code: str, argument: Any) -> None:
        if code in _PUSHED:
            self.push(argument)
            return
        if code in _MADE:
            self.count()
            self.push(_MADE[code]())
            return
        method = _OPERATIONS.get(code)
        if method is None:
            raise InputError(f"a pickle with the operation {code}, which no file of weights has")
        if method == "tuple_of":
            argument = int(code[-1])
        getattr(self, method)(argument)

    def result(self) -> Any:
        if not self.ended:
            raise ValueError("no end")
        return self.stack.pop()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def count(self) -> None:
        self.made += 1
        if self.made > OBJECTS:
            raise InputError(f"a pickle with more than {OBJECTS:,} lists, dictionaries and objects")

    def to_mark(self) -> list[Any]:
        """What is above the last mark; it is taken off."""
        above = self.stack
        self.stack = self.marks.pop()
        return above

    def named(self, module: str, name: str) -> Any:
        """What a name stands for: what the table says, else the name alone."""
        full = f"{OLD_MODULES.get(module, module)}.{name}"
        if full in self.table.values:
            return self.table.values[full]
        known = self.table.functions.get(full)
        if known is not None:
            return known
        if self.table.strict:
            raise InputError(
                f"holds {shown(full, 80)}, which has no place in such a file and could run code; not loaded"
            )
        self.count()
        self.table.unknown.add(one_line(full, 200))
        return Named(one_line(full, 200))

    def call(self, function: Any, args: Any) -> Any:
        """What a function makes of its arguments; of any but the table's, a placeholder."""
        if not isinstance(args, tuple):
            raise TypeError("arguments that are no tuple")
        if isinstance(function, Known):
            return function.call(*args)
        if self.table.strict:
            raise InputError(f"calls {names_in(function)}, which could run code; not loaded")
        self.count()
        if isinstance(function, Named) and function.name in ("copyreg.__newobj__", "copyreg._reconstructor"):
            first = args[0] if args else None
            return first.call(*args[1:]) if isinstance(first, Known) else Placeholder(names_in(first), args[1:])
        return Placeholder(names_in(function), args)

    def build(self, state: Any) -> None:
        """Put a state into the object on top, where the table says how; a placeholder keeps it."""
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            target.state = state
            return
        build = self.builders.get(type(target))
        if build is not None:
            build(target, state)

    def set(self, target: Any, key: Any, value: Any) -> None:
        if isinstance(target, Placeholder):
            target.pairs.append((key, value))
        elif isinstance(target, dict):
            check_key(key, self.table.keys)
            target[key] = value
        else:
            raise TypeError("items set in what is no dictionary")

    def extend(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Placeholder):
            target.items += items
        elif type(target) is list:
            target += items
        else:
            raise TypeError("items appended to what is no list")

    def add(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Placeholder):
            target.items += items
            return
        if type(target) is not set:
            raise TypeError("items added to what is no set")
        for item in items:
            check_key(item, self.table.keys)
            target.add(item)

    def stop(self, _: Any) -> None:
        self.ended = True

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def pop_mark(self, _: Any) -> None:
        self.to_mark()

    def tuple_of(self, count: int) -> None:
        self.count()
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise IndexError("too few items")
        self.stack[-count:] = [items]

    def tuple_to_mark(self, _: Any) -> None:
        self.count()
        items = self.to_mark()
        self.push(tuple(items))

    def list_to_mark(self, _: Any) -> None:
        self.count()
        items = self.to_mark()
        self.push(items)

    def dict_to_mark(self, _: Any) -> None:
        self.count()
        items = self.to_mark()
        made: dict[Any, Any] = {}
        self.push(made)
        self.set_pairs(made, items)

    def frozenset_to_mark(self, _: Any) -> None:
        self.count()
        made: set[Any] = set()
        self.add(made, self.to_mark())
        self.push(frozenset(made))

    def set_pairs(self, target: Any, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.set(target, key, value)

    def append_one(self, _: Any) -> None:
        item = self.stack.pop()
        self.extend(self.stack[-1], [item])

    def append_to_mark(self, _: Any) -> None:
        items = self.to_mark()
        self.extend(self.stack[-1], items)

    def add_to_mark(self, _: Any) -> None:
        items = self.to_mark()
        self.add(self.stack[-1], items)

    def set_one(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set(self.stack[-1], key, value)

    def set_to_mark(self, _: Any) -> None:
        items = self.to_mark()
        self.set_pairs(self.stack[-1], items)

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def duplicate(self, _: Any) -> None:
        self.push(self.stack[-1])

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push(self.named(module, name))

    def name_on_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is no text")
        self.push(self.named(module, name))

    def extension(self, code: int) -> None:
        self.push(self.named("an extension of the program that wrote it", str(code)))

    def reduce(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.push(self.call(function, args))

    def new_with_names(self, _: Any) -> None:
        names, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.push(self.call(function, args if not names else (*args, names)))

    def instance(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        args = tuple(self.to_mark())
        self.push(self.call(self.named(module, name), args))

    def object_to_mark(self, _: Any) -> None:
        function, *args = self.to_mark()
        self.push(self.call(function, tuple(args)))

    def build_top(self, _: Any) -> None:
        self.build(self.stack.pop())

    def persistent(self, identity: Any) -> None:
        if self.table.persistent is None:
            raise InputError("refers to something outside the file; not loaded")
        self.push(self.table.persistent(identity))

    def persistent_top(self, _: Any) -> None:
        self.persistent(self.stack.pop())

    def old_text(self, argument: str) -> None:
        """A text of Python 2, which pickletools gives as Latin-1."""
        try:
            self.push(argument.encode("latin-1").decode("utf-8"))
        except UnicodeError:
            self.push(argument)

    def integer(self, argument: int) -> None:
        if argument.bit_length() > 8 * INTEGER:
            raise InputError(f"a pickle with {shown(argument)}")
        self.push(argument)

    def bytes_array(self, argument: Any) -> None:
        self.count()
        self.push(bytearray(argument))

    def nothing(self, _: Any) -> None:
        """Protocol numbers and frames say nothing about the value."""


_PUSHED = frozenset(
    (
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("FLOAT", "BINFLOAT", "BININT", "BININT1", "BININT2"),
    )
)
"""Operations whose argument is the value."""
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
_METHODS = {
    "mark": "MARK",
    "stop": "STOP",
    "nothing": "PROTO FRAME",
    "pop": "POP",
    "pop_mark": "POP_MARK",
    "duplicate": "DUP",
    "tuple_of": "TUPLE1 TUPLE2 TUPLE3",
    "tuple_to_mark": "TUPLE",
    "list_to_mark": "LIST",
    "dict_to_mark": "DICT",
    "frozenset_to_mark": "FROZENSET",
    "append_one": "APPEND",
    "append_to_mark": "APPENDS",
    "add_to_mark": "ADDITEMS",
    "set_one": "SETITEM",
    "set_to_mark": "SETITEMS",
    "put": "PUT BINPUT LONG_BINPUT",
    "memoize": "MEMOIZE",
    "get": "GET BINGET LONG_BINGET",
    "name": "GLOBAL",
    "name_on_stack": "STACK_GLOBAL",
    "extension": "EXT1 EXT2 EXT4",
    "reduce": "REDUCE NEWOBJ",
    "new_with_names": "NEWOBJ_EX",
    "instance": "INST",
    "object_to_mark": "OBJ",
    "build_top": "BUILD",
    "persistent": "PERSID",
    "persistent_top": "BINPERSID",
    "old_text": "STRING BINSTRING SHORT_BINSTRING",
    "integer": "INT LONG LONG1 LONG4",
    "bytes_array": "BYTEARRAY8",
}
"""The machine's methods and their operations; those that need buffers beside the file have none."""
_OPERATIONS = {code: method for method, codes in _METHODS.items() for code in codes.split()}
