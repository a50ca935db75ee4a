"""The pages name what is there: files, modules, recipes, rooms and each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from kinolab.training.recipe import shipped_recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
FILE = re.compile(r"(?<![\w/.~-])((?:[\w.-]+/)+[\w.-]+\.(?:py|yaml|jsonl|sh|svg|png))\b")
IN_REPOSITORY = re.compile(r"(?<![\w/.~-])((?:kinolab|tests|benchmarks|examples|fuzz)/[\w./-]*\w/?)")
MODULE = re.compile(r"(?<![\w./])kinolab((?:\.[a-z_]\w*)+)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
IN_HEADERS = {".crc32", ".sums"}
"""Keys in the headers of weights, which begin like modules."""
MOVED = {".model", ".generate", ".request", ".world", ".data.toy"}
"""Modules of 0.1.0 that the changes name."""


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def is_module_or_name(dotted: str) -> bool:
    """Whether `.a.b.c` leads from kinolab to a module, or to a name that stands in one."""
    place, parts = ROOT / "kinolab", dotted.split(".")[1:]
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    file = place / "__init__.py"
    if parts and (place / f"{parts[0]}.py").exists():
        file = place / f"{parts.pop(0)}.py"
    return not parts or re.search(rf"\b{parts[0]}\b", text(file)) is not None


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_module_that_a_page_names_is_there(page: Path) -> None:
    """Files are named from the root, from kinolab/ or from the page's folder."""
    said = text(page)
    named = {path for path in FILE.findall(said) if not path.startswith(("runs/", "out/", "http"))}
    named = {path for path in named if path.split("/")[0] in {p.name for p in (ROOT / "kinolab").iterdir()}} | set(
        IN_REPOSITORY.findall(said)
    )
    missing = [path for path in named if not any((base / path).exists() for base in (ROOT, ROOT / "kinolab"))]
    assert not missing
    passed = IN_HEADERS | (MOVED if page.name == "CHANGELOG.md" else set())
    assert not [m for m in MODULE.findall(said) if m not in passed and not is_module_or_name(m)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(re.sub(r"```.*?```", "", text(page), flags=re.DOTALL)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_lists_every_page_and_the_readme_leads_to_it() -> None:
    listed = {path.partition("#")[0] for path in LINK.findall(text(ROOT / "docs" / "index.md"))}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - listed == {"index.md"}
    assert "docs/index.md" in LINK.findall(text(ROOT / "README.md"))


def test_the_readme_is_short_and_its_tree_has_every_room() -> None:
    said = text(ROOT / "README.md")
    assert len(said.splitlines()) <= 120
    tree = said[said.index("kinolab/\n") :].partition("```")[0]
    package = ROOT / "kinolab"
    rooms = {p.name + "/" for p in package.iterdir() if p.is_dir() and p.name != "__pycache__"}
    rooms |= {p.name for p in package.glob("*.py") if not p.name.startswith("__")}
    assert [room for room in sorted(rooms) if not re.search(rf"(?<![\w/]){re.escape(room)}", tree)] == []


def test_the_recipes_page_names_every_recipe_and_no_other() -> None:
    table = text(ROOT / "docs" / "recipes.md").partition("## Those that ship")[2]
    words = set(re.findall(r"`([\w-]+)`", table))
    whole = {f"toy-odvae{word}" if word.startswith("-") else word for word in words}
    assert whole == set(shipped_recipes())


def test_the_readme_names_recipes_that_ship() -> None:
    families = text(ROOT / "README.md").partition("## The families")[2].partition("## The tree")[0]
    named = {w for w in re.findall(r"`([\w-]+)`", families) if "-" in w}
    assert named and named <= set(shipped_recipes())


def test_the_package_says_that_it_is_typed_and_ships_what_says_so() -> None:
    project = tomllib.loads(text(ROOT / "pyproject.toml"))
    assert (ROOT / "kinolab" / "py.typed").exists() and "Typing :: Typed" in project["project"]["classifiers"]
    shipped = project["tool"]["setuptools"]["package-data"]["kinolab"]
    files = {p for pattern in shipped for p in (ROOT / "kinolab").glob(pattern)}
    assert ROOT / "kinolab" / "py.typed" in files and set(shipped_recipes().values()) <= files


def test_how_to_cite_is_of_this_version() -> None:
    import yaml

    project = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]
    citation = yaml.safe_load(text(ROOT / "CITATION.cff"))
    assert (citation["version"], citation["license"]) == (project["version"], "Apache-2.0")
    assert f"## {project['version']}" in text(ROOT / "CHANGELOG.md")
