"""A report escapes its texts, needs no network, has labels and sort keys, and shows only files that are there."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from pathlib import Path

import pytest

from kinolab.errors import InputError
from kinolab.reports import (
    Block,
    Card,
    Cell,
    Curves,
    Facts,
    Fold,
    Gallery,
    Histogram,
    Report,
    ScoredClip,
    Section,
    SyncedVideos,
    Table,
    Text,
    WorstFirst,
    render,
    write_report,
)
from kinolab.reports.blocks import figures
from kinolab.reports.plain import MOST_POINTS
from tests.reports.reading import NASTY, Reader

SYNCED = SyncedVideos(
    NASTY, (("original", "media/a.mp4"), (NASTY, "media/b#1.mp4")), 8.0, 17, "media/e.mp4", 32.0, {NASTY: NASTY}
)


def report_of(*blocks: Block) -> Report:
    return Report(NASTY, NASTY, (Section(NASTY, NASTY, blocks), Section("second", "")), {NASTY: NASTY}, NASTY)


def everything() -> Report:
    table = Table(("name", "value"), (("x", Cell.of(1.5, (1.0, 2.0), "better")), (NASTY, None)), NASTY)
    clips = (ScoredClip(NASTY, {NASTY: 3.0}, "media/w.mp4", NASTY), ScoredClip("b", {"psnr": math.nan}))
    return report_of(
        Text(NASTY, NASTY),
        Text(NASTY, code=True),
        Facts({NASTY: NASTY}, NASTY),
        Curves(NASTY, {NASTY: [(0, 1.0)]}, "x", "y"),
        Histogram(NASTY, [1.0], "x"),
        SYNCED,
        Fold(NASTY, (table, WorstFirst(NASTY, clips, NASTY))),
    )


def test_every_text_is_in_the_data_and_none_of_it_is_html() -> None:
    page = render(everything())
    reader = Reader(page)
    assert "<script>alert" not in page and page.count("</script>") == 2, "what it says and what draws it"
    assert sum(text == NASTY for text in reader.texts) >= 20 and reader.inside["title"] == NASTY
    assert len(reader.all("script")) == 2 and not any("src" in script for script in reader.all("script"))


@pytest.mark.parametrize(
    "prompt", ["</script><script>alert(1)</script>", "<!--<script>", "a\u2028b", "\ud800", "&lt;", "é 漢"]
)
def test_what_a_prompt_says_comes_back_as_it_was(prompt: str) -> None:
    page = render(report_of(Text(prompt)))
    assert Reader(page).blocks("text")[0]["text"] == prompt
    page.partition('<script type="application/json"')[2].partition("</script>")[0].encode("ascii")


def test_its_policy_names_its_own_script_and_style_and_lets_it_ask_nobody() -> None:
    page = render(everything())
    reader = Reader(page)
    policy = dict(part.strip().split(" ", 1) for part in reader.policy.split(";"))
    for kind, inner in (("script-src", reader.inside["script"]), ("style-src", reader.inside["style"])):
        digest = hashlib.sha256(inner.encode()).digest()
        assert policy[kind] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert policy["default-src"] == "'none'" and policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["img-src"] == policy["media-src"] == "'self' file:"
    assert page.index("Content-Security-Policy") < page.index("<style>"), "before what it is about"


def test_it_names_no_other_host_and_needs_no_second_file() -> None:
    reader = Reader(render(everything()))
    for inner in (reader.inside["script"], reader.inside["style"]):
        hosts = set(re.findall(r"""https?://([^/"'`\s]+)""", inner))
        assert hosts <= {"www.w3.org", "svelte.dev"}, "names of SVG, and in errors' texts"
        assert "@import" not in inner and "url(" not in inner and "eval(" not in inner and "new Function" not in inner
    assert "import(" not in reader.inside["script"] and not re.search(r"\bexport\b", reader.inside["script"]), (
        "no module"
    )
    assert not reader.all("link") and "style" not in {name for _, values in reader.tags for name in values}
    outside = [name for name in reader.files if name.startswith(("http:", "https:", "//", "data:", "/"))]
    assert reader.files and not outside


def test_videos_that_play_as_one_are_together() -> None:
    (block,) = Reader(render(report_of(SYNCED))).blocks("videos")
    assert block["fps"] == 8 and block["frames"] == 17 and block["title"] == NASTY
    assert [v["url"] for v in block["videos"]] == ["media/a.mp4", "media/b%231.mp4", "media/e.mp4"]
    scale = block["videos"][2]["scale"]
    assert scale["high"] == "32 of 255" and scale["colours"].startswith("linear-gradient(")


def test_cells_have_what_they_are_sorted_by() -> None:
    rows = (("Beta", Cell.of(10.0, (9.5, 10.5), "noise"), 1), ("alpha", Cell.of(math.nan), 2), ("c", 2.25, None))
    (table,) = Reader(render(report_of(Table(("name", "score", "n"), rows)))).blocks("table")
    assert [[cell["key"] for cell in row] for row in table["rows"]] == [
        ["beta", 10, 1],
        ["alpha", None, 2],
        ["c", 2.25, None],
    ]
    assert [column["number"] for column in table["columns"]] == [False, True, True]
    assert table["rows"][0][1] == {"text": "10", "key": 10, "interval": "9.50 to 10.5", "mark": "noise"}
    finer = Table(("score",), ((Cell.of(0.12345, (0.1, 0.2)),), (Cell("62.9", 62.9, (56.8, 68.6)),)))
    (table,) = Reader(render(report_of(finer))).blocks("table")
    assert [row[0]["interval"] for row in table["rows"]] == ["0.1000 to 0.2000", "56.8 to 68.6"], (
        "decimals as the value"
    )


def test_what_is_not_finite_is_a_gap_and_is_said() -> None:
    points = [(0, 1.0), (1, math.nan), (2, 0.0), (3, 1e300), (4, 2.0)]
    both = report_of(*(Curves("t", {"a": points}, "x", "y", log) for log in (False, True)))
    plain, log = Reader(render(both)).blocks("curves")
    assert plain["series"] == [{"name": "a", "steps": [0, 1, 2, 3, 4], "values": [1, None, 0, None, 2]}]
    assert log["series"][0]["values"] == [1, None, None, None, 2] and "at or below zero" in log["note"]
    assert plain["note"] == "values that are not finite: 1; values too large to draw: 1"


def test_a_long_line_is_thinned_but_keeps_its_peaks_and_its_gaps() -> None:
    points = [(float(k), 0.0) for k in range(50_000)]
    points[12_345], points[40_000] = (12_345.0, 9.0), (40_000.0, math.nan)
    (found,) = Reader(render(report_of(Curves("t", {"a": points}, "x", "y")))).blocks("curves")[0]["series"]
    assert len(found["steps"]) <= MOST_POINTS + 1 and found["steps"] == sorted(found["steps"])
    known = dict(zip(found["steps"], found["values"], strict=True))
    assert known[12_345] == 9 and known[40_000] is None and {0, 49_999} <= set(known)


def test_the_bars_of_a_histogram_sum_to_the_count() -> None:
    values = [1, 1, 2, 3, 3, 3, 4, math.nan]
    blocks = (Histogram("t", values, "score", {"mean": 2.5, "none": math.nan}), Histogram("t", [], "score"))
    found, empty = Reader(render(report_of(*blocks))).blocks("histogram")
    assert found["counts"] == [2, 1, 3, 1] and found["edges"] == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert found["hovers"][2] == "2.500 to 3.500: 3" and found["note"] == "7 clips; 1 without a value"
    assert found["markers"] == [{"name": "mean", "value": 2.5, "text": "2.500"}]
    assert found["x"]["low"] == 0.5 and found["x"]["high"] == 4.5
    assert [text for _, text in found["y"]["ticks"]] == ["0", "1", "2", "3"]
    assert empty["note"] == "0 clips"


def test_cards_have_their_files_checks_and_command() -> None:
    card = Card(
        NASTY, 'a "b".mp4', "p&q.png", captions=(NASTY,), checks={"colours": True, NASTY: False}, command=NASTY,
        links={NASTY: "r:1.json"},
    )  # fmt: skip
    reader = Reader(render(report_of(Gallery((card,)))))
    (found,) = reader.blocks("gallery")[0]["cards"]
    assert reader.files == ['a "b".mp4', "p&q.png", "./r:1.json"], "a colon makes no other kind of address"
    assert found["checks"] == [["colours", True], [NASTY, False]] and found["command"] == NASTY


def test_what_a_browser_leaves_out_of_an_address_is_coded() -> None:
    reader = Reader(render(report_of(Gallery((Card("t", "\t//far/a\nb.mp4"),)))))
    assert reader.files == ["%09//far/a%0Ab.mp4"]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match="2 columns, but a row of 1 cells"):
        Table(("a", "b"), (("x",),))


def test_clips_keep_their_order() -> None:
    clips = (*(ScoredClip(f"clip {k}", {"psnr": 10.0 + k}, f"media/{k}.mp4") for k in range(2)), ScoredClip("c", {}))
    (found,) = Reader(render(report_of(WorstFirst("worst", clips)))).blocks("worst")
    assert [(c["name"], c["url"], c["scores"]) for c in found["clips"]] == [
        ("clip 0", "media/0.mp4", [["psnr", "10"]]), ("clip 1", "media/1.mp4", [["psnr", "11"]]), ("c", None, []),
    ]  # fmt: skip


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    page = tmp_path / "out" / "report.html"
    with pytest.raises(InputError, match=r"refers to 'media/a\.mp4', which is no file") as error:
        write_report(report_of(SYNCED), page)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
    (tmp_path / "out" / "media").mkdir(parents=True)
    for name in ("a.mp4", "b#1.mp4", "e.mp4"):
        (tmp_path / "out" / "media" / name).write_bytes(b"x")
    write_report(report_of(SYNCED), page)
    assert sorted(p.name for p in page.parent.iterdir()) == ["media", "report.html"]
    for outside in ("../media/a.mp4", "/etc/hostname"):
        with pytest.raises(InputError, match="no file below"):
            write_report(report_of(SyncedVideos("t", (("a", outside),), 8.0, 2)), page.parent / "media" / "r.html")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"), (123456.0, "123,456"), (0.87654321, "0.8765"), (27.1234567, "27.12"), (1234.56, "1235"),
        (0.00001234, "1.234e-05"), (-0.5, "-0.5000"), (math.nan, "-"), (None, "-"), (math.inf, "-"),
    ],
)  # fmt: skip
def test_figures_are_for_people(value: float | None, text: str) -> None:
    assert figures(value) == text
