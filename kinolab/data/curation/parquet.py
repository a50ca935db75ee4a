"""Parquet files of videos, read and written by pyarrow where it is installed, in Hugging Face's form.

A column `video` of {bytes, path} holds the files, as `datasets` keeps them; a column of paths names them instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinolab.data.tables import CAPTION_COLUMNS, FILE_COLUMNS
from kinolab.errors import InputError, MissingExtraError
from kinolab.runtime import reading
from kinolab.runtime.files import opened
from kinolab.runtime.lines import one_line

TEXTS = ("text", "source")
"""Columns of words; all others are numbers, so that every file of a set has the same columns."""
GROUP = 16
"""Clips in a row group, which is what is read at once for one of them."""
LONGEST = 2**31 - 1
"""Bytes of a clip that goes into a cell."""


@dataclass(frozen=True)
class Place:
    """Where in a file a video lies: its row group, its row in it, and its column."""

    group: int
    row: int
    column: str


@dataclass(frozen=True)
class ParquetRow:
    """One row: its number in the file, what the video is called, where its bytes are (none: the name is a path)."""

    number: int
    name: str
    place: Place | None
    caption: str | None


def need_pyarrow() -> Any:
    """pyarrow.parquet. Raises MissingExtraError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "Parquet") from None
    return pyarrow.parquet


def rows(path: Path) -> Iterator[ParquetRow]:
    """The rows of a file, without the bytes of their videos.

    Raises:
        InputError: for what is no Parquet file, or has no column of videos.
    """
    file = _open(path)
    schema = file.schema_arrow
    column = next((n for n in schema.names if n.lower() in FILE_COLUMNS), None)
    caption = next((n for n in schema.names if n.lower() in CAPTION_COLUMNS), None)
    if column is None:
        raise InputError(f"{path}: no column of videos; expected video, with bytes and path, or one of {FILE_COLUMNS}")
    kind = str(schema.field(column).type)
    inside = kind.startswith("struct") and "bytes" in kind
    wanted = [f"{column}.path" if inside else column] + ([caption] if caption else [])
    number = 0
    for group in range(file.num_row_groups):
        for k, row in enumerate(file.read_row_group(group, columns=wanted).to_pylist()):
            value = row[column]
            name = (value or {}).get("path") if inside else value
            text = row.get(caption) if caption else None
            told = text if isinstance(text, str) and text.strip() else None
            place = Place(group, k, column) if inside else None
            yield ParquetRow(number, str(name or f"{number:06d}.mp4"), place, told)
            number += 1


def read_bytes(path: Path, place: Place) -> bytes:
    """The bytes of one video.

    Raises:
        InputError: where the row has none.
    """
    table = _open(path).read_row_group(place.group, columns=[f"{place.column}.bytes"])
    value = table.column(place.column)[place.row].as_py()
    data = (value or {}).get("bytes")
    if not data:
        raise InputError(f"{path}: row group {place.group}, row {place.row}: no bytes of a video")
    return bytes(data)


def write(path: Path, files: Sequence[Path], values: Sequence[Mapping[str, Any]]) -> None:
    """Write clips with a row of values each, whose keys are the same; `video` is the clip.

    Raises:
        OSError: where it can't be written.
    """
    parquet = need_pyarrow()
    import pyarrow as pa

    fields = [pa.field("video", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    names = [key for key in values[0] if key != "file_name"]
    kinds = {name: pa.string() if name in TEXTS else pa.float64() for name in names}
    fields += [pa.field(name, kinds[name]) for name in names]
    features: dict[str, Any] = {"video": {"_type": "Video"}}
    features |= {n: {"dtype": "string" if kinds[n] == pa.string() else "float64", "_type": "Value"} for n in names}
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(fields, metadata=note)
    with opened(path) as out, parquet.ParquetWriter(out, schema, compression="none", write_statistics=False) as writer:
        for begin in range(0, len(files), GROUP):
            part = range(begin, min(begin + GROUP, len(files)))
            videos = [
                {"bytes": reading.read_bytes(files[k], LONGEST), "path": Path(values[k]["file_name"]).name}
                for k in part
            ]
            columns = {"video": videos} | {n: [values[k][n] for k in part] for n in names}
            arrays = [pa.array(columns[f.name], f.type) for f in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _open(path: Path) -> Any:
    parquet = need_pyarrow()
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # pyarrow raises many kinds
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path}: no Parquet file ({one_line(error, 80)})") from None
