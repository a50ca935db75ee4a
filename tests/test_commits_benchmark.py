"""Two commits side by side: a fault of one rounding is found, and what can't be computed is said."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import kinolab
from benchmarks.commits import Side, checkout, compare, difference, main, measure, read, table
from kinolab.errors import InputError

PACKAGE = Path(kinolab.__file__).parent
FAULT = """
import torch
_silu = torch.nn.functional.silu
torch.nn.functional.silu = lambda x, inplace=False: _silu(x) * (1 + 2**-23)
"""
"""The smallest change of a float32 number there is, in one function of every model."""


def side(failed: dict[str, str] | None = None, **values: Tensor) -> Side:
    """A side with one tensor for each quantity."""
    tensors = {f"{name}: value": value for name, value in values.items()}
    return Side(tensors, dict.fromkeys([*values, *(failed or {})], 0.5), failed or {})


def verdicts(a: Side, b: Side) -> dict[str, str]:
    return {row.name: row.verdict for row in compare(a, b)}


def test_one_bit_is_a_difference() -> None:
    one = torch.tensor([1.0, 2.0, 3.0])
    ulp = torch.nextafter(one, torch.tensor(4.0))
    found = verdicts(side(same=one, bit=one), side(same=one.clone(), bit=ulp))
    assert found["same"] == "equal" and found["bit"].endswith("in value") and found["bit"].startswith("2.9e-07")
    assert difference(one, one.double()) == difference(one, one[:2]) == float("inf")
    assert 0 < difference(torch.tensor([0.0]), torch.tensor([-0.0])) < 1e-300, "bits differ, numbers don't"
    nan = torch.tensor([1.0, torch.nan])
    assert difference(nan, nan.clone()) == 0 and difference(nan, nan.flip(0)) == float("inf")


def test_what_one_side_lacks_or_fails_at_is_said() -> None:
    one = torch.ones(2)
    assert verdicts(side(x=one), Side({}, {"x": 1.0}, {})) == {"x": "value only in A"}
    assert verdicts(side(), side(x=one)) == {"x": "value only in B"}
    assert verdicts(side({"x": "KeyError: y"}), side(x=one)) == {"x": "failed in A: KeyError: y"}
    assert verdicts(side({"x": "no"}), side({"x": "no"})) == {"x": "failed in both: no"}
    assert verdicts(Side({}, {"x": 1.0}, {}), Side({}, {"x": 1.0}, {})) == {"x": "nothing was computed"}
    lines = table(compare(side(x=one, y=one), side(x=one, y=-one)), ("then", "now"))
    assert "A = then, B = now" in lines[0] and lines[-1] == "1 of 2 equal, bit for bit"


def test_values_of_another_package_are_refused(tmp_path: Path) -> None:
    record = {"package": str(tmp_path / "other" / "kinolab"), "seconds": {"x": 1.0}, "failed": {}}
    save_file({"x: a": torch.ones(1)}, tmp_path / "values.safetensors", {"record": json.dumps(record)})
    assert read(tmp_path / "values.safetensors").seconds == {"x": 1.0}
    with pytest.raises(InputError, match="computed with the package in"):
        read(tmp_path / "values.safetensors", tmp_path)


def test_a_commit_is_checked_out_and_put_away(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    git("init", "-q")
    for text in ("first", "second"):
        (tmp_path / "file").write_text(text)
        git("add", "file")
        git("commit", "-qm", text)
    (tmp_path / "file").write_text("not committed")
    with checkout("HEAD~1", tmp_path) as before, checkout("HEAD", tmp_path) as now, checkout(".", tmp_path) as here:
        assert [(p / "file").read_text() for p in (before, now, here)] == ["first", "second", "not committed"]
    assert not before.exists() and not now.exists() and here.exists()
    listed = subprocess.run(["git", "-C", str(tmp_path), "worktree", "list"], capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1
    with pytest.raises(InputError, match="nothing: no such commit; expected a hash"), checkout("nothing", tmp_path):
        pass


@pytest.mark.wide
def test_the_smallest_fault_is_found_and_no_other(tmp_path: Path) -> None:
    """Each side computes in a process of its own, with the package of its own folder."""
    only = ["forward models/latte"]
    sides = []
    for name, fault in (("sound", ""), ("faulty", FAULT)):
        tree = tmp_path / name / "kinolab"
        tree.mkdir(parents=True)
        for path in PACKAGE.iterdir():
            if path.name not in ("__init__.py", "__pycache__"):
                (tree / path.name).symlink_to(path)
        (tree / "__init__.py").write_text((PACKAGE / "__init__.py").read_text(encoding="utf-8") + fault)
        sides.append(measure(tree.parent, tmp_path / f"{name}-work", only))
    assert [row.verdict for row in compare(sides[0], sides[0])] == ["equal"]
    rows = compare(*sides)
    assert [row.name for row in rows] == only
    assert not rows[0].equal and 0 < float(rows[0].verdict.removesuffix(" in prediction")) < 1e-4, rows


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["HEAD", "--steps", "0"])
    assert "--steps 0: expected at least 1" in capsys.readouterr().err
    with pytest.raises(InputError, match="no-such-name: no such commit"):
        main(["no-such-name"])
