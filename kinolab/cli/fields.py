"""Options from configs: the help of a field and its choices, read from the config's source.

The configs stand beside what they configure, so importing one imports torch, which takes seconds; a command's help
should come at once. So the class alone is read, without running anything.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

RUN = {
    "": ("generation/request.py", "SamplingConfig", "GenerateConfig"),
    "given": ("tasks/request.py", "GivenConfig"),
    "sampler": ("diffusion/samplers/base.py", "SamplerConfig"),
    "guidance": ("methods/guidance.py", "GuidanceConfig"),
    "cache": ("methods/step_cache.py", "StepCacheConfig"),
    "low_resolution": ("generation/low_resolution.py", "LowResolutionConfig"),
    "source": ("generation/source.py", "SourceConfig"),
    "refine": ("generation/refine.py", "RefineConfig"),
}
"""The groups of a settled run's fields: the file and the classes of each."""
SAMPLING = {
    "": ("generation/request.py", "SamplingConfig"),
    **{name: RUN[name] for name in ("sampler", "guidance", "cache")},
}
"""The same of what says how a run is sampled, which commands that measure take too."""


class Described(NamedTuple):
    """What a config says of a field: the line below it, and the words that it takes, where it takes words."""

    text: str
    choices: tuple[str, ...]

    @property
    def line(self) -> str:
        """Its first sentence."""
        return re.split(r"(?<=[^.]\.)(?<!et al\.)\s", self.text, maxsplit=1)[0]


def about(name: str, *, listed: bool = False, table: str = "") -> str:
    """The help of an option that sets a field of the settled run, as `sampler.steps`: the field's line.

    Args:
        listed: with the words that it takes, for an option that takes any text.
        table: with the names of that table of `kinolab.tables`.
    """
    group, _, field = name.rpartition(".")
    found = described(*RUN[group])[field]
    names = found.choices if listed else names_of(table) if table else ()
    return f"{found.line} One of {', '.join(names)}." if names else found.line


def names_of(table: str) -> tuple[str, ...]:
    """The names that may be given of a table of `kinolab.tables` (its group ""), those that joined too.

    Nobody can have joined a table that isn't loaded: then it is read as text, as loading it takes pydantic.
    """
    loaded = sys.modules.get("kinolab.tables")
    if loaded is not None:
        return tuple(getattr(loaded, table).names(""))
    text = (ROOT / "tables.py").read_text(encoding="utf-8")
    begin = text.index('"": {', text.index(f"\n{table}: "))
    return tuple(re.findall(r'"(\w+)": "kinolab\.', text[begin : text.index("}", begin)]))


def settable(*, given: bool = False) -> str:
    """What -s sets in a command that samples; `given`: the fields of a task too."""
    return "Fields for -s: " + named({k: where for k, where in RUN.items() if given or k != "given"}) + "."


def named(groups: Mapping[str, tuple[str, ...]]) -> str:
    """The names of all fields of configs, by groups."""
    found = []
    for group, where in groups.items():
        names = [f"{group}.{field}" if group else field for field in described(*where)]
        found.append(", ".join(name for name in names if name not in groups))
    return "; ".join(found)


FIELD = re.compile(
    r'^    (\w+): ([^\n]*\n(?: {8}[^\n]*\n| {4}[\])}][^\n]*\n)*) {4}"""(.*?)"""', re.MULTILINE | re.DOTALL
)
"""A field of a config as all of them are written: name, type and default, and its line. Parsing Python takes longer."""


LEFT = re.compile(r"\n\S")
"""Where a class ends."""


@cache
def described(file: str, *names: str) -> dict[str, Described]:
    """The fields of config classes in a file of the package, in order; of two of a name the later one's."""
    text, found = (ROOT / file).read_text(encoding="utf-8"), list[tuple[str, str, str]]()
    for name in names:
        begin = re.search(rf"^class {name}\b", text, re.MULTILINE)
        assert begin is not None
        end = LEFT.search(text, begin.end())
        found += FIELD.findall(text, begin.end(), len(text) if end is None else end.start())
    return {field: Described(" ".join(line.split()), _choices(kind, text)) for field, kind, line in found}


def _choices(kind: str, text: str) -> tuple[str, ...]:
    """The words of a Literal, written there or under a name of the same file."""
    begin = kind.find("Literal[")
    if begin < 0:
        word = re.match(r"\w+", kind)
        kind, begin = text, -1 if word is None else text.find(f"\n{word[0]} = Literal[")
    return tuple(re.findall(r'"([^"]+)"', kind[begin : kind.index("]", begin)])) if begin >= 0 else ()
