"""A page of videos with what was found out about them: one HTML file, no network, videos as files beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kinolab.reports.html import document, escape, facts_at_the_top, link, write_html


@dataclass(frozen=True)
class Card:
    """One video. `video` and `poster` are relative to the page; `checks`: name -> passed; `facts`: name -> value.

    `captions` are written above the parts of a video that shows several side by side, `command` is what makes it, and
    `links`: text -> relative file.
    """

    title: str
    video: str
    poster: str | None = None
    wide: bool = False
    captions: tuple[str, ...] = ()
    checks: dict[str, bool] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    command: str = ""
    links: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> Iterator[str]:
        """Every file that the card refers to."""
        yield self.video
        if self.poster is not None:
            yield self.poster
        yield from self.links.values()


@dataclass(frozen=True)
class Section:
    """A heading, a sentence or two, and cards."""

    title: str
    text: str
    cards: tuple[Card, ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole page. `facts` are the large figures at the top: name -> value."""

    title: str
    text: str
    sections: tuple[Section, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    footer: str = ""


def write_page(page: Page, path: Path) -> None:
    """Write the page, atomically.

    Raises:
        InputError: where it refers to a file that is not there, or not below the page's own folder.
    """
    files = (file for section in page.sections for card in section.cards for file in card.files)
    write_html(path, render(page), files)


def render(page: Page) -> str:
    """The page as HTML; every text is escaped."""
    sections = "\n".join(_section(section) for section in page.sections)
    body = (
        f"<header><h1>{escape(page.title)}</h1><p>{escape(page.text)}</p>"
        f'<div class="facts">{facts_at_the_top(page.facts.items())}</div></header>\n'
        f"<main>\n{sections}\n</main>\n<footer><p>{escape(page.footer)}</p></footer>"
    )
    return document(page.title, body, style=_STYLE, script=_SCRIPT)


def _section(section: Section) -> str:
    cards = "\n".join(_card(card) for card in section.cards)
    return (
        f"<section><h2>{escape(section.title)}</h2><p>{escape(section.text)}</p>"
        f'<div class="grid">\n{cards}\n</div></section>'
    )


def _card(card: Card) -> str:
    parts = [f'<article class="card{" wide" if card.wide else ""}">']
    if card.captions:
        parts.append('<div class="captions">' + "".join(f"<span>{escape(c)}</span>" for c in card.captions))
        parts.append("</div>")
    poster = "" if card.poster is None else f' poster="{link(card.poster)}"'
    parts.append(
        f'<video src="{link(card.video)}"{poster} aria-label="{escape(card.title)}" '
        "autoplay loop muted playsinline></video>"
    )
    parts.append(f'<div class="body"><h3>{escape(card.title)}</h3>')
    if card.checks:
        parts.append(f'<ul class="checks">{"".join(_check(n, ok) for n, ok in card.checks.items())}</ul>')
    if card.facts:
        facts = (f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in card.facts.items())
        parts.append(f"<dl>{''.join(facts)}</dl>")
    if card.command:
        parts.append(f"<pre><code>{escape(card.command)}</code></pre>")
    if card.links:
        links = (f'<a href="{link(f)}">{escape(t)}</a>' for t, f in card.links.items())
        parts.append(f'<p class="links">{" ".join(links)}</p>')
    return "".join(parts) + "</div></article>"


def _check(name: str, passed: bool) -> str:
    kind, mark, word = ("yes", "&#10003;", "shown") if passed else ("no", "&#10007;", "not shown")
    return f'<li class="{kind}" title="{escape(name)}: {word}"><i>{mark}</i>{escape(name)}</li>'


_STYLE = """
.card.wide { grid-column: 1 / -1; max-width: 820px; }
video { image-rendering: pixelated; }
.captions { display: flex; color: var(--soft); font-size: .85rem; text-align: center; padding: 6px 0; }
.captions span { flex: 1; }
.checks { list-style: none; display: flex; flex-wrap: wrap; gap: 6px; margin: 0 0 12px; padding: 0; }
.checks li { font-size: .8rem; border-radius: 99px; padding: 2px 10px 2px 8px; white-space: nowrap; }
.checks i { font-style: normal; font-weight: 700; margin-right: 5px; }
.yes { color: var(--yes); background: var(--yes-back); }
.no { color: var(--no); background: var(--no-back); }
pre { user-select: all; }
.links { margin: 10px 0 0; font-size: .85rem; } .links a { margin-right: 10px; }
"""

_SCRIPT = """
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
for (const video of document.querySelectorAll("video")) {
  if (still) { video.removeAttribute("autoplay"); video.pause(); }
  video.title = "click to stop or go on";
  video.addEventListener("click", () => (video.paused ? video.play() : video.pause()));
}
"""
