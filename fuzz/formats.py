"""Changes inside a container that stays one: values of JSON and YAML, headers of safetensors, members of zip archives,
chunks of PNG, boxes of MP4, instructions of pickles."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable
from random import Random

import yaml

from fuzz import bytes as by_byte
from fuzz import values

HOSTILE = tuple(
    f"c{module}\n{name}\n(V{argument}\ntR".encode()
    for module, name, argument in (
        ("os", "system", "true"), ("posix", "system", "true"), ("subprocess", "Popen", "true"),
        ("builtins", "eval", "1"), ("builtins", "exec", "1"), ("builtins", "__import__", "antigravity"),
        ("builtins", "open", "../planted"), ("importlib", "import_module", "antigravity"), ("torch", "load", "x"),
        ("webbrowser", "open", "http://localhost:1"), ("shutil", "rmtree", "../secret"),
        ("torch._utils", "_rebuild_tensor_v2", "x"), ("collections", "OrderedDict", "x"),
        ("torch.storage", "_load_from_bytes", "x"), ("_codecs", "encode", "x"), ("numpy", "dtype", "O8"),
    )
)  # fmt: skip
"""Instructions that import something and call it."""
LOOPS = (
    b"]q\x00h\x00a.", b"}q\x00X\x01\x00\x00\x00ah\x00s.", b"]" + b"]" * 5000 + b"a" * 5000 + b".",
    b"I" + b"9" * 9999 + b"\n.",
)  # fmt: skip


def changed(name: str, data: bytes, rng: Random) -> bytes:
    """A file's bytes with a change in what it holds; by bytes where its kind is not known or it is no such file."""
    ending = name.rsplit(".", 1)[-1].lower()
    try:
        return CHANGES.get(ending, by_byte.changed)(data, rng)
    except (ValueError, KeyError, yaml.YAMLError, zipfile.BadZipFile, RecursionError, UnicodeError, OverflowError):
        return by_byte.changed(data, rng)


def _json(data: bytes, rng: Random) -> bytes:
    return _dumped(values.changed(json.loads(data), rng))


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()


def _lines(data: bytes, rng: Random) -> bytes:
    """JSON lines: one of them changed, lost, doubled or cut."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    choice = rng.random()
    if choice < 0.7 and lines[at].strip():
        lines[at] = _json(lines[at], rng)
    elif choice < 0.8:
        lines[at:at] = [lines[at]] * rng.choice((1, 3, 300))
    elif choice < 0.9:
        del lines[at]
    else:
        lines[at] = lines[at][: len(lines[at]) // 2]
    return b"\n".join(lines)


def _yaml(data: bytes, rng: Random) -> bytes:
    value = values.changed(yaml.safe_load(data), rng)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _table(data: bytes, rng: Random) -> bytes:
    """CSV and TSV: a value or a row of them."""
    rows = [line.split(b",") for line in data.split(b"\n")]
    row = rng.choice(rows)
    at = rng.randrange(len(row))
    choice = rng.random()
    if choice < 0.6:
        row[at] = str(values.leaf(rng))[:5000].encode("utf-8", "backslashreplace")
    elif choice < 0.8:
        row[at:at] = [row[at]] * rng.choice((1, 3, 1000))
    else:
        rows[rng.randrange(len(rows))] = []
    return b"\n".join(b",".join(r) for r in rows)


def _safetensors(data: bytes, rng: Random) -> bytes:
    """A value in the header, which keeps its place and says its own length or another."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    entry = header.get("__metadata__")
    if entry and rng.random() < 0.3:  # what Kinolab itself keeps there is JSON again
        key = rng.choice(list(entry))
        entry[key] = json.dumps(values.changed(json.loads(entry[key]), rng))
    else:
        header = values.changed(header, rng)
    text = _dumped(header)
    said = len(text) if rng.random() < 0.9 else rng.choice((0, 1, 2**20, 2**40, 2**63))
    return said.to_bytes(8, "little") + text + data[8 + length :]


def _zip(data: bytes, rng: Random) -> bytes:
    """A torch file: one member changed, lost, doubled or under another name; or bytes, as of any file."""
    if not data.startswith(b"PK"):
        return _pickle(data, rng)
    source = zipfile.ZipFile(io.BytesIO(data))
    names = source.namelist()
    chosen = next((n for n in names if n.endswith("data.pkl")), names[0]) if rng.random() < 0.6 else rng.choice(names)
    written, choice = io.BytesIO(), rng.random()
    with zipfile.ZipFile(written, "w", rng.choice((zipfile.ZIP_STORED,) * 4 + (zipfile.ZIP_DEFLATED,))) as target:
        for name in names:
            content = source.read(name)
            if name == chosen:
                if choice < 0.1:
                    continue
                if choice < 0.2:
                    name = rng.choice(("../planted", "/planted", "archive/data/9", "x" * 300))
                content = _pickle(content, rng) if name.endswith(".pkl") else by_byte.changed(content, rng)
            target.writestr(zipfile.ZipInfo(name), content)
    return written.getvalue()


def _pickle(data: bytes, rng: Random) -> bytes:
    """A pickle's instructions: hostile ones put in, or those that make things of themselves."""
    choice = rng.random()
    if choice < 0.3:
        head = 2 if data[:1] == b"\x80" else 0
        return data[:head] + rng.choice(HOSTILE) + rng.choice((b"0", b"q\xfe0", b"")) + data[head:]
    if choice < 0.5:
        at = rng.randrange(len(data) + 1)
        return data[:at] + rng.choice(HOSTILE) + data[at:]
    if choice < 0.6:
        return b"\x80\x02" + rng.choice(LOOPS)
    return by_byte.changed(data, rng)


def _png(data: bytes, rng: Random) -> bytes:
    """A chunk with other content and the right sum, so that decoders come to read it."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    k = rng.randrange(len(chunks))
    name, content = chunks[k]
    if name == b"IHDR" and rng.random() < 0.5:
        sides = [rng.choice((0, 1, 8, 12_000, 2**16, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
        content = b"".join(side.to_bytes(4, "big") for side in sides) + content[8:]
    else:
        content = by_byte.changed(content, rng)
    chunks[k : k + 1] = [(name, content)] * rng.choice((1, 1, 1, 0, 2))
    whole = [len(c).to_bytes(4, "big") + n + c + zlib.crc32(n + c).to_bytes(4, "big") for n, c in chunks]
    return data[:8] + b"".join(whole)


def _mp4(data: bytes, rng: Random) -> bytes:
    """A number in one of the boxes that say what the file holds."""
    kinds = b"mvhd tkhd mdhd stsd avc1 avcC stts stsz stco stsc ctts elst stss".split()
    found = [at for kind in kinds if (at := data.find(kind)) >= 0]
    if not found:
        return by_byte.changed(data, rng)
    at = rng.choice(found) - 4 + rng.randrange(0, 60)
    number = rng.choice((0, 1, 2, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, rng.getrandbits(32)))
    width = rng.choice((2, 4))
    return data[:at] + (number % 256**width).to_bytes(width, "big") + data[at + width :]


CHANGES: dict[str, Callable[[bytes, Random], bytes]] = {
    "json": _json, "jsonl": _lines, "yaml": _yaml, "csv": _table, "tsv": _table, "safetensors": _safetensors,
    "pt": _zip, "pth": _zip, "ckpt": _zip, "pkl": _pickle, "metadata": _pickle, "distcp": _zip, "png": _png,
    "mp4": _mp4, "mov": _mp4,
}  # fmt: skip
