"""The list of commands in the help, under headings."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from kinolab.cli import COMMANDS, HEADINGS


class Group(TyperGroup):
    """The commands at the top, each under the heading that its line in `COMMANDS` names."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A section for each heading that has a command; the lines are the table's, so that no command is imported."""
        width = max(len(name) for name in self.commands)
        for key, heading in HEADINGS.items():
            rows = [
                (f"{name:{width}}", entry.says)
                for name, entry in COMMANDS.items()
                if entry.heading == key and name in self.commands
            ]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
