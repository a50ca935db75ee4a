"""The report of the wide tests is a judge, so it is judged: by small suites of its own."""

from __future__ import annotations

import sys

import pytest

from tests import wide_report

pytest_plugins = ["pytester"]

SUITE = """
import pytest
import tests.wide_report as wide

wide.TOOLS["here"] = (lambda: True, "always")
wide.TOOLS["away"] = (lambda: False, "a thing that nobody has")

@pytest.mark.wide("here")
def test_it_runs():
    pass

@pytest.mark.wide("here")
def test_it_gives_up():
    pytest.skip("I have a headache")

@pytest.mark.wide("here", "away")
def test_it_can_not_run():
    raise AssertionError

@pytest.mark.wide
def test_it_is_slow():
    pass

def test_it_is_none_of_them():
    pytest.skip("as it likes")
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\nmarkers = wide: slow kinds")
    pytester.makepyfile(SUITE)
    return pytester


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], ["-n", "1"]])
def test_a_skip_where_the_tool_is_there_is_a_failure(suite: pytest.Pytester, processes: list[str]) -> None:
    result = suite.runpytest("-p", "tests.wide_report", "-p", "no:cacheprovider", *processes)
    result.assert_outcomes(passed=2, failed=1, skipped=2)
    result.stdout.fnmatch_lines(["*test_it_gives_up: skipped although everything that it needs is here (*headache*"])
    assert result.ret == 1


def test_the_table_says_what_ran_and_what_did_not_and_why(suite: pytest.Pytester) -> None:
    name = sys._getframe().f_code.co_name
    result = suite.runpytest("-p", "tests.wide_report", "-p", "no:cacheprovider", "-W", "ignore")
    result.stdout.fnmatch_lines(
        [
            "*wide tests: what ran and what didn't*",
            "file * needs * passed failed skipped * seconds * why skipped",
            f"{name}.py * here * 1 * 1 * 0 *",
            f"{name}.py * here, away * 0 * 0 * 1 * not here: away (a thing that nobody has)",
            f"{name}.py * time * 1 * 0 * 0 *",
        ]
    )


def test_without_wide_tests_there_is_no_table(suite: pytest.Pytester) -> None:
    result = suite.runpytest("-p", "tests.wide_report", "-p", "no:cacheprovider", "-m", "not wide")
    assert "why skipped" not in result.stdout.str()


def test_an_unknown_tool_is_a_mistake(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = wide: slow kinds")
    pytester.makepyfile("import pytest\n\n@pytest.mark.wide('crystal ball')\ndef test_x():\n    pass\n")
    result = pytester.runpytest("-p", "tests.wide_report", "-p", "no:cacheprovider")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*wide('crystal ball'): expected one of compiler, *"])


def test_a_file_that_can_not_be_collected_is_left_to_pytest() -> None:
    assert wide_report.table({"error": [object()]}) == []
