"""Commands as forms: the options of each, the words that values make, and that none leads out of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kinolab.cli.engines import take_engine
from kinolab.errors import InputError
from kinolab.studio import commands
from kinolab.studio.project import Project
from kinolab.training.recipe import AutoencoderRecipe, load_recipe


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    found = Project.open(tmp_path_factory.mktemp("project") / "p")
    (found.folder / "near.yaml").write_text(
        "signals: {encoder: {model: models/clip}}\nwork: {engine: 'ray:10.0.0.1'}\n"
    )
    (found.folder / "far.yaml").write_text("signals: {encoder: {model: /models/clip}}\n")
    (found.folder / "list.txt").write_text("/etc/a.mp4\n")
    return found


@pytest.mark.parametrize("command", commands.RUNNABLE)
def test_every_command_is_a_form_whose_options_are_documented(command: str) -> None:
    found = commands.options(command)
    assert found and all(option.help for option in found), [o.name for o in found if not o.help]
    assert not {option.name for option in found} & commands.OURS
    assert commands.has_events(command) and commands.about(command)


def test_the_words_are_those_that_the_command_line_reads(project: Project) -> None:
    values = {"recipe": "toy-vdt", "run": "runs/a", "setting": ["training.steps=3"], "resume": True, "until": 2}
    assert commands.words(project, "train", values) == [
        "train", "--out=runs/a", "--set=training.steps=3", "--resume", "--until=2", "--", "toy-vdt",
    ]  # fmt: skip
    assert commands.words(project, "data check", {"folder": "clips"}) == [
        "data", "check", commands.HERE, "--", "clips"
    ]  # fmt: skip


def test_clips_are_curated_captioned_and_models_measured_inside_the_project(project: Project) -> None:
    values = {"source": "clips", "out": "curated", "override": ["keep.motion.min=0.02"], "dry_run": True}
    assert commands.words(project, "data curate", values | {"page": "curated/page.html", "settings": "near.yaml"}) == [
        "data", "curate", commands.HERE, "--out=curated", "--settings=near.yaml", "--set=keep.motion.min=0.02",
        "--dry-run", "--page=curated/page.html", "--", "clips",
    ]  # fmt: skip
    asked = {"folder": "clips", "model_folder": "models", "prompt": "What is it? /etc"}
    words = commands.words(project, "data caption", asked)
    assert words == ["data", "caption", "--model-folder=models", "--prompt=What is it? /etc", "--", "clips"]
    for command in ("evaluate world", "evaluate physics"):
        words = commands.words(project, command, {"model": "runs/a", "count": 4, "out": "scores/a.json"})
        assert words == [*command.split(), "--model=runs/a", "--count=4", "--out=scores/a.json"]


def test_no_value_is_taken_for_an_option(project: Project) -> None:
    words = commands.words(project, "generate", {"prompt": ["--help", "-o x"], "negative": "--json"})
    assert words == ["generate", "--negative=--json", "--", "--help", "-o x"]


def test_a_setting_leads_out_by_no_link(project: Project, tmp_path: Path) -> None:
    (project.folder / "leak").symlink_to(tmp_path)
    try:
        for text in ("data.path=leak", "data={path: leak}", "data.paths=[clips, leak]"):
            with pytest.raises(InputError, match="a link leads out"):
                commands.words(project, "train", {"recipe": "toy-vdt", "run": "runs/a", "setting": [text]})
        commands.words(project, "train", {"recipe": "toy-vdt", "run": "runs/a", "setting": ["data.path=clips"]})
    finally:
        (project.folder / "leak").unlink()


def test_no_recipe_sends_what_the_page_asks_for_to_a_cluster(project: Project) -> None:
    (project.folder / "cluster.yaml").write_text("extends: toy-odvae\nwork: {engine: 'ray:10.0.0.1:6379'}\n")
    for command, values in (
        ("encode", {"data": "cluster.yaml", "autoencoder": "world", "out": "runs/a"}),
        ("data check", {"recipe": "cluster.yaml", "folder": "clips"}),
    ):
        assert commands.HERE in commands.words(project, command, values)
    far = load_recipe(project.folder / "cluster.yaml")
    assert isinstance(far, AutoencoderRecipe) and far.work is not None and far.work.engine == "ray:10.0.0.1:6379"
    assert take_engine(commands.HERE.partition("=")[2], None, None, far.work) is None, "an option wins"
    assert commands.HERE not in commands.words(project, "generate", {"prompt": ["a ball"]}), "its default says so"


def test_free_words_may_look_like_paths(project: Project) -> None:
    later = {"prompt": ["a ball"], "stream": True, "prompt_at": ["5:a red/blue ball ../.."]}
    assert "--prompt-at=5:a red/blue ball ../.." in commands.words(project, "generate", later)
    words = commands.words(project, "generate", {"prompt": ["/etc/passwd ../.."], "negative": "~/x"})
    assert words[-1] == "/etc/passwd ../.."


@pytest.mark.parametrize(
    ("command", "values", "says"),
    [
        ("verify", {}, "not a command that the studio runs"),
        ("studio", {}, "not a command that the studio runs"),
        ("fetch", {}, "not a command that the studio runs"),
        ("train", {"nothing": 1}, "no option 'nothing'"),
        ("train", {"events": "x"}, "no option 'events'"),
        ("generate", {"prompt": ["a ball"], "engine": "ray:10.0.0.1:6379"}, "no option 'engine'"),
        ("generate", {"count": "2"}, "expected int"),
        ("generate", {"count": True}, "expected int"),
        ("generate", {"count": 2.5}, "expected int"),
        ("generate", {"compile": "yes"}, "expected flag"),
        ("generate", {"prompt": "a ball"}, "expected a list"),
        ("generate", {"prompt": ["a\x1b[2J"]}, "control character"),
        ("encode", {"data": "clips"}, "expected out"),
        ("predict", {"clip": "clips/a.mp4", "resize": "fit"}, "expected one of crop"),
        ("train", {"recipe": "/etc/x.yaml"}, "leads out"),
        ("train", {"recipe": "..\\x.yaml"}, "leads out"),
        ("train", {"recipe": "toy-vdt", "run": "../x"}, "leads out"),
        ("train", {"recipe": "toy-vdt", "run": "~/x"}, "leads out"),
        ("train", {"recipe": "C:\\x"}, "leads out"),
        ("train", {"setting": ["data.path=/etc"]}, "leads out"),
        ("train", {"setting": ["data={kind: folder, path: ../x}"]}, "leads out"),
        ("train", {"setting": ["a.b=[x, {c: /d}]"]}, "leads out"),
        ("train", {"setting": ["data.path=s3://bucket/x"]}, "leads out"),
        ("train", {"setting": ["data={kind: cache, path: 'https://host/x'}"]}, "leads out"),
        ("encode", {"data": "s3:/bucket/x", "out": "cut"}, "leads out"),
        ("train", {"setting": ["nothing"]}, "expected key=value"),
        ("generate", {"model": "/models/x"}, "leads out"),
        ("generate", {"lora": ["/x.safetensors:1"]}, "leads out"),
        ("generate", {"out": "a/../../x.mp4"}, "leads out"),
        ("complete", {"clip": "clips/a.mp4", "mask": "/m.png"}, "leads out"),
        ("pack", {"model": "world", "out": "models/a", "control": ["depth=/x"]}, "leads out"),
        ("data check", {"folder": "clips", "override": ["data={kind: folder, path: ../x}"]}, "leads out"),
        ("encode", {"data": "clips", "out": "runs/a", "override": ["data={path: ../x}"]}, "leads out"),
        ("data curate", {"source": "clips"}, "expected out"),
        ("data curate", {"source": "../x", "out": "curated"}, "leads out"),
        ("data curate", {"source": "s3://bucket/raw", "out": "curated"}, "leads out"),
        ("data curate", {"source": "list.txt", "out": "curated"}, "expected a folder of the project"),
        ("data curate", {"source": "clips", "out": "/tmp/x"}, "leads out"),
        ("data curate", {"source": "clips", "out": "curated", "page": "../x.html"}, "leads out"),
        ("data curate", {"source": "clips", "out": "curated", "engine": "ray:10.0.0.1:6379"}, "no option 'engine'"),
        ("data curate", {"source": "clips", "out": "curated", "settings": "../curate.yaml"}, "leads out"),
        (
            "data curate",
            {"source": "clips", "out": "curated", "settings": "far.yaml"},
            "far.yaml: '/models/clip' leads out",
        ),
        ("data curate", {"source": "clips", "out": "curated", "override": ["signals.encoder.model=/m"]}, "leads out"),
        (
            "data curate",
            {"source": "clips", "out": "curated", "override": ["signals={faces: {model: ../m}}"]},
            "leads out",
        ),
        ("data caption", {"folder": "clips", "command": "rm {clip}"}, "no option 'command'"),
        ("data caption", {"folder": "clips", "server": "http://host/v1", "model": "x"}, "no option 'server'"),
        ("data caption", {"folder": "clips", "key_file": "queue/.key"}, "no option 'key_file'"),
        ("data caption", {"folder": "clips", "model_folder": "/m"}, "leads out"),
        ("data caption", {"folder": "list.txt", "model_folder": "models"}, "expected a folder of the project"),
        ("evaluate world", {"model": "world", "videos": "../x"}, "leads out"),
        ("evaluate physics", {"model": "world", "out": "/x.json"}, "leads out"),
        ("evaluate world", {"engine": "ray:10.0.0.1:6379"}, "no option 'engine'"),
    ],
)
def test_what_breaks_a_rule_is_one_line(project: Project, command: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        commands.words(project, command, values)


def test_a_link_out_of_the_project_is_no_way_out(project: Project, tmp_path: Path) -> None:
    (project.clips / "out").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads out"):
        commands.words(project, "predict", {"clip": "clips/out/a.mp4"})
    (project.clips / "out").unlink()


def test_a_link_inside_a_folder_that_is_read_leads_out_no_more(project: Project, tmp_path: Path) -> None:
    (project.models / "a").mkdir()
    (project.models / "a" / "near").symlink_to(project.models / "a")
    assert commands.words(project, "data check", {"folder": "models"})
    for link, target in (("out.mp4", tmp_path / "far.mp4"), ("out", tmp_path), ("out", project.folder.parent)):
        (project.models / "a" / link).symlink_to(target)
        for command, values in (("data check", {"folder": "models"}), ("data check", {"folder": "."}),
                                ("train", {"recipe": "toy-vdt", "run": "runs/a", "setting": ["data.path=models"]}),
                                ("generate", {"model": "models/a"})):  # fmt: skip
            with pytest.raises(InputError, match=f"models/a/{link}: a link that leads out of the project"):
                commands.words(project, command, values)
        (project.models / "a" / link).unlink()


def test_what_is_copied_goes_into_a_shell_as_it_is(project: Project) -> None:
    text = commands.copied(project, commands.words(project, "generate", {"prompt": ["it's $HOME; rm -rf *"]}))
    import shlex

    assert shlex.split(text.partition(" && ")[2]) == ["kinolab", "generate", "--", "it's $HOME; rm -rf *"]
    assert shlex.split(text.partition(" && ")[0]) == ["cd", str(project.folder)]
