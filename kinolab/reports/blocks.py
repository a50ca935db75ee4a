"""What a report is made of: plain data, one class per kind of block. `render.py` puts it into a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kinolab.errors import InputError
from kinolab.runtime.lines import shown

Mark = Literal["", "noise", "better"]
"""How a score stands to the others of its column: nothing said, within the noise of the best, better beyond noise."""


def figures(value: float | None, digits: int = 4) -> str:
    """A number for people: whole ones whole, others to so many figures, "-" for none or not finite."""
    if value is None or not math.isfinite(value):
        return "-"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}" if abs(value) >= 10_000 else str(int(value))
    if 1e-4 <= abs(value) < 1e6:
        return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:.{digits - 1}e}"


@dataclass(frozen=True)
class Cell:
    """One cell of a table. `number` is what the column is sorted by; `interval` is shown as small text.

    A cell of words has no number; a score that is not there has NaN, and stands last in every order.
    """

    text: str
    number: float | None = None
    interval: tuple[float, float] | None = None
    mark: Mark = ""

    @classmethod
    def of(
        cls, value: float | None, interval: tuple[float, float] | None = None, mark: Mark = "", digits: int = 4
    ) -> Cell:
        """A number's cell; none or NaN shows as "-"."""
        known = value is not None and math.isfinite(value)
        return cls(figures(value, digits), value if known else math.nan, interval if known else None, mark)


Value = Cell | str | float | int | None
"""What a table takes for a cell."""


@dataclass(frozen=True)
class Table:
    """Columns and rows; a plain string is a cell of words, a number (or None) one of `Cell.of`.

    Raises:
        InputError: where a row has another length than the columns.
        TypeError: for a cell that is neither number nor words.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InputError(f"table {self.caption!r}: {len(self.columns)} columns, but a row of {len(row)} cells")
            for value in row:
                if not isinstance(value, Cell | str | int | float | None):
                    raise TypeError(f"a table holds numbers and words, got {shown(value)}")

    @property
    def cells(self) -> list[list[Cell]]:
        """Every row with its cells as `Cell`."""
        return [[_cell(value) for value in row] for row in self.rows]


def _cell(value: Value) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell(value) if isinstance(value, str) else Cell.of(value)


@dataclass(frozen=True)
class Text:
    """A paragraph, or with `code` lines that keep their breaks."""

    text: str
    title: str = ""
    code: bool = False


@dataclass(frozen=True)
class Facts:
    """Name -> value, as a list."""

    values: Mapping[str, str]
    title: str = ""


@dataclass(frozen=True)
class Curves:
    """Lines in one plot: name -> points (x, y) in order of x. What is not finite makes a gap.

    `log` gives the y axis a logarithmic scale; what is not above zero can't be shown there, and that is said.
    """

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    x_label: str
    y_label: str
    log: bool = False


@dataclass(frozen=True)
class Histogram:
    """How values (one per clip) are spread; `markers`: name -> where a line is drawn."""

    title: str
    values: Sequence[float]
    x_label: str
    markers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SyncedVideos:
    """Videos side by side that play as one, frame by frame if wanted.

    videos: (caption, file relative to the page); the reconstruction stands beside its original.
    fps, frames: of the longest; a shorter one stays at its last frame.
    heatmap: a video of the error (`heatmap.write_heatmap`), the last one in the row; `heatmap_scale`: the error in
    values of 255 at the bright end of its colours.
    """

    title: str
    videos: tuple[tuple[str, str], ...]
    fps: float
    frames: int
    heatmap: str | None = None
    heatmap_scale: float = 64.0
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredClip:
    """A clip of a gallery: its name, its scores, its video relative to the page, and words about it."""

    name: str
    scores: Mapping[str, float]
    video: str | None = None
    text: str = ""


@dataclass(frozen=True)
class WorstFirst:
    """Clips in the order they are to be looked at, the worst one first; videos load as they come into view."""

    title: str
    clips: tuple[ScoredClip, ...]
    text: str = ""


@dataclass(frozen=True)
class Card:
    """One video. `video` and `poster` are relative to the page; `checks`: name -> passed; `facts`: name -> value.

    `captions` are written above the parts of a video that shows several side by side, `command` is what makes it, and
    `links`: text -> relative file.
    """

    title: str
    video: str
    poster: str | None = None
    wide: bool = False
    captions: tuple[str, ...] = ()
    checks: Mapping[str, bool] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> Iterator[str]:
        """Every file that the card refers to."""
        yield self.video
        if self.poster is not None:
            yield self.poster
        yield from self.links.values()


@dataclass(frozen=True)
class Gallery:
    """Videos that play by themselves, as cards side by side."""

    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Fold:
    """Blocks that show when their title is clicked."""

    title: str
    blocks: tuple[Block, ...]


Block = Text | Facts | Table | Curves | Histogram | SyncedVideos | WorstFirst | Gallery | Fold


@dataclass(frozen=True)
class Section:
    """A heading, a sentence or two, and blocks."""

    title: str
    text: str
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Report:
    """A whole report. `facts` are the large figures at the top: name -> value."""

    title: str
    text: str
    sections: tuple[Section, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    footer: str = ""

    @property
    def media(self) -> list[str]:
        """Every file that the report shows, relative to it."""
        return [name for section in self.sections for block in section.blocks for name in media_of(block)]


def media_of(block: Block) -> Iterator[str]:
    """The files that a block shows."""
    if isinstance(block, SyncedVideos):
        yield from (name for _, name in block.videos)
        if block.heatmap is not None:
            yield block.heatmap
    elif isinstance(block, WorstFirst):
        yield from (clip.video for clip in block.clips if clip.video is not None)
    elif isinstance(block, Gallery):
        for card in block.cards:
            yield from card.files
    elif isinstance(block, Fold):
        for inner in block.blocks:
            yield from media_of(inner)
