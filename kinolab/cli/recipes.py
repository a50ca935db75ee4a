"""`kinolab recipes`: the recipes that ship."""

from __future__ import annotations

from typing import Annotated

import typer


def recipes(name: Annotated[str | None, typer.Argument(help="Print this recipe's YAML.")] = None) -> None:
    """List the recipes that ship, or print one to copy and change."""
    from kinolab.runtime.reading import read_text
    from kinolab.runtime.text import split_lines
    from kinolab.training.recipe import find_recipe, shipped_recipes

    if name is not None:
        typer.echo(read_text(find_recipe(name)), nl=False)
        return
    for known, path in shipped_recipes().items():
        lines = split_lines(read_text(path))
        typer.echo(f"{known:28} {lines[0].lstrip('# ')}" if lines and lines[0].startswith("#") else known)
