"""Protocols: what their hash depends on, and what a person is told whose protocol can't be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab.config import to_yaml
from kinolab.data import FolderConfig, WorldSourceConfig
from kinolab.errors import InputError
from kinolab.evaluation.protocol import (
    Protocol,
    check_protocol,
    load_protocol,
    settings_of,
    shipped_protocols,
    source_config,
)
from kinolab.evaluation.tasks import TasksProtocol
from kinolab.evaluation.toy_protocols import (
    ControlProtocol,
    EditsProtocol,
    PhysicsProtocol,
    ToyProtocol,
    WorldProtocol,
    ZeroProtocol,
    load_toy_protocol,
)
from kinolab.metrics import METRICS, better_of
from kinolab.metrics.extractors import ExtractorConfig
from kinolab.metrics.extractors.encoder import VideoEncoder, VideoEncoderConfig, save_encoder
from kinolab.metrics.perceptual import LpipsConfig

BASE = Protocol(name="base", kind="generation", metrics=("fvd", "temporal_flickering"), video=ExtractorConfig())


def weights(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def encoder(folder: Path, **changes: Any) -> Path:
    """A tiny encoder; the same weights for every config that does not change their shapes."""
    torch.manual_seed(0)
    save_encoder(VideoEncoder(VideoEncoderConfig(widths=(8,), embedding=4, size=16, **changes)), folder)
    return folder


def other_values(tmp_path: Path) -> dict[str, Any]:
    """Another value for every field of `BASE`."""
    file = weights(tmp_path / "weights", b"1")
    return {
        "name": "other", "description": "other", "kind": "reconstruction", "metrics": ("fvd", "kvd"), "frames": 8,
        "interval": 2, "fps": 8.0, "size": 32, "resize": "pad", "resize_filter": None, "windows": "first",
        "split": "heldout", "heldout_fraction": 0.1, "samples": 100, "minimum": 20, "seed": 1,
        "video": ExtractorConfig(name="inception", path=Path(__file__)), "image": ExtractorConfig(),
        "classifier": ExtractorConfig(name="i3d", path=file), "text": file, "perceptual": LpipsConfig(features=file),
        "latents": "sample", "chunk": 4, "speed_frames": 9, "settings": {"temporal_flickering": {"static_only": True}},
    }  # fmt: skip


@pytest.mark.parametrize("field", list(Protocol.model_fields))
def test_every_field_but_what_is_for_people_decides_the_hash(field: str, tmp_path: Path) -> None:
    others = other_values(tmp_path)
    assert set(others) == set(Protocol.model_fields), "a new field: give it another value here"
    changed = BASE.model_copy(update={field: others[field]})
    assert (changed.hash() == BASE.hash()) == (field in ("name", "description"))


def test_the_hash_is_of_weights_and_not_of_their_place(tmp_path: Path) -> None:
    def hashed(content: bytes, place: str, **settings: Any) -> str:
        file = weights(tmp_path / place / "w.pt", content)
        return BASE.model_copy(update={"video": ExtractorConfig(name="i3d", path=file, **settings)}).hash()

    assert hashed(b"1", "a") == hashed(b"1", "b") == hashed(b"1", "c", sha256="0" * 64)
    assert hashed(b"1", "a") != hashed(b"2", "a")
    assert hashed(b"1", "a") != hashed(b"1", "a", output="features")


def test_the_hash_sees_both_files_of_a_perceptual_distance_and_every_file_of_a_text_model(tmp_path: Path) -> None:
    features, heads = weights(tmp_path / "f", b"1"), weights(tmp_path / "h", b"2")
    plain = BASE.model_copy(update={"perceptual": LpipsConfig(features=features)}).hash()
    both = BASE.model_copy(update={"perceptual": LpipsConfig(features=features, heads=heads)})
    before = both.hash()
    weights(heads, b"3")
    assert len({plain, before, both.hash()}) == 3
    weights(tmp_path / "text" / "sub" / "model", b"1")
    text = BASE.model_copy(update={"text": tmp_path / "text"})
    before = text.hash()
    weights(tmp_path / "text" / "tokens", b"1")
    assert text.hash() != before


def test_an_encoder_counts_with_its_config_and_the_same_from_a_run_folder(tmp_path: Path) -> None:
    def hashed(folder: Path) -> str:
        return BASE.model_copy(update={"video": ExtractorConfig(path=folder)}).hash()

    plain = hashed(encoder(tmp_path / "a"))
    assert plain == hashed(encoder(tmp_path / "b"))
    encoder(tmp_path / "run" / "model")
    assert plain == hashed(tmp_path / "run")
    assert plain != hashed(encoder(tmp_path / "c", groups=4)), "other groups give other features of the same weights"
    with pytest.raises(InputError, match=r"nowhere/encoder\.safetensors: no such file; the protocol names it"):
        hashed(tmp_path / "nowhere")


def test_a_protocol_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(to_yaml(BASE))
    assert load_protocol(path) == BASE and load_protocol(path).hash() == BASE.hash()


TOY: dict[str, type[ToyProtocol]] = {
    "toy-world": WorldProtocol, "toy-physics": PhysicsProtocol, "toy-tasks": TasksProtocol, "toy-zero": ZeroProtocol,
    "toy-control": ControlProtocol, "toy-edits": EditsProtocol,
}  # fmt: skip


@pytest.mark.parametrize("name", list(shipped_protocols()))
def test_every_shipped_protocol_loads_or_names_what_it_needs(name: str, tmp_path: Path) -> None:
    file = weights(tmp_path / "w.pt", b"1")
    overrides = {
        "latte": [f"video.path={file}"],
        "stylegan-v": [f"video.path={file}"],
        "vdt": [f"video.path={file}"],
        "odvae": [f"perceptual.features={file}", f"perceptual.heads={file}"],
    }.get(name, [])
    if name in TOY:
        toy = load_toy_protocol(TOY[name], name)
        assert (
            toy.name == name
            and toy.description
            and toy == TOY[name](name=name, description=toy.description, count=toy.count)
        )
        return
    protocol = load_protocol(name, overrides)
    assert protocol.name == name and protocol.description and len(protocol.hash()) == 64
    if overrides:
        with pytest.raises(InputError, match=f"^{name}: (fvd|lpips) needs .*-s {overrides[0].split('=')[0]}=FILE"):
            load_protocol(name)


def test_published_protocols_are_what_the_papers_say(tmp_path: Path) -> None:
    file = [f"video.path={weights(tmp_path / 'w.pt', b'1')}"]
    latte, stylegan, vdt = (load_protocol(name, file) for name in ("latte", "stylegan-v", "vdt"))
    assert (latte.frames, latte.size, latte.samples, latte.interval) == (16, 256, 2048, 3)
    assert (stylegan.frames, stylegan.size, stylegan.samples, stylegan.interval) == (16, 256, 2048, 1)
    assert (vdt.frames, vdt.size) == (16, 64)
    assert {p.minimum for p in (latte, stylegan, vdt)} == {2048}, "fewer samples are another protocol"
    odvae = load_protocol("odvae", [f"perceptual.features={tmp_path / 'w.pt'}"])
    assert (odvae.frames, odvae.size, odvae.speed_frames, odvae.metrics) == (25, 256, 81, ("psnr", "ssim", "lpips"))
    assert len({p.hash() for p in (latte, stylegan, vdt, odvae)}) == 4


def test_a_toy_protocol_is_read_changed_and_refused(tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text("{name: few, kind: physics, given: [3], scenarios: [fall]}")
    few = load_toy_protocol(PhysicsProtocol, tmp_path / "few.yaml", ["count=2"])
    assert (few.name, few.given, few.scenarios, few.count, few.first) == ("few", (3,), ("fall",), 2, 0)
    for name, changes, message in (
        ("toy-world", (), r"toy-world: measures world, expected a protocol of physics \(toy-physics\)"),
        ("toy-physics", ("scenarios=[explode]",), "scenarios explode: expected some of fall, throw"),
        ("toy-physics", ("samples=3",), "samples"),
        ("toy-physic", (), "no such protocol; expected a YAML file or one of latte"),
    ):
        with pytest.raises(InputError, match=message):
            load_toy_protocol(PhysicsProtocol, name, changes)
    with pytest.raises(InputError, match="tasks juggle: expected some of predict from 8 frames"):
        load_toy_protocol(TasksProtocol, "toy-tasks", ["tasks=[juggle]"])


def test_overrides_change_the_hash() -> None:
    plain = load_protocol("toy-generation")
    assert load_protocol("toy-generation", []).hash() == plain.hash()
    assert load_protocol("toy-generation", ["samples=300"]).hash() != plain.hash()
    assert load_protocol("toy-generation", ["samples=100"]).hash() != plain.hash()
    same = load_protocol("toy-generation", ["video.output=features", "size=[64, 64]"])
    assert same.hash() == plain.hash(), "what is meant anyway may be said"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["metrics=[fdv]"], "unknown metric 'fdv'; generation has fvd, fvd_infinite"),
        (["metrics=[psnr]"], "unknown metric 'psnr'; generation has"),
        (["metrics=[]"], "metrics: .* at least 1 item"),
        (["metrics=fvd"], r"metrics: .* \(got 'fvd'\)"),
        (["sampels=4"], "unknown key 'sampels', did you mean 'samples'"),
        (["samples"], "override 'samples': expected key=value"),
        (["samples=few"], r"samples: .* \(got 'few'\)"),
        (["minimum=1"], "minimum: .* greater than or equal to 2"),
        (["resize_filter=lanczos"], "resize_filter: Input should be 'bicubic'"),
        (["video=null"], "fvd needs `video`; name its network .-s video.name=encoder"),
        (["image=null"], "fid needs `image`"),
        (["metrics=[inception_score]"], "inception_score needs `classifier`"),
        (["metrics=[prompt_agreement]"], "prompt_agreement needs `text`; name its network .-s text=FOLDER"),
        (["video.name=i3d"], "fvd needs the weights of i3d, .*-s video.path=FILE"),
    ],
)
def test_a_protocol_that_cannot_be_measured_is_one_line(changes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_protocol("toy-generation", changes)
    assert "\n" not in str(caught.value)


def test_networks_that_no_metric_asks_for_may_be_left_out() -> None:
    protocol = load_protocol("toy-generation", ["metrics=[temporal_flickering]", "video=null", "image=null"])
    assert protocol.video is None


def test_a_wrong_name_or_kind_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="late: no such protocol; expected a YAML file or one of latte, odvae"):
        load_protocol("late")
    with pytest.raises(InputError, match=r"p\.yaml: no such protocol"):
        load_protocol(tmp_path / "p.yaml")
    wanted = (
        r"odvae: measures reconstruction, expected a protocol of generation \(latte, stylegan-v, toy-generation, vdt"
    )
    with pytest.raises(InputError, match=wanted):  # and not what its lpips lacks
        load_protocol("odvae", kind="generation")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(InputError, match="expected a mapping"):
        load_protocol(tmp_path / "list.yaml")


def test_every_metric_is_known_to_the_tables() -> None:
    neither = {name for name in METRICS if better_of(name) is None}
    assert neither == {"dynamic_degree"}, "more motion is neither good nor bad"
    for kind in ("reconstruction", "generation"):
        for metric in METRICS.names(kind):
            check_protocol(
                Protocol.model_validate({
                    "name": "x", "kind": kind, "metrics": [metric], "video": {}, "image": {}, "text": "t",
                    "classifier": {"name": "i3d", "path": "w"}, "perceptual": {"features": "f"},
                })
            )  # fmt: skip


def test_the_protocol_decides_how_a_folder_is_cut(tmp_path: Path) -> None:
    protocol = Protocol(
        name="p", kind="generation", metrics=("fvd",), frames=5, interval=2, fps=8.0, size=(32, 48), resize="pad",
        windows="random", split="heldout", heldout_fraction=0.3,
    )  # fmt: skip
    own = FolderConfig(path=tmp_path, captions="none", in_memory=True, frames=99, stride=3)
    config = source_config(own, protocol)
    assert isinstance(config, FolderConfig)
    assert (config.frames, config.interval, config.fps, config.size) == (5, 2, 8.0, (32, 48))
    assert (config.resize, config.split, config.heldout_fraction, config.stride) == ("pad", "heldout", 0.3, 1)
    assert (config.captions, config.in_memory) == ("none", True), "what the protocol says nothing of stays"
    whole = source_config(str(tmp_path), protocol.model_copy(update={"split": "all", "windows": "all"}))
    assert isinstance(whole, FolderConfig) and (whole.heldout_fraction, whole.stride) == (0.0, None)


def test_the_protocol_decides_what_the_world_shows(tmp_path: Path) -> None:
    protocol = Protocol(name="p", kind="generation", metrics=("fvd",), frames=5, size=32, samples=7, interval=2)
    config = source_config("world", protocol)
    assert isinstance(config, WorldSourceConfig)
    assert (config.world.frames, config.world.size, config.heldout_count, config.split) == (5, 32, 7, "heldout")
    assert config.world.fps == WorldSourceConfig().world.fps / 2, "every second frame is the world at half the rate"
    train = source_config("world", protocol.model_copy(update={"split": "train", "fps": 10.0, "interval": 1}))
    assert isinstance(train, WorldSourceConfig) and (train.split, train.world.fps) == ("train", 10.0)
    assert isinstance(source_config(Path("world"), protocol), FolderConfig), "a path is a folder, whatever its name"


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        ("world", {"size": (32, 48)}, r"the toy world is square, got a protocol of size \(32, 48\)"),
        ("world", {"size": 16}, r"the toy world under p: size: .* \(got 16\)"),
        ("world", {"fps": 1000.0}, "the toy world under p: fps:"),
        ("clips", {"size": 0}, r"clips under p: size: expected sides of at least one pixel \(got 0\)"),
        ("clips", {"fps": 5000.0}, "clips under p: fps:"),
    ],
)
def test_what_a_source_cannot_follow_is_refused(data: str, changes: dict[str, Any], message: str) -> None:
    protocol = Protocol(name="p", kind="generation", metrics=("fvd",))
    with pytest.raises(InputError, match=message):
        source_config(data, protocol.model_copy(update=changes))


def test_settings_of_a_metric_are_its_own_and_decide_the_hash() -> None:
    plain = load_protocol("toy-reconstruction", ["metrics=[psnr,seam]"])
    usual = load_protocol("toy-reconstruction", ["metrics=[psnr,seam]", "settings.seam.kind=difference"])
    other = load_protocol("toy-reconstruction", ["metrics=[psnr,seam]", "settings.seam.kind=error"])
    assert settings_of(plain, "seam") == settings_of(usual, "seam") != settings_of(other, "seam")
    assert plain.hash() == usual.hash() != other.hash()
    with pytest.raises(InputError, match="settings of grid, which is not among its metrics"):
        load_protocol("toy-reconstruction", ["metrics=[psnr]", "settings.grid.kind=error"])
    with pytest.raises(InputError, match=r"settings.seam: unknown key 'kinds', did you mean 'kind'"):
        load_protocol("toy-reconstruction", ["metrics=[seam]", "settings.seam.kinds=error"])
    with pytest.raises(InputError, match=r"settings.psnr: unknown key 'kind'"):
        load_protocol("toy-reconstruction", ["metrics=[psnr]", "settings.psnr.kind=error"])
