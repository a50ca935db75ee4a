"""`kinolab world`: write clips of the toy world, or check a folder of them from its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kinolab.cli.options import common, less, show, watch


@common(events=True)
def world(
    out: Annotated[Path, typer.Argument(help="Folder to write to, or with --check the folder to read.")],
    count: Annotated[int, typer.Option(min=1, help="Number of clips.")] = 16,
    size: Annotated[int, typer.Option(help="Width and height in pixels, 32 to 256.")] = 64,
    frames: Annotated[int, typer.Option(help="Frames per clip.")] = 17,
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first clip; the others follow.")] = 0,
    scenario: Annotated[
        list[str] | None, typer.Option(help="Only this: fall, throw, bounce, collide, ramp or float. Repeatable.")
    ] = None,
    min_objects: Annotated[int, typer.Option(help="Fewest objects in a clip.")] = 1,
    max_objects: Annotated[int, typer.Option(help="Most objects in a clip.")] = 3,
    check: Annotated[bool, typer.Option("--check", help="Read the clips of a folder back and report.")] = False,
) -> None:
    """Write clips of a small physics world with captions, labels and exact states, or check clips of it.

    Writes clip-000000.mp4 and so on, the state of each as .json beside it, and captions.jsonl, which makes the folder
    ready for training. With --check it looks at the pixels of every clip in captions.jsonl and prints how many show
    the objects and the motion that their caption asks for.
    """
    from kinolab.config import load_config
    from kinolab.toyworld.clips import WorldConfig

    if check:
        _show_report(_check_folder(out))
        return
    values: dict[str, Any] = {"size": size, "frames": frames, "fps": fps}
    values |= {"min_objects": min_objects, "max_objects": max_objects}
    if scenario:
        values["scenarios"] = dict.fromkeys(scenario, 1.0)
    _write_folder(out, load_config(WorldConfig, values), range(seed, seed + count))
    line = f"{out}: {count} clips of {frames} frames at {size} x {size}, captions.jsonl"
    show({"folder": out, "clips": count, "frames": frames, "size": size}, [line])


def _write_folder(out: Path, config: Any, seeds: range) -> None:
    """Clips, states, and last of all the list of them, so that an interrupted run leaves no list of missing files."""
    import json

    from kinolab import video
    from kinolab.contracts.events import advance
    from kinolab.runtime.files import make_folder, write_text
    from kinolab.toyworld.clips import CLASSES, make_clip, save_state

    make_folder(out)
    lines = []
    with watch("writing", "clips", cheaper=less("--count ", len(seeds))) as events:
        for number, seed in enumerate(seeds, start=1):
            clip = make_clip(config, seed)
            name = f"clip-{seed:06d}"
            video.write(out / f"{name}.mp4", clip.frames, clip.fps)
            save_state(clip, out / f"{name}.json")
            row = {"file": f"{name}.mp4", "caption": clip.caption, "label": clip.label}
            row |= {"class": CLASSES[clip.label], "fps": clip.fps, "seed": seed, "state": f"{name}.json"}
            lines.append(json.dumps(row))
            advance(events, number, len(seeds))
    write_text(out / "captions.jsonl", "\n".join(lines) + "\n")


def _check_folder(folder: Path) -> list[tuple[str, Any]]:
    """(file, WorldCheck) of every clip that the folder's captions.jsonl lists."""
    from kinolab import video
    from kinolab.errors import InputError
    from kinolab.runtime.reading import parse_json
    from kinolab.runtime.text import read_text, split_lines
    from kinolab.toyworld.clips import parse_caption
    from kinolab.toyworld.reader import check, read_world

    listing = folder / "captions.jsonl"
    if not listing.is_file():
        raise InputError(f"{listing}: no such file; expected the list of clips that 'kinolab world' writes")
    results = []
    for number, line in enumerate(split_lines(read_text(listing)), 1):
        try:
            row = parse_json(line, str(listing), constants=True)
            name, caption = str(row["file"]), str(row["caption"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f'{listing}, line {number}: expected {{"file": ..., "caption": ...}}') from None
        results.append((name, check(parse_caption(caption), read_world(video.read(folder / name).frames))))
    if not results:
        raise InputError(f"{listing}: lists no clips")
    return results


def _show_report(results: list[tuple[str, Any]]) -> None:
    import statistics

    names = ("colours", "shapes", "count", "direction", "motion", "identity", "passed")
    shares = {name: statistics.fmean(getattr(result, name) for _, result in results) for name in names}
    lines = [f"{name:10} {share:7.1%}" for name, share in shares.items()]
    known = [result.physics for _, result in results if result.physics == result.physics]
    physics = statistics.median(known) if known else None
    if physics is not None:
        lines.append(f"physics    {physics:.3f} (off constant acceleration, in 64ths of the frame)")
    wrong = [file for file, result in results if not result.passed]
    if wrong:
        lines.append(f"not as asked: {', '.join(wrong[:20])}{' ...' if len(wrong) > 20 else ''}")
    lines.append(f"{len(results)} clips")
    show({"clips": len(results), "shares": shares, "physics": physics, "not_as_asked": wrong}, lines)
