"""Reads a rendered page back: its text, its tags, what it refers to, its plots."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "input", "link"}
NASTY = "<script>alert('x')</script> & \"quotes\""


class Reader(HTMLParser):
    """Collects tags with their attributes, what they refer to, and checks that all that opens closes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.files: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        self.files += [values[name] for name in ("src", "href", "poster") if name in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, name: str = "") -> list[dict[str, str]]:
        """The attributes of every tag of a kind, and of a class if one is named."""
        return [a for t, a in self.tags if t == tag and (not name or name in a.get("class", "").split())]


def plots(page: str) -> list[ElementTree.Element]:
    """Every plot of a page, as XML."""
    return [ElementTree.fromstring(text) for text in re.findall(r'<svg class="plot".*?</svg>', page, re.S)]


def elements(plot: ElementTree.Element, tag: str, name: str) -> list[ElementTree.Element]:
    """The elements of a plot of one tag and class."""
    return [e for e in plot.iter(tag) if name in e.get("class", "").split()]
