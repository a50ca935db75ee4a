"""Every kind of JSON that `kinolab evaluate` writes becomes tables with intervals, histograms and the worst clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinolab import video
from kinolab.errors import InputError
from kinolab.reports import Block, Curves, Facts, Fold, Histogram, Media, Section, Table, Text, WorstFirst
from kinolab.reports.results import Result, read_result

DOCS = Path(__file__).parents[2] / "docs"


def read(path: Path, worst: int = 24) -> Result:
    return read_result(path, path.stem, Media(), worst)


def of_kind(section: Section, kind: type) -> list[Any]:
    return [block for block in section.blocks if isinstance(block, kind)]


def metrics_record(videos: bool = True) -> dict[str, Any]:
    """What `evaluate reconstruction` writes, of four clips."""
    psnr = [30.0, 20.0, 40.0, None]
    clips = [
        {"name": f"clip {k}", "scores": {"psnr": v, "lpips": 0.1 * k}, "video": f"v/{k}.mp4" if videos else None}
        for k, v in enumerate(psnr)
    ]
    interval = {"low": 25.0, "high": 35.0, "method": "bootstrap", "level": 0.95}
    return {
        "kind": "reconstruction",
        "protocol": {"frames": 17, "resize": {"filter": "area"}},
        "protocol_hash": "abc",
        "metrics": {
            "psnr": {"value": 30.0, "count": 51, "interval": interval, "protocol": {"data_range": 2.0}},
            "rfvd": {"value": 12.5, "count": 4, "interval": None, "protocol": {}},
        },
        "clips": clips,
        "notes": ["few clips"],
    }


def write(path: Path, record: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def test_scores_of_a_reconstruction(tmp_path: Path) -> None:
    result = read(write(tmp_path / "x.json", metrics_record(videos=False)))
    table = of_kind(result.section, Table)[0]
    psnr, rfvd = table.cells
    assert psnr[1].text == "30" and psnr[1].interval == (25.0, 35.0) and psnr[3].text == "higher"
    assert psnr[4].text == "bootstrap, 95%" and rfvd[1].interval is None and rfvd[3].text == "lower"
    assert [b.text for b in of_kind(result.section, Text)] == ["few clips"]
    of_psnr, of_lpips = of_kind(result.section, Histogram)
    assert of_psnr.markers == {"mean": 30.0, "median": 30.0} and len(of_psnr.values) == len(of_lpips.values) == 4
    assert result.system is not None and "abc" in result.system.protocol
    facts = of_kind(result.section, Fold)[0].blocks
    assert facts[0].values == {"hash": "abc", "frames": "17", "resize.filter": "area"}
    assert facts[1].values == {"psnr, data_range": "2.0"}


def test_other_data_is_another_protocol_and_costs_are_shown(tmp_path: Path) -> None:
    keys = []
    for k, data in enumerate(
        ({"name": "a", "sha256": "1"}, {"name": "b", "sha256": "1"}, {"name": "a", "sha256": "2"})
    ):
        record = metrics_record(videos=False) | {"data": data, "facts": {"parameters": 1234}}
        result = read(write(tmp_path / f"{k}.json", record))
        assert result.system is not None
        keys.append(result.system.protocol)
        (costs,) = of_kind(result.section, Facts)
        assert costs.values == {"parameters": "1234"}
    assert keys[0] == keys[1] != keys[2]


def test_the_worst_clips_come_first_as_a_table_where_there_is_no_video(tmp_path: Path) -> None:
    result = read(write(tmp_path / "x.json", metrics_record(videos=False)), worst=3)
    table = of_kind(result.section, Table)[1]
    assert [row[0].text for row in table.cells] == ["clip 3", "clip 1", "clip 0"], "no score, then the lowest PSNR"
    assert "3 of 4 clips" in table.caption


def test_the_worst_clips_come_first_with_their_videos(tmp_path: Path) -> None:
    for k in range(4):
        video.write(tmp_path / "v" / f"{k}.mp4", np.zeros((2, 16, 16, 3), np.uint8), 8.0)
    (gallery,) = of_kind(read(write(tmp_path / "x.json", metrics_record())).section, WorstFirst)
    assert [clip.name for clip in gallery.clips] == ["clip 3", "clip 1", "clip 0", "clip 2"]
    assert gallery.clips[1].video == "media/x/1.mp4" and gallery.clips[1].scores["psnr"] == 20.0
    record = metrics_record() | {"kind": "generation"}
    record["metrics"] = {"lpips": record["metrics"]["psnr"]}
    (gallery,) = of_kind(read(write(tmp_path / "y.json", record)).section, WorstFirst)
    assert gallery.clips[0].name == "clip 3" and gallery.title == "Worst clips first, by lpips", "less LPIPS is better"


def test_a_missing_video_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.mp4: no such file"):
        read(write(tmp_path / "x.json", metrics_record()))


def test_the_toy_world(tmp_path: Path) -> None:
    record = json.loads((DOCS / "evaluate-world.json").read_text())
    result = read(DOCS / "evaluate-world.json", worst=10)
    shares, scenarios, worst = of_kind(result.section, Table)
    colours = record["checks"]["generated"]["colours"]
    cell = next(row for row in shares.cells if row[0].text == "colours")[2]
    assert cell.text == f"{100 * colours['share']:.1f}" and cell.interval is not None
    assert cell.interval == pytest.approx((100 * colours["low"], 100 * colours["high"]), abs=0.05)
    assert {row[0].text for row in scenarios.cells} == set(record["scenarios"])
    passed, roughness = of_kind(result.section, Histogram)
    assert len(passed.values) == len(roughness.values) == 256
    assert sum(v == 6 for v in passed.values) <= record["checks"]["generated"]["all"]["passed"]
    assert len(worst.rows) == 10
    shown = [row[4].number for row in worst.cells]
    assert shown == sorted(shown, key=lambda v: v or 0)
    assert result.system is not None and result.system.scores["asked_all"].count == 256


def test_physics() -> None:
    record = json.loads((DOCS / "evaluate-physics.json").read_text())
    section = read(DOCS / "evaluate-physics.json", worst=5).section
    plots = of_kind(section, Curves)
    assert len(plots) == len(record["means"]) == 1
    model = record["means"]["8"]["model"]
    assert [y for _, y in plots[0].series["model"]] == model["error_by_frame"]
    means, worst = of_kind(section, Table)
    assert means.cells[0][2].number == model["error_first_8"]
    (histogram,) = of_kind(section, Histogram)
    assert histogram.markers["mean, model"] == pytest.approx(model["error_first_8"])
    errors = [row[2].number or 0 for row in worst.cells]
    assert errors == sorted(errors, reverse=True) and errors[0] == pytest.approx(max(histogram.values))


def test_tasks() -> None:
    record = json.loads((DOCS / "evaluate-tasks.json").read_text())
    (table,) = of_kind(read(DOCS / "evaluate-tasks.json").section, Table)
    assert len(table.rows) == len(record["tasks"])
    assert table.cells[0][3].number == record["tasks"][0]["made_psnr"]
    assert table.cells[0][6].number == 100 * record["tasks"][0]["found"]


def test_a_reconstructed_clip(tmp_path: Path) -> None:
    video.write(tmp_path / "r.mp4", np.zeros((3, 16, 48, 3), np.uint8), 8.0)
    record = {
        "reconstruct": {"amplify": 4.0}, "out": "elsewhere/r.mp4", "clip": "a.mp4", "psnr": {"value": 31.234},
        "ssim": None, "ratio": 96.0, "encode_seconds": 0.5, "decode_seconds": 1.0,
    }  # fmt: skip
    block: Block = read(write(tmp_path / "r.json", record)).section.blocks[0]
    assert getattr(block, "frames", 0) == 3 and getattr(block, "facts", {})["PSNR"] == "31.23 dB"


def test_any_other_json_is_a_table_of_its_numbers(tmp_path: Path) -> None:
    record = {"seconds": 2.5, "name": "x", "ok": True, "psnr": {"value": 30, "note": "n"}, "list": [1, 2]}
    (table,) = read(write(tmp_path / "x.json", record)).section.blocks
    assert isinstance(table, Table) and table.rows == (("seconds", 2.5), ("psnr.value", 30))
    outcomes = [{"setting": "20 steps", "faster": 2.5, "own": False, "inner": {}}, {"setting": "full", "psnr": None}]
    (table,) = read(write(tmp_path / "y.json", {"outcomes": outcomes})).section.blocks
    assert isinstance(table, Table) and table.columns == ("setting", "faster", "own")
    assert table.rows == (("20 steps", 2.5, "no"), ("full", None, None))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["world", "physics", "tasks", "tune", "sensitivity", "plan"])
def test_every_kind_is_a_score_of_a_protocol_with_a_hash(kind: str, net: Path) -> None:
    """What 0.1.0 wrote, each kind in a form of its own, is read as scores like any other."""
    result = read(net / "scores" / f"{kind}.json")
    assert (result.system is not None and result.system.kind == kind and result.system.scores) or kind == "tasks"
    protocol = of_kind(result.section, Fold)[-1].blocks[0].values
    assert len(protocol["hash"]) == 64
    if kind in ("tune", "sensitivity"):
        _, beside = of_kind(result.section, Table)
        assert len(beside.rows) > 1 and beside.columns[0] == "beside"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"a": "b"}', "holds no numbers"),
        ('{"kind": "generation", "metrics": {"fvd": {}}}', "lacks 'value'"),
        ('{"kind": "generation", "metrics": [3]}', "has another form"),
        ('{"checks": {}, "scenarios": {}}', "form|lacks"),
    ],
)
def test_mistakes_are_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as error:
        read(path)
    assert "\n" not in str(error.value) and "x.json" in str(error.value)


def test_videos_outside_of_the_results_folder_are_not_shown(tmp_path: Path) -> None:
    video.write(tmp_path / "secret.mp4", np.zeros((3, 16, 16, 3), np.uint8), 8.0)
    record = metrics_record(videos=False)
    for clip, name in zip(record["clips"], ["../secret.mp4", str(tmp_path / "secret.mp4"), "a\nb", None], strict=True):
        clip["video"] = name
    media = Media()
    section = read_result(write(tmp_path / "in" / "x.json", record), "x", media, 24).section
    assert not of_kind(section, WorstFirst)
    assert "Videos outside the folder of x.json are not shown: 3." in [t.text for t in of_kind(section, Text)]
    media.write(tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_kind_that_is_no_word_and_a_cell_that_is_no_number(tmp_path: Path) -> None:
    assert read(write(tmp_path / "x.json", metrics_record(videos=False) | {"kind": [1]})).system is not None
    with pytest.raises(TypeError, match="numbers and words"):
        Table(("a",), (([1],),))  # type: ignore[arg-type]
