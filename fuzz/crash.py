"""`python -m fuzz crash`: every command cut off before, after and within every call by which it changes a disk.

Prints, for each command, its calls, the states that were looked at (after kills, and after power cuts on three kinds of
disk), those after errors of the disk, and how many were not whole or didn't go on.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory


def main(words: list[str]) -> int:
    """Go through the commands; 1 where something was found."""
    from tests.command_crashes import check, commands
    from tests.runtime.crashing import ERRORS, After, count_calls, crashes, failures

    parser = argparse.ArgumentParser(prog="python -m fuzz crash", description=__doc__)
    parser.add_argument("--command", action="append", help="only this; may be named again")
    parser.add_argument("--every", type=int, default=1, help="only every n-th call")
    options = parser.parse_args(words)
    import torch

    torch.set_num_threads(1)
    found = 0
    print(f"{'command':12}{'calls':>7}{'crashes':>9}{'errors':>8}{'findings':>10}{'seconds':>9}")
    with TemporaryDirectory(prefix="crash-") as made:
        for command in commands(Path(made)):
            if options.command and command.name not in options.command:
                continue
            began, findings, counts = time.perf_counter(), list[str](), [0, 0]

            def point(number: int) -> bool:
                return number % options.every == 0

            def look(after: After, goes_on: bool) -> None:
                try:
                    check(command, after, goes_on)  # noqa: B023
                except AssertionError as error:
                    findings.append(str(error))  # noqa: B023
                shutil.rmtree(after.root, ignore_errors=True)

            with TemporaryDirectory(prefix="crash-") as room:
                calls = len(count_calls(command.before, command.act, Path(room) / "count"))
                for after in crashes(command.before, command.act, Path(room), points=point):
                    counts[0] += 1
                    look(after, after.how == "kill after")
                for after in failures(command.before, command.act, Path(room), ERRORS, point):
                    counts[1] += 1
                    if after.error is not None and after.error.filename is None:
                        findings.append(f"{command.name}, {after}: {after.error} names no file")
                    look(after, False)
            seconds = time.perf_counter() - began
            print(f"{command.name:12}{calls:7}{counts[0]:9}{counts[1]:8}{len(findings):10}{seconds:9.0f}", flush=True)
            for finding in findings[:20]:
                print(f"    {finding[:300]}", flush=True)
            found += len(findings)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
