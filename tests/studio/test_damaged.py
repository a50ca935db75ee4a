"""Nothing vanishes without a word: what can't be read stands in its list, with one line that says what is wrong."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from kinolab.errors import InputError
from kinolab.runtime.headers import peek
from kinolab.studio import forms, jobs
from kinolab.studio.curating import curation
from kinolab.studio.project import Project
from kinolab.tables import JOBS
from tests.processes import ROOT
from tests.studio.asking import client, ok, refused

JOB = "20260101-000000-train-abcdef"
HEADER = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
CASES: dict[str, tuple[str, bytes, str, str]] = {
    "queue entry": (f"queue/{JOB}/request.json", b"{", "/api/jobs", "request.json: not valid JSON"),
    "order of the queue": ("queue/queue.json", b"[1]", "/api/jobs", "remove it: the jobs stay"),
    "edits": ("data.yaml", b"clips:\n  a.mp4: [", "/api/clips", "data.yaml: not valid YAML (line 3)"),
    "one edit": ("data.yaml", b"clips: {a.mp4: 3}", "/api/clips", "data.yaml: clips: 'a.mp4': expected what is cut"),
    "caption": ("clips/a.txt", b"\xff\xfe\x00", "/api/clips", "clips/a.txt"),
    "a run's recipe": ("runs/one/recipe.yaml", b"a: b: c", "/api/runs/one", "one/recipe.yaml: not valid YAML (line 1)"),
    "another recipe": ("runs/one/recipe.yaml", b"- 1", "/api/runs/one", "recipe.yaml: expected a mapping"),
    "a run's log": ("runs/one/log.jsonl", b'{"step":\n{"step": 1}\n', "/api/runs/one/log", "one/log.jsonl: line 1"),
    "a job's events": (f"queue/{JOB}/events.jsonl", b"{\n{}\n", f"/api/jobs/{JOB}/events", "events.jsonl: line 1"),
    "a video's record": ("samples/a.json", b'{"request": 3}', "/api/samples", "samples/a.json: expected the record"),
    "votes": ("samples/votes.jsonl", b'{"a": 1}\n', "/api/votes", "votes.jsonl: line 1: no vote"),
    "scores": ("scores/a.json", b"{", "/api/scores", "scores/a.json: not valid JSON"),
    "a model": ("models/m/model.yaml", b"a: [", "/api/models", "models/m/model.yaml: not valid YAML"),
    "an adapter": ("models/a.safetensors", b"x" * 40, "/api/models", "models/a.safetensors: no safetensors file"),
    "an adapter's settings": ("models/l/adapter_config.json", b"{", "/api/models", "models/l: no weights"),
}  # fmt: skip
"""Kind of thing -> a file of it that is damaged, where it is listed, and what is said there."""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[TestClient]:
    with client(tmp_path / "p") as found:
        yield found


@pytest.mark.parametrize("kind", CASES)
def test_what_is_damaged_is_said_where_it_would_stand(page: TestClient, tmp_path: Path, kind: str) -> None:
    file, content, route, says = CASES[kind]
    folder = tmp_path / "p"
    for path in (folder / file, folder / "samples" / "a.mp4", folder / "clips" / "a.mp4"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (folder / file).write_bytes(content)
    answer = page.get(route)
    assert answer.status_code == 200, answer.text
    text = answer.text.replace("\\\\", "\\")
    assert says in text and str(folder) not in text, text


def test_a_recipe_that_cannot_be_read_is_in_the_list_and_what_is_none_is_not(tmp_path: Path) -> None:
    for name, text in {
        "broken.yaml": "kind: autoencoder\ntraining:\n  steps: [1\nname: x\n",
        "odd.yaml": "kind: autoencodr\ntraining: {}\n",
        "list.yaml": "- 1\n", "circle.yaml": "extends: circle.yaml\n",
        "data.yaml": "clips: [", "curate.yaml": "keep: {}\n",
        "kinds.yaml": "kind: [a]\n", "plan.yaml": "autoencoders: {}\ndenoisers: {}\n",
        "good.yaml": "# Good\nextends: toy-vdt\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    own = {each["name"]: each for each in forms.recipes(str(tmp_path)) if not each["ships"]}
    assert own.pop("good.yaml") == {"name": "good.yaml", "about": "Good", "kind": "denoiser", "ships": False}
    assert {name: each["problem"].split(";")[0].removeprefix(f"{tmp_path}/") for name, each in own.items()} == {
        "broken.yaml": "broken.yaml: not valid YAML (line 4): did not find expected ',' or ']'",
        "odd.yaml": f"odd.yaml: expected kind: {' or '.join(JOBS)}, got 'autoencodr'",
        "list.yaml": "list.yaml: expected a mapping of keys to values, such as kind, data and training",
        "circle.yaml": own["circle.yaml"]["problem"].split(";")[0],
    }
    assert "goes round in a circle" in own["circle.yaml"]["problem"]
    assert all("mend it, or take it out" in each["problem"] for each in own.values())


def test_a_damaged_job_is_removed_and_runs_nothing(page: TestClient, tmp_path: Path) -> None:
    folder = tmp_path / "p" / "queue" / JOB
    folder.mkdir()
    (folder / "request.json").write_text("{")
    shown = ok(page.get("/api/jobs"))["jobs"]
    assert [(job["id"], job["state"], job["damaged"]) for job in shown] == [(JOB, "failed", True)]
    assert jobs.waiting(Project.open(tmp_path / "p")) == []
    refused(page.get(f"/api/jobs/{JOB}"), 404)
    ok(page.delete(f"/api/jobs/{JOB}"))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (len(HEADER).to_bytes(8, "little") + HEADER + b"\0" * 4, None),
        (len(HEADER).to_bytes(8, "little") + HEADER, "damaged or cut off"),
        (b"", "no safetensors file"),
        (b"\x05\0\0\0\0\0\0\0[1,2]", "damaged or cut off"),
        (b"\x05\0\0\0\0\0\0\0[1,2[", "not valid JSON"),
        ((2**40).to_bytes(8, "little") + HEADER, "no safetensors file"),
    ],
)
def test_a_header_says_whether_a_file_of_weights_is_whole(tmp_path: Path, data: bytes, says: str | None) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    if says is None:
        assert set(peek(tmp_path / "a.safetensors")) == {"a"}
        return
    with pytest.raises(InputError, match=says):
        peek(tmp_path / "a.safetensors")


QUIET = {
    "api/footage.py:stored", "api/work.py:told_by", "app.py:static", "command.py:_where", "command.py:kept_token",
    "forms.py:_encoding", "forms.py:_is_model", "jobs.py:asked_to_stop", "jobs.py:process", "jobs.py:state",
    "likeness.py:_known", "listing.py:_stays", "runner.py:ended",
}  # fmt: skip
"""Functions that take an error for an answer: it is told elsewhere, or the thing is simply made anew."""


def _names(node: ast.AST | None) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} if node is not None else set()


def _swallowed(tree: ast.AST) -> Iterator[ast.AST]:
    """Places where an InputError ends without its words going anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and "InputError" in _names(node.type):
            inner = [each for line in node.body for each in ast.walk(line)]
            told = node.name in {each.id for each in inner if isinstance(each, ast.Name)}
            if not told and not any(isinstance(each, ast.Raise) for each in inner):
                yield node
        asked = [_names(item.context_expr) for item in node.items] if isinstance(node, ast.With) else []
        if any({"suppress", "InputError"} <= names for names in asked):
            yield node


def test_no_error_is_swallowed_elsewhere() -> None:
    """The kind: whoever reads what a list shows asks `faults.tried`, which keeps the words."""
    found = set()
    for path in sorted((ROOT / "kinolab" / "studio").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
            if any(True for _ in _swallowed(function)):
                found.add(f"{path.relative_to(ROOT / 'kinolab' / 'studio').as_posix()}:{function.name}")
    assert found == QUIET


def test_a_curation_says_which_part_of_it_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "curated"
    folder.mkdir()
    row = {"source": "a.mp4", "start": 0.0, "end": 2.0, "motion": 0.1, "kept": True, "dropped": []}
    rows = [row, row | {"source": "b.mp4", "motion": 0.3}, {"source": 3}, row | {"source": "c.mp4", "motion": 0.2}]
    lines = [*map(json.dumps, rows), '{"source"', json.dumps(row | {"source": "d.mp4", "motion": None})]
    (folder / "table.jsonl").write_text("".join(f"{line}\n" for line in lines))
    keep = {"motion": {"min_percentile": 50.0}}
    (folder / "curation.json").write_text(json.dumps({"keep": keep, "costs": [], "problems": []}))
    found = curation(str(folder))
    assert found["clips"] == 4 and found["hours"] == pytest.approx(8 / 3600)
    assert {"name": "motion", "least": 0.1, "median": 0.2, "most": 0.3, "count": 3} in found["scores"]
    [edge] = found["edges"]
    assert edge["bound"] == "motion >= 0.2 (percentile 50)"
    assert [clip["source"] for clip in edge["dropped"]] == ["a.mp4"]
    assert [clip["source"] for clip in edge["kept"]] == ["c.mp4", "b.mp4"], "the nearest first"
    assert [line.partition("table.jsonl: ")[2][:6] for line in found["left"]] == ["line 3", "line 5"]
    (folder / "curation.json").write_text("[]")
    with pytest.raises(InputError, match="expected the record of a curation"):
        curation(str(folder))
