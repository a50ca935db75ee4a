"""Reading pickles without running anything that they say.

A pickle is a program for a small machine, and the machine of Python's own module calls whatever function the program
names. The one here (`runtime.pickle_machine`) never looks a name up and never imports: it builds texts, numbers, lists,
tuples, dictionaries and sets, and hands everything else to a table that its caller brings (`Known`). A name that the
table doesn't hold is kept as that, a name; what a pickle would have made of it is a `Placeholder`, which holds what the
class or function would have been given, and does nothing.

The program is read with `pickletools` from the standard library, which knows all protocols and only parses.
"""

from __future__ import annotations

from typing import Any

from kinolab.errors import InputError
from kinolab.runtime.lines import one_line
from kinolab.runtime.pickle_machine import Machine
from kinolab.runtime.pickle_parts import PROGRAM, Source, Table, operations
from kinolab.runtime.pickle_parts import Known as Known
from kinolab.runtime.pickle_parts import Named as Named
from kinolab.runtime.pickle_parts import Placeholder as Placeholder
from kinolab.runtime.pickle_parts import names_in as names_in


def unpickle(source: Source, table: Table, name: str, limit: int = PROGRAM) -> Any:
    """The value of the pickle that `source` begins with; the source stands behind it afterwards.

    Args:
        source: the pickle's bytes; what follows it is not read.
        table: what names in it stand for.
        name: what errors call it.
        limit: bytes of the pickle.

    Raises:
        InputError: for bytes that are no pickle or end too early, for what exceeds the limits, and, with a strict
            table, for any name that the table doesn't hold. Nothing else, whatever the bytes.
    """
    machine = Machine(table)
    try:
        for code, argument in operations(source, limit):
            machine.step(code, argument)
        return machine.result()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (RecursionError, MemoryError) as error:
        raise InputError(f"{name}: a pickle that takes more than it may ({type(error).__name__})") from None
    except Exception as error:  # a program that is none ends in any error of the steps it takes
        raise InputError(f"{name}: damaged or cut off, or no pickle ({one_line(error, 100)})") from None


def is_placeholder(value: Any) -> bool:
    """Whether a value stands for an object, class or function that is not there."""
    return isinstance(value, Placeholder | Named)
