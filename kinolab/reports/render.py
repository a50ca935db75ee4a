"""A report as one HTML file that opens from disk without a network; its videos are files beside it.

The page is drawn by the studio's components (studio/src/report/), built ahead into page/report.js and page/report.css:
one classic script and one style sheet, which stand in the file with what the report says as JSON. The page's own policy
names both by their hashes, so that nothing else in it can run, and lets it load its pictures and videos alone.
"""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from kinolab.reports.blocks import Report
from kinolab.reports.html import escape, write_html
from kinolab.reports.plain import plain
from kinolab.runtime.hashes import sha256
from kinolab.runtime.reading import MIB, read_text

BUILT = Path(__file__).parent / "page"
"""What `npm run build` in studio/ makes for reports."""
POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src 'self' file:; media-src 'self' file:; "
    "base-uri 'none'; form-action 'none'"
)
"""What a page may do: `file:` as browsers differ in what they call a page's own site where it is opened from disk."""


def write_report(report: Report, path: Path) -> None:
    """Write the report, atomically.

    Raises:
        InputError: where a video that it shows is not there, or not below the report's own folder.
    """
    write_html(path, render(report), report.media)


def render(report: Report) -> str:
    """The report as HTML; what it says stands there as JSON, and is put into the page as text."""
    script, style = built("report.js"), built("report.css")
    return _DOCUMENT.substitute(
        title=escape(report.title), policy=POLICY.format(script=hash_of(script), style=hash_of(style)), style=style,
        data=as_script(plain(report)), script=script,
    )  # fmt: skip


@cache
def built(name: str) -> str:
    """A built file of the page."""
    return read_text(BUILT / name, MIB).replace("\r\n", "\n")


def hash_of(text: str) -> str:
    """How a content policy names a script or style that stands in the page."""
    return "sha256-" + base64.b64encode(bytes.fromhex(sha256(text))).decode()


def as_script(value: Any) -> str:
    """JSON as it may stand in a `script` element, where `</script>` and `<!--` mean something; all of it ASCII."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


_DOCUMENT = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
<div id="app"></div>
<noscript>This page is drawn by a script that stands in it: allow scripts for this file.</noscript>
<script type="application/json" id="report">$data</script>
<script>$script</script>
</body>
</html>
""")
