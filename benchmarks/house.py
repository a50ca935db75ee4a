"""`python -m benchmarks.house [FOLDER]`: the package in figures, of this checkout or of another's folder `kinolab`.

Lines of each room, files above 400 lines, functions above 60, arguments of functions (90th percentile and most), and
the share of code that stands twice: lines of functions whose body, docstring aside, is one in another file too; and the
trip of a prompt to its file (`benchmarks/trip.py`), for which a clip of one step is made.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks import trip

Function = ast.FunctionDef | ast.AsyncFunctionDef
LEAST = 3
"""Lines of a body below which it is too short to be a copy of another."""


def functions(tree: ast.AST) -> Iterator[Function]:
    """All functions and methods of a file."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def arguments(function: Function) -> int:
    """How many arguments a caller may give, `self` and `cls` aside."""
    a = function.args
    names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def body(function: Function) -> tuple[str, int]:
    """A function's statements without its docstring, as text that ignores layout, and how many lines they take."""
    statements = function.body
    if ast.get_docstring(function) is not None:
        statements = statements[1:]
    if not statements:
        return "", 0
    lines = (statements[-1].end_lineno or 0) - statements[0].lineno + 1
    return "\n".join(ast.dump(s) for s in statements), lines


def measure(root: Path) -> dict[str, object]:
    """The figures of a package's folder."""
    rooms: Counter[str] = Counter()
    long_files, long_functions, counts = [], [], []
    bodies: dict[str, set[Path]] = defaultdict(set)
    sizes: dict[str, list[int]] = defaultdict(list)
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        inside = path.relative_to(root)
        rooms[inside.parts[0]] += lines
        if lines > 400:
            long_files.append(f"{inside} {lines}")
        for function in functions(ast.parse(text)):
            counts.append(arguments(function))
            if (function.end_lineno or 0) - function.lineno + 1 > 60:
                long_functions.append(f"{inside}:{function.name}")
            same, size = body(function)
            if size >= LEAST:
                bodies[same].add(path)
                sizes[same].append(size)
    total = sum(rooms.values())
    twice = sum(sum(sizes[same]) for same, places in bodies.items() if len(places) > 1)
    counts.sort()
    return {
        "lines": total,
        "rooms": {name: lines for name, lines in rooms.most_common() if not name.endswith(".py")},
        "files above 400 lines": long_files,
        "functions": len(counts),
        "functions above 60 lines": long_functions,
        "arguments, 90th percentile": counts[int(0.9 * len(counts))],
        "arguments, most": counts[-1],
        "identical bodies": f"{twice / total:.2%}",
    }


def main(argv: list[str] | None = None) -> None:
    """Print the figures."""
    given = sys.argv[1:] if argv is None else argv
    root = Path(given[0]) if given else Path(__file__).parent.parent / "kinolab"
    for name, value in measure(root).items():
        if isinstance(value, dict):
            shown = ", ".join(f"{k} {v}" for k, v in value.items())
        else:
            shown = ", ".join(value) if isinstance(value, list) else str(value)
        print(f"{name}: {shown}")
    print(f"a prompt's trip: {trip.measure(root.resolve())[1]}")


if __name__ == "__main__":
    main()
