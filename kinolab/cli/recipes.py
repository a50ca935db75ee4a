"""`kinolab recipes`: the recipes that ship."""

from __future__ import annotations

from typing import Annotated

import typer

from kinolab.cli.options import common, show


@common()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe's YAML: a file, or one that ships.")] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Print it settled: with what it extends, and every default filled in.")
    ] = False,
) -> None:
    """List the recipes that ship, or print one to copy and change."""
    from kinolab.config import to_yaml
    from kinolab.errors import InputError
    from kinolab.runtime.reading import read_text
    from kinolab.runtime.text import split_lines
    from kinolab.training.recipe import find_recipe, load_recipe, shipped_recipes

    if name is None and merged:
        raise InputError("--merged is for one recipe: name it")
    if name is not None:
        text = to_yaml(load_recipe(name)) if merged else read_text(find_recipe(name))
        show({"name": name, "yaml": text}, [text.removesuffix("\n")])
        return
    found = []
    for known, path in shipped_recipes().items():
        lines = split_lines(read_text(path))
        about = lines[0].lstrip("# ") if lines and lines[0].startswith("#") else ""
        found.append({"name": known, "about": about, "path": path})
    show({"recipes": found}, [f"{recipe['name']!s:28} {recipe['about']}".rstrip() for recipe in found])
