"""A gallery escapes its texts, reaches for nothing outside its folder, and refuses to name files that are not there."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from kinolab.errors import InputError
from kinolab.reports import Card, Gallery, Report, Section, render, write_report

NASTY = "<script>alert('x')</script> & \"quotes\""


class Reader(HTMLParser):
    """Collects tags, what they refer to, and whether all that opens closes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.files: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.files += [value or "" for name, value in attrs if name in ("src", "href", "poster")]
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def nasty_report() -> Report:
    card = Card(
        title=NASTY,
        video='a "b".mp4',
        poster="p&q.png",
        captions=(NASTY,),
        checks={"colours": True, NASTY: False},
        facts={NASTY: NASTY},
        command=NASTY,
        links={NASTY: "r.json"},
    )
    return Report(NASTY, NASTY, (Section(NASTY, NASTY, (Gallery((card,)),)),), {NASTY: NASTY}, NASTY)


def test_every_text_is_escaped_and_the_markup_is_whole() -> None:
    reader = Reader()
    reader.feed(render(nasty_report()))
    assert not reader.open and reader.tags.count("script") == 1, "only the page's own script"
    assert reader.text.count(NASTY) >= 10
    assert reader.files == ['a "b".mp4', "p&q.png", "r.json"]


def test_it_needs_no_network() -> None:
    text = render(nasty_report())
    assert "http" not in text and '"//' not in text, "a comment of the script may hold two slashes, no address"


def test_checks_show_without_colour_too() -> None:
    text = render(nasty_report())
    assert '<li class="yes" title="colours: shown"><i>&#10003;</i>colours</li>' in text
    assert text.count("&#10007;") == 1


def test_it_refers_only_to_files_that_are_there(tmp_path: Path) -> None:
    page = Report("t", "", (Section("s", "", (Gallery((Card("c", "v/a.mp4"),)),)),))
    with pytest.raises(InputError, match=r"refers to 'v/a\.mp4'"):
        write_report(page, tmp_path / "index.html")
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(b"x")
    write_report(page, tmp_path / "index.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.html", "v"]
    for outside in ("/etc/hostname", "../a.mp4"):
        with pytest.raises(InputError, match="no file below"):
            write_report(
                Report("t", "", (Section("s", "", (Gallery((Card("c", outside),)),)),)), tmp_path / "v" / "index.html"
            )
