"""Reads a written page back: what it says, its policy, its script and its style; and plots that are pictures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "br", "img", "input", "link"}
NASTY = "<script>alert('x')</script> & \"quotes\" <!-- "


class Reader(HTMLParser):
    """Collects tags with their attributes and contents, and checks that all that opens closes.

    data: what the page says, as its script reads it.
    texts: every text in it.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.inside: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(page)
        assert not self._open
        self.data: dict[str, Any] = json.loads(self.inside["report"])
        self.texts = list(texts(self.data))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        if tag not in VOID:
            self._open.append(values.get("id", tag))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside[self._open[-1]] = self.inside.get(self._open[-1], "") + data

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every tag of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def policy(self) -> str:
        """What the page may do."""
        return next(a["content"] for a in self.all("meta") if a.get("http-equiv") == "Content-Security-Policy")

    @property
    def files(self) -> list[str]:
        """Every address of a file that the page shows or links, in order."""
        return [value for key, value in addresses(self.data)]

    def blocks(self, kind: str) -> list[dict[str, Any]]:
        """Every block of a kind, those in folds, too."""
        return [block for section in self.data["sections"] for block in unfolded(section["blocks"], kind)]


def unfolded(blocks: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    for block in blocks:
        if block["kind"] == kind:
            yield block
        if block["kind"] == "fold":
            yield from unfolded(block["blocks"], kind)


def texts(value: Any) -> Iterator[str]:
    """Every text in plain data."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(inner)


def addresses(value: Any) -> Iterator[tuple[str, str]]:
    """Every `url`, `poster` and link in plain data."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("url", "poster") and inner is not None:
                yield key, inner
            elif key == "links":
                yield from ((key, url) for _, url in inner)
            else:
                yield from addresses(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from addresses(inner)


def elements(plot: ElementTree.Element, tag: str, name: str) -> list[ElementTree.Element]:
    """The elements of a plot of one tag and class."""
    return [e for e in plot.iter(tag) if name in e.get("class", "").split()]
