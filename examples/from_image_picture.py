"""Pictures of what a comparison generated: a strip of frames for each row, and one sheet for each start.

    kinolab compare benchmarks/from_image.yaml --out runs/from-image
    python examples/from_image_picture.py benchmarks/from_image.yaml runs/from-image docs/images/from-image --clip 0

All rows were asked for the same clip (`--clip`, below the plan's `videos`). Writes START.webp, the frames in their own
size, and with `--large` also ROW.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from kinolab import video
from kinolab.comparison.hashes import cell_folder
from kinolab.comparison.plan import load_plan
from kinolab.comparison.run import states
from kinolab.errors import InputError
from kinolab.reports.sheet import Strip, write_rows, write_sheet
from kinolab.runtime.files import make_folder


def strips_of(plan_file: Path, runs: Path, clip: int, overrides: Sequence[str] = ()) -> dict[str, dict[str, Strip]]:
    """By start and row: the frames of one clip of every measured denoiser, of the plan's first seed.

    Raises:
        InputError: where no row has kept the clip.
    """
    plan = load_plan(plan_file, overrides)
    found: dict[str, dict[str, Strip]] = {}
    for state in states(plan, runs):
        cell = state.cell
        if cell.denoiser is None or not state.measured or cell.seed != plan.seeds[0]:
            continue
        file = cell_folder(plan, cell, runs) / "videos" / f"{clip:03d}.mp4"
        if file.is_file():
            start = plan.denoisers[cell.denoiser].start or "all"
            name = cell.denoiser if len(plan.autoencoders) == 1 else f"{cell.autoencoder}-{cell.denoiser}"
            found.setdefault(start, {})[name] = Strip(name, video.read(file).frames)
    if not found:
        raise InputError(f"{runs}: no measured row has a clip {clip}; `kinolab compare {plan_file}` makes them")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("runs", type=Path, help="the comparison's folder")
    parser.add_argument("out", type=Path, help="the folder of the pictures")
    parser.add_argument("--clip", type=int, default=0, help="which of the clips that were kept")
    parser.add_argument("--large", action="store_true", help="a picture of each row too, enlarged")
    parser.add_argument("-s", "--set", action="append", default=[], help="overrides that the comparison was run with")
    chosen = parser.parse_args(arguments)
    make_folder(chosen.out)
    for start, rows in strips_of(chosen.plan, chosen.runs, chosen.clip, chosen.set).items():
        if chosen.large:
            for name, strip in rows.items():
                write_sheet([strip], chosen.out / f"{name}.png", columns=1, shown=len(strip.frames))
        sheet = chosen.out / f"{start}.webp"
        write_rows([(name, strip.frames) for name, strip in rows.items()], sheet, margin=210, cut=0)
        print(sheet)


if __name__ == "__main__":
    main()
