"""Captions and labels are checked before the first step, and a clip's captions are drawn by the sample's own seed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab.conditioning.text import TextEncoder
from kinolab.config import Config, read_yaml
from kinolab.contracts.examples import ClipRecord, Example, Source
from kinolab.data import CacheConfig, CacheSource, FolderConfig, FolderSource, encode_to_cache
from kinolab.data.cache import read_index
from kinolab.denoisers import Conditions, DenoiserSpec
from kinolab.denoisers import build as build_denoiser
from kinolab.errors import InputError
from kinolab.models import load_autoencoder, read_model_config, save_autoencoder
from kinolab.runtime.records import write_record
from kinolab.training.annotated import check_annotations, drawn, unknown_captions, worded
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.recipe import DenoiserRecipe, load_recipe
from kinolab.training.run import train
from tests.data.clip_files import write_numbered
from tests.listening import Listening
from tests.tiny_model import save_tiny_model, tiny_model

pytestmark = pytest.mark.slow  # many short ones, which take long together

CASES = Path(__file__).parents[1] / "data" / "captions"


class Words(TextEncoder):
    """Embeds a caption as its length, and knows words of ASCII letters."""

    length, dim, pooled_dim = 3, 4, 0

    def __init__(self) -> None:
        super().__init__(Config(), 16)

    @property
    def name(self) -> str:
        return "words"

    def files(self) -> list[Path]:
        return []

    def _compute(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((3, 4), float(len(prompt))), torch.zeros(0)

    def _known_tokens(self, prompt: str) -> int:
        return sum(word.isascii() for word in prompt.split())


class Clips(Source):
    """A source of records alone."""

    def __init__(self, *told: tuple[str | None, int | None], classes: tuple[str, ...] = ()) -> None:
        self.classes = classes
        self.records = [
            ClipRecord(f"v{k}.mp4", str(k), (0.0, 1.0), 5, 5.0, caption, label)
            for k, (caption, label) in enumerate(told, 1)
            for _ in range(2)  # two windows of each
        ]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        raise AssertionError("nothing is read before training")

    def record(self, index: int) -> ClipRecord:
        return self.records[index]


def recipe(**values: Any) -> DenoiserRecipe:
    made = load_recipe({
        "kind": "denoiser", "name": "x", "autoencoder": "a", "data": {"kind": "world"},
        "denoiser": {"kind": "latte", "in_channels": 4}, **values,
    })  # fmt: skip
    assert isinstance(made, DenoiserRecipe)
    return made


def labelled(*labels: int | None, **values: Any) -> Clips:
    return Clips(*((None, label) for label in labels), **values)


CLASSES = DenoiserSpec(channels=4, learned_variance=False, num_classes=3)
TEXT = DenoiserSpec(channels=4, learned_variance=False, text_dim=4)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            labelled(1, 2, 3),
            r"num_classes=3: v3\.mp4 has the label 3, expected 0 to 2; set denoiser\.num_classes=4, or cou",
        ),
        (labelled(0, 1, 7), r"v3\.mp4 has the label 7, expected 0 to 2; set denoiser\.num_classes=8$"),
        (labelled(-1, 0), r"v1\.mp4 has the label -1, expected 0 to 2"),
        (labelled(0, None, 2, None), r"2 of 4 clips have no label, and the denoiser has 3 classes \(first: v2\.mp4\)"),
        (labelled(None), r"1 of 1 clips have no label"),
        (labelled(0, 3, classes=("a", "b", "c", "d")), r"has the label 3 \(a, b, c, d\), expected 0 to 2"),
    ],
)
def test_labels_are_those_of_the_denoiser(source: Clips, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_annotations(recipe(), CLASSES, (source, source), None)
    held = check_annotations(recipe(missing_labels="unconditional"), CLASSES, (labelled(0, 1, 2, None),), None)
    assert held.notes[0].startswith("1 of 4 clips have no label, and the denoiser has 3 classes (first: v4.mp4)")
    assert held.notes[0].endswith("; trained without, as missing_labels says")


def test_labels_of_held_out_clips_are_checked_too() -> None:
    with pytest.raises(InputError, match="has the label 3"):
        check_annotations(recipe(), CLASSES, (labelled(0), labelled(0, 3)), None)
    assert check_annotations(recipe(), CLASSES, (labelled(0, 1), labelled(0, 1, 2)), None).notes == ()


def test_a_single_class_is_told_of_clips_without_a_label() -> None:
    """As the released VDT is."""
    single = replace(CLASSES, num_classes=1)
    assert check_annotations(recipe(), single, (labelled(None, 0),), None).notes == ()
    with pytest.raises(InputError, match="has the label 1"):
        check_annotations(recipe(), single, (labelled(0, 1),), None)


def test_a_text_model_wants_captions() -> None:
    some = Clips(("a", None), (None, None), ("  ", None))
    with pytest.raises(
        InputError, match=r"2 of 3 clips have no caption, and the model takes text \(first: v2\.mp4\); .*mis"
    ):
        check_annotations(recipe(), TEXT, (some, some), Words())
    stated = check_annotations(recipe(missing_captions="unconditional"), TEXT, (some, some), Words())
    assert stated.notes[0].startswith("2 of 3 clips have no caption")
    assert check_annotations(recipe(), TEXT, (Clips(("a", None)),), Words()).notes == ()
    assert check_annotations(recipe(), CLASSES, (labelled(0),), None).notes == ()


def test_a_text_encoder_that_nothing_listens_to_is_an_error() -> None:
    with pytest.raises(
        InputError, match=r"words reads captions, and the denoiser takes none; set denoiser\.text_dim=4"
    ):
        check_annotations(recipe(), CLASSES, (labelled(0),), Words())


@pytest.mark.parametrize(
    ("samples", "spec", "said"),
    [
        ({"labels": [0, 3]}, CLASSES, r"samples\.labels: 3 is none of the denoiser's labels, 0 to 2"),
        ({"labels": [-1]}, CLASSES, "-1 is none of"),
        ({"labels": [0]}, replace(CLASSES, num_classes=0), r"samples\.labels: the denoiser takes no label"),
        ({"prompts": ["a"]}, CLASSES, r"samples\.prompts: the model takes no prompt"),
    ],
)
def test_samples_ask_for_what_the_model_takes(samples: dict[str, Any], spec: DenoiserSpec, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_annotations(recipe(samples=samples), spec, (labelled(0),), None)


def test_classes_are_called_as_the_data_calls_them() -> None:
    def names(*given: str, classes: tuple[str, ...], count: int = 3) -> Any:
        spec = replace(CLASSES, num_classes=count)
        return check_annotations(recipe(class_names=given), spec, (labelled(0, classes=classes),), None)

    assert names(classes=("cat", "dog")).class_names == ("cat", "dog")
    assert names(classes=("0", "1", "2")).class_names == ()
    assert names("a", "b", classes=("0", "1", "2")).class_names == ("a", "b")
    assert names("cat", "dog", classes=("cat", "dog")).notes == ()
    renamed = names("Katze", "Hund", classes=("cat", "dog"))
    assert renamed.class_names == ("Katze", "Hund") and "stand for the data's classes cat, dog" in renamed.notes[0]
    with pytest.raises(
        InputError, match="'dog' is number 0 there and 1 in the data; name the classes in the data's order"
    ):
        names("dog", "cat", classes=("cat", "dog"))
    with pytest.raises(InputError, match="'a' is there twice"):
        names("a", "a", classes=("cat", "dog"))
    with pytest.raises(InputError, match=r"4 names for denoiser\.num_classes=3"):
        names("a", "b", "c", "d", classes=())
    with pytest.raises(InputError, match=r"the data has 4 classes \(a, b, c, d\); set denoiser\.num_classes=4"):
        check_annotations(recipe(), CLASSES, (Clips(classes=("a", "b", "c", "d")),), None)


def test_first_weights_of_classes_in_another_order_are_said(tmp_path: Path) -> None:
    start = {"initial": {"path": str(save_tiny_model(tmp_path / "model", text=False))}}  # fall, throw, float
    other = check_annotations(recipe(**start), CLASSES, (labelled(0, classes=("fall", "float", "throw")),), None)
    assert "its class 'float' is number 2, here it is 1; what was learned of classes begins anew" in other.notes[0]
    same = check_annotations(recipe(**start), CLASSES, (labelled(0, classes=("fall", "throw")),), None)
    assert same.notes == () and same.class_names == ("fall", "throw")
    (tmp_path / "weights.pt").write_bytes(b"")
    start = {"initial": {"path": str(tmp_path / "weights.pt")}}
    assert check_annotations(recipe(**start), CLASSES, (labelled(0, classes=("b", "a")),), None).notes == ()


def test_captions_that_the_encoder_does_not_know_are_said() -> None:
    clips = Clips(("a cat", None), ("\U0001f408 \U0001f408", None), ("Кошка", None), ("un café", None))
    [note] = check_annotations(recipe(samples={"prompts": ["猫"]}), TEXT, (clips,), Words()).notes
    assert note == "3 of 5 captions hold no token that words knows, so they can't be told apart (first: '猫')"
    assert unknown_captions(Words(), ["a", "b c"]) == []
    with pytest.warns(UserWarning, match="the text encoder words knows no token of the prompt '猫', and can't tell"):
        Words().warn_unknown(["a cat", "猫", "", " "])


def example(caption: str | None, *alternatives: str) -> Example:
    return Example(torch.zeros(3, 1, 2, 2), 5.0, caption, None, "v", (0.0, 1.0), alternatives)


def test_one_of_a_clips_captions_is_drawn_by_the_places_own_seed() -> None:
    clips = [example("a", "b", "c"), example("x"), example(None)] * 2
    again = [e.caption for e in worded(clips, 7, 3, range(6))]
    assert again == [e.caption for e in worded(clips, 7, 3, range(6))]
    parts = [worded(clips[k : k + 2], 7, 3, range(k, k + 2)) for k in (0, 2, 4)]
    assert again == [e.caption for part in parts for e in part], "not the micro-batch, but the place decides"
    assert again[1:3] == ["x", None] and all(e.alternatives == () for e in worded(clips, 7, 3, range(6)))
    seen = Counter(worded(clips[:1], 7, step, [0])[0].caption for step in range(600))
    assert set(seen) == {"a", "b", "c"} and min(seen.values()) > 150
    source = torch.Generator().manual_seed(0)
    before = source.get_state()
    assert drawn(clips[1], source) is clips[1] and torch.equal(source.get_state(), before), "nothing to draw"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, an autoencoder, and a cache of them with two captions for one clip and a label each."""
    root = tmp_path_factory.mktemp("annotated")
    save_autoencoder(tiny_model().autoencoder, root / "autoencoder")
    for k in range(1, 4):
        write_numbered(root / "clips" / f"v{k}.mkv", 5, mark=k, width=32, height=32)
    (root / "clips" / "captions.jsonl").write_text(
        '{"file": "v1", "caption": ["one", "eleven", "number one"], "label": "b"}\n'
        '{"file": "v2", "caption": "two two", "label": "a"}\n{"file": "v3", "caption": "third of them", "label": "c"}\n'
    )
    encode_to_cache(folder(root), load_autoencoder(root / "autoencoder").eval(), root / "cache", dtype="float32")
    return root


def folder(root: Path, **values: Any) -> FolderSource:
    shape = {"frames": 5, "size": 32, "split": "all", "index": "none"}
    return FolderSource(FolderConfig.model_validate({"path": root / "clips", **shape, **values}))


def cached(root: Path, **values: Any) -> dict[str, Any]:
    """A tiny Latte with labels on the cache."""
    return {
        "kind": "denoiser", "name": "tiny", "autoencoder": str(root / "autoencoder"),
        "data": {"kind": "cache", "path": str(root / "cache"), "heldout_fraction": 0.3},
        "denoiser": {"kind": "latte", "hidden_size": 16, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 8,
                     "num_frames": 2, "patch_size": 4, "num_classes": 3},
        "heldout_clips": 1, "samples": {"labels": [2], "sampler": {"steps": 1}},
        "training": {"steps": 1, "batch_size": 2, "precision": "float32", "tensorboard": False}, **values,
    }  # fmt: skip


def test_a_cache_keeps_all_captions_and_one_is_read_as_it_always_was(place: Path) -> None:
    source = CacheSource(CacheConfig(path=place / "cache", split="all"))
    assert source.captions == ("eleven", "number one", "one", "third of them", "two two")
    assert source[0].caption == "one" and source[0].alternatives == ("eleven", "number one")
    assert source.record(1).alternatives == () and source.classes == ("a", "b", "c")
    lines = (place / "cache" / "index.jsonl").read_text().split("\n")
    assert '"alternatives": ["eleven", "number one"]' in lines[0] and lines[0].count("alternatives") == 1
    [entry] = read_index(place / "cache")
    assert [item.record.label for item in entry.items] == [1, 0, 2]


class Lengths(torch.nn.Module):
    """Keeps the lengths of the captions that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.told: list[list[float]] = []
        self.null: list[list[bool] | None] = []

    def forward(self, z: torch.Tensor, t: torch.Tensor, conditions: Conditions, options: object = None) -> torch.Tensor:
        assert conditions.text is not None
        self.told.append(conditions.text[:, 0, 0].tolist())
        self.null.append(None if conditions.null is None else conditions.null.tolist())
        return z * self.weight


def listening_job(place: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> tuple[DenoiserJob, Lengths]:
    monkeypatch.setattr("kinolab.training.assembly.build_text_encoder", lambda config: Words())
    text = cached(place, condition_dropout=0.0, samples={}, **values)
    text["denoiser"] = text["denoiser"] | {"num_classes": 0, "text_dim": 4}
    made = load_recipe(text)
    assert isinstance(made, DenoiserRecipe)
    source = CacheSource(CacheConfig(path=place / "cache", split="all"))
    source.config = CacheConfig(path=place / "embeddings", split="all")
    job = DenoiserJob(made, load_autoencoder(place / "autoencoder"), build_denoiser(made.denoiser), source, source)
    listener = Lengths()
    job.parts["denoiser"].wrapped = listener
    return job, listener


def test_every_step_of_training_draws_one_of_a_clips_captions(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinolab.runtime.ranks import Ranks

    job, listener = listening_job(place, monkeypatch, training={"steps": 40, "batch_size": 3, "precision": "float32"})
    batches = list(zip(job.batches(0, Ranks()), range(40), strict=True))
    for [micro], step in batches:
        job.loss("denoiser", micro, step)
    lengths = Counter(int(length) for batch in listener.told for length in batch)
    assert set(lengths) == {3, 6, 10, 7, 13} and lengths[7] == lengths[13] == 40
    assert lengths[3] + lengths[6] + lengths[10] == 40 and min(lengths.values()) >= 5
    first = listener.told[:]
    listener.told.clear()
    for [micro], step in batches:
        job.loss("denoiser", micro, step)
    assert listener.told == first, "the same step tells the same"


def test_clips_that_nothing_is_known_of_are_trained_without_a_condition(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kinolab.training.batches import MicroBatch

    job, listener = listening_job(place, monkeypatch)
    examples = [job.source[0], replace(job.source[1], caption=None), job.source[2]]
    job.loss("denoiser", MicroBatch([0, 1, 2], examples), 0)
    assert listener.null == [[False, True, False]], "the null condition, and not the embedding of an empty text"


def test_a_run_stops_before_it_begins(place: Path, tmp_path: Path) -> None:
    """Nothing is written; the same with the labels of the case on a folder of clips."""
    three = cached(place, samples={})
    three["denoiser"] = three["denoiser"] | {"num_classes": 2}
    with pytest.raises(InputError, match=r"v3\.mkv has the label 2 \(a, b, c\), expected 0 to 1"):
        run(tmp_path, three)
    clips = tmp_path / "clips"
    shutil.copytree(place / "clips", clips)
    (clips / "captions.jsonl").unlink()
    (clips / "labels.csv").write_text((CASES / "labels-one-based.csv").read_text().replace(".mp4", ".mkv"))
    data = {"kind": "folder", "path": str(clips), "frames": 5, "size": 32, "index": "none", "heldout_fraction": 0.3}
    with pytest.raises(
        InputError, match=r"num_classes=3: v3\.mkv has the label 3, expected 0 to 2; .*count the labels from"
    ):
        run(tmp_path, cached(place, data=data))
    assert not (tmp_path / "run").exists()


def run(root: Path, values: dict[str, Any], **options: Any) -> list[str]:
    import yaml

    heard = Listening()
    (root / "recipe.yaml").write_text(yaml.safe_dump(values))
    train(root / "recipe.yaml", root / "run", events=heard, **options)
    return heard.notes


def test_the_classes_names_come_from_the_data_and_hold_for_the_run(place: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(place / "cache", cache)
    values = cached(place, data={"kind": "cache", "path": str(cache), "heldout_fraction": 0.3})
    run(tmp_path, values)
    assert read_model_config(tmp_path / "run" / "model").class_names == ("a", "b", "c")
    assert read_yaml(tmp_path / "run" / "recipe.yaml")["class_names"] == ["a", "b", "c"]
    values["training"]["steps"] = 2
    said = run(tmp_path, values, resume=True)
    assert [line for line in said if line.startswith("changed")] == [
        "changed since the last start: training.steps: 1 -> 2"
    ]
    header = json.loads((cache / "cache.json").read_text())
    write_record(cache / "cache.json", header | {"classes": ["b", "a", "c"]})
    values["training"]["steps"] = 3
    with pytest.raises(InputError, match="class_names: 'a' is number 0 there and 1 in the data"):
        run(tmp_path, values, resume=True)
