"""Cards of a report's gallery as HTML: a video that plays by itself, with what was found out about it."""

from __future__ import annotations

from kinolab.reports.blocks import Card, Gallery
from kinolab.reports.html import escape, link


def gallery(block: Gallery) -> str:
    """The cards side by side; every text is escaped."""
    cards = "\n".join(map(_card, block.cards))
    return f'<div class="grid gallery">\n{cards}\n</div>'


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


CARD_STYLE = """
.card.wide { grid-column: 1 / -1; max-width: 820px; }
.gallery video { image-rendering: pixelated; }
.captions { display: flex; color: var(--soft); font-size: .85rem; text-align: center; padding: 6px 0; }
.captions span { flex: 1; }
.checks { list-style: none; display: flex; flex-wrap: wrap; gap: 6px; margin: 0 0 12px; padding: 0; }
.checks li { font-size: .8rem; border-radius: 99px; padding: 2px 10px 2px 8px; white-space: nowrap; }
.checks i { font-style: normal; font-weight: 700; margin-right: 5px; }
.yes { color: var(--yes); background: var(--yes-back); }
.no { color: var(--no); background: var(--no-back); }
.gallery pre { user-select: all; }
.links { margin: 10px 0 0; font-size: .85rem; } .links a { margin-right: 10px; }
"""

CARD_SCRIPT = """
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
for (const video of document.querySelectorAll(".gallery video")) {
  if (still) { video.removeAttribute("autoplay"); video.pause(); }
  video.title = "click to stop or go on";
  video.addEventListener("click", () => (video.paused ? video.play() : video.pause()));
}
"""
