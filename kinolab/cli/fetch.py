"""`kinolab fetch`: public weights that metrics read, by a manifest of hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinolab.cli.options import common, show, watch


@common(events=True)
def fetch(
    name: Annotated[str | None, typer.Argument(help="Which weights; without it, list them.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the file goes; one that is there is checked and kept.")] = Path(
        "weights"
    ),
    sha256: Annotated[str | None, typer.Option(help="The hash that you know, where the list has none.")] = None,
) -> None:
    """Download a public file of weights and check its hash before it gets its name."""
    from kinolab.metrics.extractors.manifest import fetch as download
    from kinolab.metrics.extractors.manifest import load_manifest

    if name is None:
        known, lines = load_manifest(), []
        for key, entry in known.items():
            size = "size unknown" if entry.size is None else f"{entry.size / 1e6:.2g} MB"
            checked = "" if entry.sha256 is not None else "; its hash is not known, give --sha256"
            lines.append(f"{key:24} {entry.file}, {size}; {entry.license}{checked}")
        show({"weights": {key: entry.model_dump(mode="json") for key, entry in known.items()}}, lines)
        return
    with watch("fetching", "bytes") as events:
        path = download(name, folder, sha256=sha256, events=events)
    show({"file": path}, [path])
