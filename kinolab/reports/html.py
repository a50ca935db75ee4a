"""What every page that Kinolab writes shares: its colours, the document around its content, and the writing of it.

A page opens from disk without a network: style and script stand in the file, videos are files below its folder.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from string import Template

from kinolab.errors import InputError
from kinolab.runtime import files

escape = html.escape
"""Text as it may stand in HTML, also inside a quoted attribute."""


def link(name: str) -> str:
    """A relative file name as the value of `src` or `href`: what a browser would read as more than a name is coded."""
    name = name.replace("%", "%25").replace("#", "%23").replace("?", "%3F").replace("\\", "%5C")
    return escape(f"./{name}" if ":" in name.split("/")[0] else name)


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole HTML file; `title` is escaped here, `body` must be HTML already."""
    return _DOCUMENT.substitute(title=escape(title), body=body, style=COLOURS + BASE_STYLE + style, script=script)


def facts_at_the_top(facts: Iterable[tuple[str, str]]) -> str:
    """The large figures under a page's title: (name, value)."""
    return "".join(
        f'<div class="fact"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in facts
    )


def write_html(path: Path, text: str, names: Iterable[str]) -> None:
    """Write a page, atomically; `names` are all that it refers to, relative to its folder.

    Raises:
        InputError: where one of them is not there, or not below the page's own folder. Nothing is written then.
    """
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or not (path.parent / name).is_file():
            raise InputError(f"{path}: refers to {name!r}, which is no file below {path.parent}")
    # Half characters, which JSON can hold, have no bytes in UTF-8.
    files.write_text(path, text.encode("utf-8", "replace").decode())


_DOCUMENT = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
$body
<script>$script</script>
</body>
</html>
""")

COLOURS = """
:root { --back: #f6f7f9; --card: #fff; --ink: #1b1f27; --soft: #606978; --line: #e1e5ec; --code: #f0f2f6;
  --yes: #17713d; --yes-back: #e2f5e8; --no: #b3261e; --no-back: #fde8e6; --accent: #2a5bd0; }
@media (prefers-color-scheme: dark) { :root { --back: #101319; --card: #191d25; --ink: #e8ebf1; --soft: #9aa4b5;
  --line: #2a303b; --code: #12161d; --yes: #7be0a1; --yes-back: #143322; --no: #ff9d94; --no-back: #3f1a18;
  --accent: #8fb2ff; } }
"""
"""The colours of pages and pictures, light and dark."""

BASE_STYLE = """
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
video { display: block; width: 100%; background: #000; cursor: pointer; }
.body { padding: 14px 16px 16px; display: flex; flex-direction: column; flex: 1; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 12px; margin: 0 0 12px; font-size: .85rem; }
dt { color: var(--soft); } dd { margin: 0; font-variant-numeric: tabular-nums; }
pre { margin: auto 0 0; background: var(--code); border: 1px solid var(--line); border-radius: 8px;
  padding: 8px 10px; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .78rem; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
a { color: var(--accent); }
footer { color: var(--soft); font-size: .85rem; padding-top: 28px; padding-bottom: 48px; }
@media (max-width: 560px) { header, main, footer { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 24px; } h1 { font-size: 1.6rem; } h2 { margin-top: 32px; } }
"""
