"""The helper that compares numbers can itself be wrong, so it is tested."""

from __future__ import annotations

import ast
import math
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from tests.closeness import assert_close, assert_same, assert_small, assert_within, difference, differs

pytestmark = pytest.mark.slow  # many short ones, which take long together

TESTS = Path(__file__).parent


def test_the_size_of_the_numbers_does_not_matter() -> None:
    x = torch.randn(100)
    for size in (1e-6, 1.0, 1e6):
        assert difference(x * size + 1e-3 * size * x.std(correction=0), x * size) == pytest.approx(1e-3, rel=1e-2)


def test_a_constant_is_compared_with_its_size() -> None:
    assert_close([2.0, 2.0], [2.0 + 1e-6, 2.0])
    assert difference(2.002, 2.0) == pytest.approx(1e-3)
    assert difference([1.0, 1.0 + 1e-9], [1.0, 1.0]) < 1e-8
    assert difference([0.0, 1e-9], [0.0, 0.0]) == math.inf


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1.1])
def test_what_differs_is_refused(wrong: float) -> None:
    with pytest.raises(AssertionError, match="latents: differs by"):
        assert_close([wrong, 2.0], [1.0, 2.0], what="latents")


def test_shapes_must_agree() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_close(torch.ones(1, 3), torch.ones(3))


def test_what_should_vanish_is_held_against_something() -> None:
    assert_small([1e-7, -1e-7], beside=[1.0, -1.0])
    with pytest.raises(AssertionError, match=r"is 0\.1 of what"):
        assert_small([0.0, 0.1], beside=[1.0, -1.0])


def test_a_tolerance_with_a_unit_says_it() -> None:
    assert_within([[0, 254], [1, 255]], [[0, 255]], 1, "grey levels")
    with pytest.raises(AssertionError, match="differs by 2 px, expected at most 1 px"):
        assert_within([3.0], 1.0, 1, "px")
    with pytest.raises(AssertionError, match="shape"):
        assert_within([3.0], [3.0, 3.0], 1, "px")
    with pytest.raises(AssertionError, match="unit"):
        assert_within([3.0], 3.0, 1, "")


def test_the_precision_of_what_is_compared_says_what_is_allowed() -> None:
    x = torch.randn(50, dtype=torch.float64)
    assert_close(x.float(), (x * (1 + 1e-6)).float())
    with pytest.raises(AssertionError, match="expected at most 1e-10"):
        assert_close(x, x * (1 + 1e-6))
    with pytest.raises(AssertionError, match="expected at most 1e-10"):
        assert_close(x.numpy(), x.numpy() * (1 + 1e-6))
    with pytest.raises(AssertionError, match=r"expected torch\.float64, got torch\.float32"):
        assert_close(x.float(), x)
    with pytest.raises(AssertionError, match="expected at most 0"):
        assert_close(torch.tensor([1, 2_000_000]), torch.tensor([1, 2_000_001]))


def test_values_far_from_zero_are_rounded_by_their_size() -> None:
    x = 1000 + torch.linspace(-1, 1, 11)
    assert_close(x + 1e-4, x)
    with pytest.raises(AssertionError):
        assert_close(x + 1e-2, x)


def test_the_same_is_bit_for_bit_and_nan_is_itself() -> None:
    x = torch.tensor([1.0, math.nan, -0.5])
    assert_same({"a": x, "b": torch.tensor([1])}, {"a": x.clone(), "b": torch.tensor([1])})
    for other in (x.double(), x[:2], torch.nextafter(x, x + 1), torch.tensor([1.0, 0.0, -0.5])):
        with pytest.raises(AssertionError, match="a: "):
            assert_same({"a": other}, {"a": x})
    with pytest.raises(AssertionError, match="other names"):
        assert_same({"b": x}, {"a": x})


def test_what_differs_by_more_than_rounding_is_seen() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    assert differs(x + torch.tensor([0.0, 1e-7, 1e-3]), x).tolist() == [False, False, True]


ELSEWHERE = {"allclose", "assert_allclose", "isclose", "assert_almost_equal", "assert_array_almost_equal"}
TOLERANCES = {"atol", "rtol", "abs_tol", "rel_tol"}
BARE = (1e-9, 1e-2)
"""Between what float64 rounds away and what has a meaning of its own, a bare number stands for float32's rounding."""
JUSTIFIED = {
    "autoencoders/test_dpvae.py::test_the_terms_are_zero_for_image_latents_*": "a distance of a set to itself",
    "diffusion/test_times.py::test_mode_falls_from_one_to_zero_and_keeps_the_middle": "the end of a grid on [0, 1]",
    "evaluation/test_generation_scores.py::test_a_folder_with_itself_is_as_good_as_can_be": "distances of a set to "
    "itself, whose features have unit size",
    "evaluation/test_generation_scores.py::test_the_batch_does_not_matter": "a kernel distance near 0 is a difference "
    "of kernels of unit size",
    "evaluation/test_generation_scores.py::test_frames_in_folders_are_videos": "the distance of a set to itself",
    "evaluation/test_reconstruction_scores.py::*": "the distance of a set to itself",
    "test_benchmarks.py::*": "the benchmarks' errors are relative",
    "training/*": "largest_difference is relative",
}
"""File and test -> why a small number may stand alone there."""


def bare_tolerances(source: str) -> list[tuple[str, int, str]]:
    """Where a test compares floats by other means than this helper: function, line, what stands there."""
    found: list[tuple[str, int, str]] = []

    def look(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef):
            function = function or node.name
        reason = _bare(node)
        if reason:
            found.append((function, getattr(node, "lineno", 0), reason))
        for child in ast.iter_child_nodes(node):
            look(child, function)

    look(ast.parse(source), "")
    return found


def _bare(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name.split(".")[-1] in ELSEWHERE or name.endswith("testing.assert_close"):
            return name
        for keyword in node.keywords:
            if keyword.arg in TOLERANCES:
                return f"{name}({keyword.arg}=...)"
            if name.endswith("approx") and keyword.arg == "abs" and _small(keyword.value):
                return f"{name}(abs={ast.unparse(keyword.value)})"
    if isinstance(node, ast.Compare) and len(node.ops) == 1:  # low < x < high is no tolerance
        above = node.comparators[0] if isinstance(node.ops[0], ast.Lt | ast.LtE) else node.left
        if isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE) and _small(above):
            return ast.unparse(node)
    return ""


def _small(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, float) and BARE[0] < node.value < BARE[1]


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda p: str(p.relative_to(TESTS)))
def test_floats_are_compared_by_this_helper(path: Path) -> None:
    name = path.relative_to(TESTS).as_posix()
    if name in ("closeness.py", "test_closeness.py"):
        return
    for function, line, what in bare_tolerances(path.read_text(encoding="utf-8")):
        assert any(fnmatch(f"{name}::{function}", pattern) for pattern in JUSTIFIED), (
            f"tests/{name}:{line}: {what}: compare by tests/closeness.py, which is relative to the spread"
        )


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("torch.testing.assert_close(a, b)", True),
        ("assert np.allclose(a, b)", True),
        ("close = partial(compare, rtol=0, atol=1e-5)", True),
        ("assert x == pytest.approx(y, abs=1e-5)", True),
        ("assert (a - b).abs().max() < 1e-5", True),
        ("assert 1e-5 > (a - b).abs().max()", True),
        ("assert_close(a, b, within=1e-4)", False),
        ("assert x == pytest.approx(y, rel=1e-5)", False),
        ("assert mean == pytest.approx(0.5, abs=0.03)", False),
        ("assert float64 == pytest.approx(y, abs=1e-12)", False),
        ("assert same < 1e-4 < other", False),
        ("assert (a - b).abs().max() > 1e-3", False),
    ],
)
def test_the_search_finds_every_way_to_say_it(line: str, refused: bool) -> None:
    assert bool(bare_tolerances(f"def test_x():\n    {line}\n")) == refused


def test_every_exception_is_used() -> None:
    used = [
        f"{path.relative_to(TESTS).as_posix()}::{function}"
        for path in TESTS.rglob("*.py") if path.name not in ("closeness.py", "test_closeness.py")
        for function, _, _ in bare_tolerances(path.read_text(encoding="utf-8"))
    ]  # fmt: skip
    assert not [pattern for pattern in JUSTIFIED if not any(fnmatch(u, pattern) for u in used)]
