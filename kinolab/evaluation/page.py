"""A page of videos with what was found out about them: one HTML file, no network, videos as files beside it."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from kinolab.errors import InputError


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
    for name in (file for section in page.sections for card in section.cards for file in card.files):
        target = path.parent / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not target.is_file():
            raise InputError(f"{path}: refers to {name!r}, which is no file below {path.parent}")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".writing-{path.name}")
    beside.write_text(render(page), encoding="utf-8")
    os.replace(beside, path)


def render(page: Page) -> str:
    """The page as HTML; every text is escaped."""
    return _PAGE.substitute(
        title=html.escape(page.title),
        text=html.escape(page.text),
        style=_STYLE,
        script=_SCRIPT,
        facts="".join(
            f'<div class="fact"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
            for name, value in page.facts.items()
        ),
        sections="\n".join(_section(section) for section in page.sections),
        footer=html.escape(page.footer),
    )


def _section(section: Section) -> str:
    cards = "\n".join(_card(card) for card in section.cards)
    return (
        f"<section><h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p>"
        f'<div class="grid">\n{cards}\n</div></section>'
    )


def _card(card: Card) -> str:
    parts = [f'<article class="card{" wide" if card.wide else ""}">']
    if card.captions:
        parts.append('<div class="captions">' + "".join(f"<span>{html.escape(c)}</span>" for c in card.captions))
        parts.append("</div>")
    poster = "" if card.poster is None else f' poster="{html.escape(card.poster)}"'
    parts.append(
        f'<video src="{html.escape(card.video)}"{poster} aria-label="{html.escape(card.title)}" '
        "autoplay loop muted playsinline></video>"
    )
    parts.append(f'<div class="body"><h3>{html.escape(card.title)}</h3>')
    if card.checks:
        parts.append(f'<ul class="checks">{"".join(_check(n, ok) for n, ok in card.checks.items())}</ul>')
    if card.facts:
        facts = (f"<dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd>" for n, v in card.facts.items())
        parts.append(f"<dl>{''.join(facts)}</dl>")
    if card.command:
        parts.append(f"<pre><code>{html.escape(card.command)}</code></pre>")
    if card.links:
        links = (f'<a href="{html.escape(f)}">{html.escape(t)}</a>' for t, f in card.links.items())
        parts.append(f'<p class="links">{" ".join(links)}</p>')
    return "".join(parts) + "</div></article>"


def _check(name: str, passed: bool) -> str:
    kind, mark, word = ("yes", "&#10003;", "shown") if passed else ("no", "&#10007;", "not shown")
    return f'<li class="{kind}" title="{html.escape(name)}: {word}"><i>{mark}</i>{html.escape(name)}</li>'


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header><h1>$title</h1><p>$text</p><div class="facts">$facts</div></header>
<main>
$sections
</main>
<footer><p>$footer</p></footer>
<script>$script</script>
</body>
</html>
""")

_STYLE = """
:root { --back: #f6f7f9; --card: #fff; --ink: #1b1f27; --soft: #606978; --line: #e1e5ec; --code: #f0f2f6;
  --yes: #17713d; --yes-back: #e2f5e8; --no: #b3261e; --no-back: #fde8e6; --accent: #2a5bd0; }
@media (prefers-color-scheme: dark) { :root { --back: #101319; --card: #191d25; --ink: #e8ebf1; --soft: #9aa4b5;
  --line: #2a303b; --code: #12161d; --yes: #7be0a1; --yes-back: #143322; --no: #ff9d94; --no-back: #3f1a18;
  --accent: #8fb2ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header, main, footer { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 44px; }
h1 { font-size: 2.1rem; line-height: 1.15; letter-spacing: -.02em; margin: 0 0 10px; }
h2 { font-size: 1.35rem; letter-spacing: -.01em; margin: 44px 0 4px; }
h3 { font-size: 1rem; font-weight: 600; margin: 0 0 10px; }
header p, section > p { color: var(--soft); max-width: 72ch; margin: 0 0 18px; }
.facts { display: flex; flex-wrap: wrap; gap: 12px; }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 10px 18px; }
.fact b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.fact span { color: var(--soft); font-size: .85rem; }
.grid { display: grid; gap: 20px; grid-template-columns: repeat(auto-fill, minmax(min(272px, 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; overflow: hidden;
  display: flex; flex-direction: column; }
.card.wide { grid-column: 1 / -1; max-width: 820px; }
video { display: block; width: 100%; background: #000; image-rendering: pixelated; cursor: pointer; }
.captions { display: flex; color: var(--soft); font-size: .85rem; text-align: center; padding: 6px 0; }
.captions span { flex: 1; }
.body { padding: 14px 16px 16px; display: flex; flex-direction: column; flex: 1; }
.checks { list-style: none; display: flex; flex-wrap: wrap; gap: 6px; margin: 0 0 12px; padding: 0; }
.checks li { font-size: .8rem; border-radius: 99px; padding: 2px 10px 2px 8px; white-space: nowrap; }
.checks i { font-style: normal; font-weight: 700; margin-right: 5px; }
.yes { color: var(--yes); background: var(--yes-back); }
.no { color: var(--no); background: var(--no-back); }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 12px; margin: 0 0 12px; font-size: .85rem; }
dt { color: var(--soft); } dd { margin: 0; font-variant-numeric: tabular-nums; }
pre { margin: auto 0 0; background: var(--code); border: 1px solid var(--line); border-radius: 8px;
  padding: 8px 10px; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .78rem; user-select: all; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.links { margin: 10px 0 0; font-size: .85rem; } a { color: var(--accent); margin-right: 10px; }
footer { color: var(--soft); font-size: .85rem; padding-top: 28px; padding-bottom: 48px; }
"""

_SCRIPT = """
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
for (const video of document.querySelectorAll("video")) {
  if (still) { video.removeAttribute("autoplay"); video.pause(); }
  video.title = "click to stop or go on";
  video.addEventListener("click", () => (video.paused ? video.play() : video.pause()));
}
"""
