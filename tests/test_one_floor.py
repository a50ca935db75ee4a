"""Files are opened for writing, renamed, removed, hashed, parsed and unpickled by `kinolab.runtime` alone.

`ALLOWED` lists every other place with its reason: libraries that are handed a path or a handle by runtime or that read
their own formats, and folders of the system's for what is thrown away. A new place fails until it is listed here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kinolab"
RUNTIME = PACKAGE / "runtime"

MODULES = frozenset({
    "hashlib", "zlib", "binascii", "pickle", "marshal", "shelve", "dbm", "sqlite3", "tempfile", "shutil", "yaml",
    "tomllib", "csv", "configparser", "xml", "mmap", "fcntl", "zipfile", "tarfile", "gzip", "bz2", "lzma",
    "safetensors", "xxhash", "joblib", "h5py", "io.open", "urllib.request", "tensorboard", "torch.utils.tensorboard",
})  # fmt: skip
"""Modules that read, write or hash."""
OF_MODULES = {
    "os": {
        "open", "fdopen", "write", "replace", "rename", "renames", "remove", "unlink", "link", "symlink", "mkdir",
        "makedirs", "rmdir", "removedirs", "truncate", "ftruncate", "fsync", "chmod", "mkfifo",
    },
    "json": {"load", "loads", "dump", "JSONDecoder"},
    "torch": {"load", "save", "from_file"},
    "jit": {"load", "save"},
    "hub": {"load", "load_state_dict_from_url", "download_url_to_file"},
    "np": {"load", "loads", "save", "savez", "savez_compressed", "loadtxt", "savetxt", "genfromtxt", "memmap",
        "fromfile"},
    "dcp": {"load", "save"},
}  # fmt: skip
"""Functions of modules that do other things, too."""
METHODS = frozenset({
    "open", "write_text", "write_bytes", "read_text", "read_bytes", "rename", "unlink", "rmdir", "mkdir", "touch",
    "symlink_to", "hardlink_to", "chmod", "tofile", "fromfile", "from_pretrained", "save_pretrained",
})  # fmt: skip
"""Methods of paths and of classes that take paths."""

SCRATCH = "a folder of the system's for what is thrown away at the end"
DECODED = "the codec's library opens what it decodes, by a path that was found to be a plain file"
CHECKED = "the library reads its own layout, from safetensors only and nothing fetched; its errors become one line"
PICTURE = "Pillow writes to the path that runtime hands it"
ALLOWED = {
    "autoencoders/diffusers_adapter.py": {"x.from_pretrained": CHECKED},
    "cli/doctor.py": {"tempfile": SCRATCH + ": whether codecs, locks and disks work"},
    "cli/evaluate.py": {"x.write_text": "a line of a help text, and no file"},
    "cli/fields.py": {"x.read_text": "the package's own source, by a command that is to start at once"},
    "cli/generate.py": {"x.write_text": "a line of a help text, and no file"},
    "cli/measuring.py": {"x.write_text": "a line of a help text, and no file"},
    "comparison/costs.py": {"tempfile": SCRATCH + ": a run that is timed"},
    "comparison/tables.py": {"csv": "writes the table as a text, which runtime puts into a file"},
    "conditioning/text/public.py": {"x.from_pretrained": CHECKED},
    "data/curate/encoder.py": {"x.from_pretrained": CHECKED},
    "data/curation/captioners.py": {
        "urllib.request": "a question to a server that the user names, whose answer is kept by runtime",
        "shutil": "whether a program of the user's is there",
        "x.from_pretrained": CHECKED,
        "x.open": "an address of a server, through an opener that follows no redirect",
        "x.save": "Pillow writes a picture into memory, for that question",
    },
    "data/scan.py": {"tempfile": "where the system's folder for temporary files is, for users without a home"},
    "data/tables.py": {"csv": "cuts a text that runtime read into people's columns"},
    "evaluation/fitting.py": {"tempfile": SCRATCH + ": the run in which a model is tuned on a clip"},
    "layers/strip_store.py": {"tempfile": SCRATCH + ": rows that don't fit into memory, in a file without a name"},
    "metrics/extractors/i3d.py": {"jit.load": "a network that is a program, as StyleGAN-V published it; by its hash"},
    "metrics/extractors/manifest.py": {"urllib.request": "a download, whose bytes go to a handle of runtime's"},
    "metrics/text.py": {"x.from_pretrained": CHECKED},
    "metrics/weights.py": {"zipfile": "names in an archive, to tell programs from tensors; nothing is taken out"},
    "planning/cost.py": {"tempfile": SCRATCH + ": a checkpoint on trial", "shutil": "free space of a disk"},
    "reports/demo.py": {"x.save": PICTURE},
    "studio/painting.py": {"x.save": "Pillow writes a mask into memory, for the page"},
    "reports/sheet.py": {"x.save": PICTURE},
    "training/log.py": {"torch.utils.tensorboard": "writes copies of the log's lines, which nothing reads again"},
    "video/animations.py": {"av.open": DECODED},
    "video/images.py": {"Image.open": DECODED},
    "video/masks.py": {"Image.open": DECODED},
    "video/opened.py": {"av.open": DECODED},
    "video/write.py": {
        "av.open": "encodes to the path that runtime hands it",
        "x.save": "Pillow writes into the folder that runtime hands it",
        "x.mkdir": "where runtime has made no folder, as for the command that measures codecs",
    },
}
"""File -> what in it reads, writes or hashes past runtime, and why."""


def places(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(what, line) of everything in a file that opens, renames, removes, hashes, parses or unpickles by itself."""
    own = set()  # names that stand for something of kinolab's, such as the module `files`
    pillow = False
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {alias.name for alias in node.names}
            if node.module.split(".")[0] == "kinolab":
                own |= {alias.asname or alias.name for alias in node.names}
                continue
            pillow |= node.module == "PIL"
            full = {node.module, *(f"{node.module}.{name}" for name in names)}
            yield from ((m, node.lineno) for m in MODULES if any(f == m or f.startswith(f"{m}.") for f in full))
            owner = node.module.split(".")[-1]
            yield from ((f"{owner}.{name}", node.lineno) for name in names & OF_MODULES.get(owner, set()))
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
            yield from ((m, node.lineno) for m in MODULES if any(n == m or n.startswith(f"{m}.") for n in names))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if node.attr in OF_MODULES.get(owner, ()):
                yield f"{owner}.{node.attr}", node.lineno
        if isinstance(node, ast.Call):
            yield from _call(node, own - {"av"}, pillow)


def _call(node: ast.Call, own: set[str], pillow: bool) -> Iterator[tuple[str, int]]:
    """What a call does."""
    function = node.func
    if isinstance(function, ast.Name) and function.id in ("open", "__import__", "exec", "eval", "compile"):
        yield f"{function.id}()", node.lineno
    if not isinstance(function, ast.Attribute):
        return
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if owner in own or owner in OF_MODULES:
        return
    one = len(node.args) == 1 and not node.keywords
    if function.attr in METHODS or (function.attr == "replace" and one) or (function.attr == "save" and pillow):
        yield f"{owner if owner in ('av', 'Image') else 'x'}.{function.attr}", node.lineno


def found_in(path: Path) -> dict[str, list[int]]:
    """What a file does past runtime, and on which lines."""
    found: dict[str, list[int]] = {}
    for what, line in places(ast.parse(path.read_text(encoding="utf-8"))):
        found.setdefault(what, []).append(line)
    return found


@pytest.mark.slow
def test_files_are_touched_in_one_room_alone() -> None:
    found = {
        str(p.relative_to(PACKAGE)): found_in(p) for p in sorted(PACKAGE.rglob("*.py")) if RUNTIME not in p.parents
    }
    new = {
        f"kinolab/{file}:{lines[0]}: {what}"
        for file, places in found.items()
        for what, lines in places.items()
        if what not in ALLOWED.get(file, {})
    }
    assert not new, "let kinolab.runtime do it (files, reading, hashes, records, weights); or list it here, and say why"
    gone = {
        f"{file}: {what}" for file, reasons in ALLOWED.items() for what in reasons if what not in found.get(file, {})
    }
    assert not gone, "no longer there: take it off the list"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("open('x')", "open()"),
        ("path.open('wb')", "x.open"),
        ("Path('x').write_text('y')", "x.write_text"),
        ("folder.joinpath('x').read_bytes()", "x.read_bytes"),
        ("aside.replace(path)", "x.replace"),
        ("def f():\n    import os\n    os.replace(a, b)", "os.replace"),
        ("from os import rename as move", "os.rename"),
        ("import hashlib", "hashlib"),
        ("from zlib import crc32", "zlib"),
        ("import json\nread = json.loads", "json.loads"),
        ("import torch\ntorch.load(path)", "torch.load"),
        ("torch.jit.load(path)", "jit.load"),
        ("from torch import save", "torch.save"),
        ("from safetensors.torch import load_file", "safetensors"),
        ("from PIL import Image\npicture.save('x')", "x.save"),
        ("from xml.etree import ElementTree", "xml"),
        ("np.load(path)", "np.load"),
        ("exec(text)", "exec()"),
    ],
)
def test_each_way_is_found(text: str, what: str) -> None:
    assert what in {name for name, _ in places(ast.parse(text))}


@pytest.mark.parametrize(
    "text",
    [
        "from kinolab.runtime import files\nfiles.write_text(path, text)",
        "text.replace('a', 'b')",
        "import json\njson.dumps(value)",
        "checkpoint.save(folder)",
        "replace(config, steps=3)",
    ],
)
def test_what_runtime_does_is_no_place(text: str) -> None:
    assert not list(places(ast.parse(text)))
