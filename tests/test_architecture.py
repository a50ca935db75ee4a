"""The house rules that a machine can check: which way imports point, and that nothing unwanted is asked for."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kinolab"

LEVELS = [
    {"errors"},
    {"runtime"},
    {"config"},
    {"contracts"},
    {"tables"},
    {"layers", "video", "engines"},
    {"toyworld"},
    {"autoencoders", "denoisers", "diffusion", "tasks", "data", "metrics"},
    {"conditioning", "methods"},
    {"models", "checkpoints"},
    {"training"},
    {"generation"},
    {"evaluation", "verify", "status"},
    {"planning", "reports"},
    {"comparison"},
    {"cli", "__main__"},
    {"studio"},
]
"""A file may import what stands in an earlier level, and its own folder. Within a level only the pairs below."""
WITHIN = {("checkpoints", "models"), ("__main__", "cli")}
ROOM = {name: level for level, names in enumerate(LEVELS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = ["kinolab", "tests", "benchmarks", "examples"]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def tree(path: Path) -> ast.Module:
    """What a file says; many tests look at the same ones."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """The rooms of kinolab that a file imports, those for type checkers included."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == "kinolab":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("kinolab."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("kinolab.")}
    return {f for f in found if f in ROOM}


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in FILES if p.parent != PACKAGE or p.stem != "__init__"],
                         ids=lambda p: str(p.relative_to(PACKAGE)))  # fmt: skip
def test_imports_point_one_way(path: Path) -> None:
    here = room(path)
    assert here in ROOM, f"{here}: a new room; give it a level in this test and a line in the README's tree"
    if here == "tables":  # which knows where every component is, and imports none of them (see the next test)
        return
    for other in imports(path) - {here}:
        assert ROOM[other] < ROOM[here] or (here, other) in WITHIN, f"{path}: {here} imports {other}"


def test_the_tables_import_nothing_before_it_is_asked_for() -> None:
    code = "import kinolab.tables, sys; print(sorted(n for n in sys.modules if n.startswith('kinolab.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = {name.split(".")[1] for name in ast.literal_eval(done.stdout)} & set(ROOM)
    assert rooms == {"tables", *(name for name in ROOM if ROOM[name] < ROOM["tables"])} & rooms and "torch" not in rooms


def unknown_modules(path: Path) -> list[str]:
    """The modules of the project that a file imports, inside functions too, and that are not there."""
    missing = []
    for node in ast.walk(tree(path)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
            start = ROOT / node.module.replace(".", "/") / "__init__.py"
            if start.is_file():
                given = start.read_text(encoding="utf-8")
                names += [f"{node.module}.{a.name}" for a in node.names if not re.search(rf"\b{a.name}\b", given)]
        for name in names:
            there = ROOT / name.replace(".", "/")
            if name.split(".")[0] in FOLDERS and not (there.is_dir() or there.with_suffix(".py").is_file()):
                missing.append(name)
    return missing


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_find_what_they_name_inside_functions_too(folder: str) -> None:
    missing = {str(p.relative_to(ROOT)): unknown_modules(p) for p in sorted((ROOT / folder).rglob("*.py"))}
    assert missing and not {p: names for p, names in missing.items() if names}


def test_an_import_of_a_module_that_is_gone_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from kinolab.errors import InputError\n    from kinolab.gone import x\n"
                    "from kinolab.data import missing\nimport kinolab.lost\nimport numpy.lost\n")  # fmt: skip
    assert sorted(unknown_modules(path)) == ["kinolab.data.missing", "kinolab.gone", "kinolab.lost"]


def test_only_the_video_folder_touches_codecs() -> None:
    users = {p for p in FILES if re.search(r"^\s*(import|from) (av|torchcodec)\b", p.read_text(encoding="utf-8"), re.M)}
    assert users and {p.parent for p in users} == {PACKAGE / "video"}


@pytest.mark.parametrize("folder", ["autoencoders", "denoisers"])
def test_published_systems_do_not_import_each_other(folder: str) -> None:
    shared = {"__init__", "base", "inflate", "image_init", "one_shot"}
    # DP-VAE is an image autoencoder with a video branch, SVD's an image encoder with a decoder over time.
    made_of = {"dpvae": {"image", "taesd"}, "temporal_decoder": {"image"}}
    made_of |= {
        name: {"unet"}
        for name in ("modelscope", "animatediff", "video_ldm", "svd", "tuneavideo", "makeavideo", "imagen_video")
    }  # with layers over time
    made_of |= {"controlnet": {"unet"}, "controlnet_mmdit": {"mmdit"}, "controlnet_dit": {"dit"}}
    systems = {p.stem for p in (PACKAGE / folder).glob("*.py")} - shared
    for path in (PACKAGE / folder).glob("*.py"):
        if path.stem in systems:
            text = path.read_text(encoding="utf-8")
            found = set(re.findall(rf"kinolab\.{folder}\.(\w+)", text)) & systems
            assert not found - {path.stem} - made_of.get(path.stem, set()), f"{path.name} imports {found}"


def test_no_environment_variables_outside_torchruns() -> None:
    users = {str(p.relative_to(PACKAGE)) for p in FILES if "os.environ" in p.read_text(encoding="utf-8")}
    # processes.py hands the environment on to what it begins, less where Python would import from a folder of data.
    assert users <= {"runtime/ranks.py", "runtime/processes.py"}


@pytest.mark.parametrize("name", ["torchvision", "lpips", "torch-fidelity", "torchaudio"])
def test_no_package_that_breaks_others_is_asked_for(name: str) -> None:
    """What pyproject.toml asks for; what else stands in somebody's environment is theirs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    wanted += (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert "torch" in {normalized(line) for line in wanted}
    assert name not in {normalized(line) for line in wanted}
    assert not [
        p for p in FILES if re.search(rf"^\s*(import|from) {name.replace('-', '_')}\b", p.read_text("utf-8"), re.M)
    ]


def normalized(requirement: str) -> str:
    """The name in a requirement, as package indexes write it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]).lower()


@pytest.mark.slow
def test_the_commands_start_without_torch() -> None:
    """`kinolab --help` and a usage error must not take seconds."""
    code = "import sys; import kinolab.cli as c; c.build(list(c.COMMANDS)); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.slow
def test_text_is_cut_into_lines_in_one_place() -> None:
    """str.splitlines ends a line at U+0085, U+2028 and more, which captions and JSON may hold; readlines hides that a
    file was opened in some encoding."""
    users = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in ("splitlines", "readlines")
    }
    assert not users, "use kinolab.runtime.text.split_lines"


def test_no_text_is_read_with_replacement_characters() -> None:
    """What can't be decoded is an error with its place, never U+FFFD in a caption."""
    lenient = re.compile(r"""(read_text|open|decode)\([^)\n]*\berrors=["']replace["']""")
    assert not [str(p) for p in FILES if lenient.search(p.read_text(encoding="utf-8"))]


SEARCHED = re.compile(r"\.(?:glob|rglob|iterdir)\(|\bos\.(?:walk|scandir|listdir)\(")
OWN_FOLDERS = {
    # what Kinolab itself wrote, or ships
    "models/folder.py", "models/packing.py", "training/recipe.py", "training/state.py", "runtime/machine.py",
    "runtime/files.py", "runtime/kept.py", "runtime/leftovers.py", "runtime/remote.py", "runtime/sets.py",
    "runtime/stores.py",
    # the rule, and those that ask it of each name, or take names of their own alone
    "runtime/paths.py", "video/names.py", "data/scan.py", "data/texts.py", "data/shrink.py", "data/annotations.py",
    "data/cache_plan.py", "evaluation/protocol.py", "verify.py", "autoencoders/diffusers_adapter.py",
    "studio/project.py",  # links that lead out, whatever their names
}  # fmt: skip


def test_folders_of_a_person_are_searched_by_one_rule() -> None:
    """What file managers leave (`._x`, `Thumbs.db`) is no file of a person's: kinolab.runtime.paths.visible knows."""
    users = {str(p.relative_to(PACKAGE)) for p in FILES if SEARCHED.search(p.read_text(encoding="utf-8"))}
    assert users == OWN_FOLDERS, "use kinolab.runtime.paths.visible"
