"""Recipes: what `kinolab train` reads. One YAML file names the data, the model and how it is trained.

A recipe may say `extends: NAME` (one that ships) or `extends: FILE.yaml` (a path from its own folder) and holds only
what differs then. What a run records is whole: nothing of it depends on the files it was made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from kinolab.autoencoders import AutoencoderConfig
from kinolab.conditioning import ConditionsConfig
from kinolab.conditioning.text import TextEncoderConfig
from kinolab.conditioning.vision import ImageEncoderConfig
from kinolab.conditioning.vision.contrastive import TextImageConfig
from kinolab.config import Config, apply_overrides, load_config, merged, read_yaml
from kinolab.contracts.table import KindConfig
from kinolab.contracts.work import EncodingWork
from kinolab.data import DataConfig
from kinolab.data.buckets import Size
from kinolab.denoisers import DenoiserConfig
from kinolab.denoisers.image_init import ImageInitConfig
from kinolab.denoisers.trained import QUERIES, Trained
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig, MethodsConfig
from kinolab.metrics.extractors.encoder import VideoEncoderConfig
from kinolab.models.stage_config import PartsConfig
from kinolab.runtime.lines import shown
from kinolab.runtime.paths import inside, real
from kinolab.tables import JOBS
from kinolab.tasks import TasksConfig
from kinolab.training.autoencoder_loss import AutoencoderLossConfig
from kinolab.training.mix import MixConfig
from kinolab.training.settings import TrainingConfig

EXTENDS = "extends"
"""The key that names the recipe which one is on top of."""
DEEPEST = 8
"""Recipes on top of each other; more is a mistake."""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""Of time: 0 clean, 1 noise."""


class InitialConfig(Config):
    """Where the first weights come from."""

    path: Path
    """A model folder, a run folder or a weights file."""
    method: Literal["weights", "tail", "average", "random"] = "weights"
    """`weights` copies an equal model; the others inflate an image autoencoder to odvae (OD-VAE, section 3.3) or dpvae;
    `random` only matches its shape (dpvae keeps it as the frozen part). An image autoencoder under a temporal_decoder
    is taken as it is, and the layers over time begin as nothing."""


class DenoiserInitialConfig(Config):
    """Where a denoiser's first weights come from."""

    path: Path
    """A model folder, a run folder, or a file of public weights."""
    method: Literal["weights", "image", "stage"] = "weights"
    """`weights` copies an equal model; `image` makes a Latte (its section 3.4) or a VDT from an image DiT, and a video
    MMDiT from one of images; `stage` takes from a Stable Video Diffusion model what fits, so that image to video begins
    with text to video: new inputs begin at zero, and what reads another context afresh."""
    image: ImageInitConfig = ImageInitConfig()
    """How a DiT's weights become video weights."""
    num_heads: int | None = None
    """Attention heads, where a file of public weights leaves them open."""
    prefix: str = ""
    """Read only the tensors of a file whose names start with this."""


class SamplesConfig(Config):
    """The sample videos that a denoiser's run writes."""

    prompts: tuple[str, ...] = ()
    """Prompts, for a model with text; one video each."""
    labels: tuple[int, ...] = ()
    """Class labels, for a model with classes and no prompts; one video each."""
    count: int = Field(4, ge=1)
    """Videos of an unconditional model."""
    sampler: SamplerConfig = SamplerConfig(steps=25)
    """How they are sampled."""
    guidance: GuidanceConfig = GuidanceConfig()
    """Classifier-free guidance."""
    given_guidance: float = Field(1.0, ge=0)
    """That of the model's tasks, towards what is given, where no prompt or label is told; 1 = none."""
    methods: MethodsConfig = Field(default_factory=dict)
    """Methods that wrap their sampling, and by default that of the model, such as thresholding: {} for pixels."""


class BaseRecipe(KindConfig):
    """What every recipe has: what it trains (`kind`), the name of what it makes, and `training`."""

    name: str

    if TYPE_CHECKING:
        training: TrainingConfig

    def resumed(self, former: BaseRecipe) -> BaseRecipe:
        """The recipe of a run that goes on, with what the data decided when it began (see `Job.settled`)."""
        return self


class AutoencoderRecipe(BaseRecipe):
    """Trains an autoencoder on clips."""

    kind: Literal["autoencoder"] = "autoencoder"
    name: str
    """What the recipe makes; named in the model folder."""
    data: DataConfig
    """Where the clips come from."""
    work: EncodingWork | None = None
    """Who looks at these clips, and encodes them (`kinolab data check`, `kinolab encode`); options win."""
    autoencoder: AutoencoderConfig
    """The model."""
    initial: InitialConfig | None = None
    """First weights; none = random."""
    trained: Literal["all", "decoder"] = "all"
    """What is trained. With `decoder` the encoder and the latents' scale stay as they are, so that a cache of latents
    and a denoiser trained on it keep fitting."""
    loss: AutoencoderLossConfig = AutoencoderLossConfig()
    """The loss and its weights."""
    image_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the batch that is single frames (an image is a clip of one frame)."""
    frames_per_clip: int | None = Field(None, ge=1)
    """Random frames taken from each clip, for an image autoencoder; none = all."""
    window_frames: int | None = Field(None, ge=1)
    """Consecutive frames taken from each clip at a random place; none = all. Short windows of many clips show a video
    autoencoder more different scenes per step than whole clips do, for the same time. Shorter clips are taken whole."""
    heldout_clips: int = Field(32, ge=1)
    """Held-out clips that PSNR and SSIM are measured on."""
    sample_clips: int = Field(4, ge=1)
    """Held-out clips in the sample video."""
    sample_fps: float = Field(8.0, gt=0)
    """Frame rate of the sample video."""
    training: TrainingConfig = TrainingConfig()
    """Steps, batch, optimiser, precision, and when to save."""

    @model_validator(mode="after")
    def _check(self) -> AutoencoderRecipe:
        if self.frames_per_clip is not None and self.window_frames is not None:
            raise ValueError("frames_per_clip takes single frames and window_frames consecutive ones: set one of them")
        return self


class DenoiserRecipe(BaseRecipe):
    """Trains a denoiser on the latents of an autoencoder."""

    kind: Literal["denoiser"] = "denoiser"
    name: str
    """What the recipe makes; named in the model folder."""
    data: DataConfig
    """A latent cache, or clips that are encoded on the fly."""
    work: EncodingWork | None = None
    """Who looks at clips, and encodes them (`kinolab data check`, `kinolab encode`); options win."""
    autoencoder: Path
    """The model folder (or run folder) of the autoencoder that made, or makes, the latents."""
    denoiser: DenoiserConfig
    """The model."""
    initial: DenoiserInitialConfig | None = None
    """First weights; none = random."""
    parts: PartsConfig = Field(default_factory=dict)
    """Networks beside the denoiser that own a port, by any names, such as control: {kind: input_adapter}; they are
    trained, and saved with it."""
    trained: Trained = "all"
    """What is trained beside the parts: all; `temporal`, the parameters for time alone, with the image model's frozen;
    `named`, those of `trained_names`; `lora`, those for time and low-rank changes of layers; `adapter`, the changes
    alone, of a denoiser that starts from `initial`; the model folder holds them merged, and `adapter` beside it in
    peft's form; or `parts`, nothing of the denoiser itself, which starts from `initial`. Checkpoints leave out what is
    frozen where it comes from `initial`."""
    trained_names: tuple[str, ...] = ()
    """The parameters that `named` trains, by name, with * for any part: ['*.after_attention.*', '*attn2.to_q*']. A name
    that ends in :queries, ['*.attn.qkv.*:queries'], means the queries of a joint projection."""
    lora_rank: int = Field(8, ge=1)
    """Rank of the changes of `lora` and `adapter`."""
    lora_alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Their alpha: they are scaled by alpha / rank; none = the rank, a scale of 1."""
    lora_targets: tuple[str, ...] = ()
    """The layers that they are of, by name, with * for any part: ['*.attn.*', '*.mlp.fc1'], and with :queries behind
    those of joint projections, whose queries alone are changed; none = the projections of all attention but that over
    time."""
    diffusion: DiffusionConfig = DiffusionConfig()
    """Noise path, prediction and loss."""
    text_encoder: TextEncoderConfig = "none"
    """What turns captions into conditions."""
    image_encoder: ImageEncoderConfig | None = None
    """What makes tokens of a clip's first frame, for a denoiser that reads them: {kind: clip, folder: ...}, or
    {kind: thumbnail} for a small one."""
    null_prompt: Literal["learned", "empty"] = "learned"
    """What stands for a dropped caption: the denoiser's learned null condition, or the empty prompt (as in Stable
    Diffusion 3)."""
    class_names: tuple[str, ...] = ()
    """Names of the labels, in order; none = those of the data's classes, where they have names."""
    unlabelled: bool = False
    """Train as if no clip had a caption or a label: what moves is learned without words for it (Make-A-Video)."""
    missing_captions: Literal["error", "unconditional"] = "error"
    """What becomes of clips without a caption in a model that takes text: an error at the start, or they are trained
    without one."""
    missing_labels: Literal["error", "unconditional"] = "error"
    """The same for clips without a label in a denoiser with several classes."""
    condition_dropout: float = Field(0.1, ge=0, le=1)
    """Share of samples trained without their condition, for classifier-free guidance."""
    given_condition_dropout: float | None = Field(None, ge=0, le=1)
    """The same for samples of which something is given, so that tasks work without a prompt; none = alike."""
    label_dropout: float = Field(0.0, ge=0, le=1)
    """Share of samples whose label alone is left out, so that a prompt works without a label too."""
    interval: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Fractions of time (0 clean, 1 noise) between which it is trained, for one of several experts of a stage; the
    times have the distribution that they have there anyway."""
    conditions: ConditionsConfig = Field(default_factory=dict)
    """Settings of the conditions that the denoiser takes by its `vectors` and `fields`, by name, such as
    control: {map: edges, dropout: 0.1}; one that is left out has its defaults."""
    tasks: TasksConfig | None = None
    """What is given, how often, for a denoiser that takes given latents; none = nothing is ever given. A cache has to
    hold draws of the same tasks (`kinolab encode --tasks RECIPE`); its share of unconditional ones is free."""
    frames_per_clip: int | None = Field(None, ge=1)
    """Random frames taken from each clip, each an image by itself with the clip's caption: trains an image model on
    clips, or on their latents where an image autoencoder made them; none = whole clips."""
    window_frames: int | None = Field(None, ge=2)
    """Frames taken from each clip, every n-th from a random one on, with n drawn from `frame_skips` as far as the clip
    is long enough; none = whole clips. Pictures are taken as they are. The rate that the model is told (`fps`) is that
    of the frames taken."""
    frame_skips: tuple[int, int] = (1, 1)
    """Least and most n of every n-th frame (Make-A-Video, section 3.4, trains on random rates)."""
    crop: Size | None = None
    """Side, or height and width, of a random crop of every clip that is trained on, for a spatial super-resolution
    model; its videos have the clips' own size and, where `window_frames` are cut out of them, their own length (Imagen
    Video, section 2.2). None = whole frames."""
    image_frames: int = Field(0, ge=0)
    """Single frames of other clips appended to every clip (Latte's joint image-video training)."""
    mix: MixConfig = MixConfig()
    """How buckets of the data (lengths and sizes, images among them) share the steps."""
    heldout_clips: int = Field(64, ge=1)
    """Held-out clips that the loss is measured on."""
    heldout_times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Fixed times, as fractions from clean to noise, that the held-out loss is measured at."""
    samples: SamplesConfig = SamplesConfig()
    """Sample videos from fixed seeds."""
    training: TrainingConfig = TrainingConfig()
    """Steps, batch, optimiser, precision, and when to save."""

    @model_validator(mode="after")
    def _check(self) -> DenoiserRecipe:
        if not self.interval[0] < self.interval[1]:
            raise ValueError(f"interval: expected rising fractions of time, got {list(self.interval)}")
        self.denoiser.check_diffusion(self.diffusion.schedule, self.diffusion.prediction)
        self.denoiser.check_given_guidance(self.samples.given_guidance)
        if self.trained == "adapter" and not self.initial:
            raise ValueError("trained: adapter needs an initial denoiser, whose layers it changes")
        if self.trained not in ("lora", "adapter") and (self.lora_targets or self.lora_alpha is not None):
            raise ValueError("lora_targets and lora_alpha are of trained: lora or adapter")
        if (self.trained == "named") != bool(self.trained_names):
            raise ValueError("trained: named and trained_names go together: one says that some are trained, one which")
        if any(name.endswith(QUERIES) for name in (*self.trained_names, *self.lora_targets)):
            c = self.training
            if c.optimizer != "adamw" or c.parallel != "ddp" or (c.weight_decay and self.trained == "named"):
                # Decay, orthogonal updates and shards would move or cut rows that get no gradient.
                raise ValueError(f"{QUERIES} needs training.optimizer adamw, parallel ddp and, named, weight_decay 0")
        if self.trained == "parts" and not (self.parts and self.initial):
            raise ValueError("trained: parts needs some parts, and an initial denoiser that they are beside")
        self._check_window()
        if self.frames_per_clip is not None:
            if self.tasks is not None:
                raise ValueError("frames_per_clip trains an image model, of which no part is given: leave tasks out")
            if self.image_frames:
                raise ValueError("frames_per_clip trains on images alone: leave image_frames out")
        return self

    @property
    def crop_size(self) -> tuple[int, int] | None:
        """Height and width of the crops that are trained on; none = whole frames."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    def _check_window(self) -> None:
        low, high = self.frame_skips
        if not 1 <= low <= high:
            raise ValueError(f"frame_skips: expected 1 <= least <= most, got {low} and {high}")
        if self.window_frames is None and self.frame_skips != (1, 1):
            raise ValueError("frame_skips says which frames of a window are taken: set window_frames too")
        if self.window_frames is not None and self.frames_per_clip is not None:
            raise ValueError("frames_per_clip takes single frames and window_frames several: set one of them")

    def resumed(self, former: BaseRecipe) -> DenoiserRecipe:
        """The recipe with the names of the classes that the run began with."""
        if self.class_names or not isinstance(former, DenoiserRecipe):
            return self
        return self.model_copy(update={"class_names": former.class_names})


class EncoderRecipe(BaseRecipe):
    """Trains the video encoder that distribution metrics run on where no public network is at hand."""

    kind: Literal["encoder"] = "encoder"
    name: str
    """What the recipe makes."""
    data: dict[str, DataConfig] = Field(min_length=1)
    """Sources of clips by any names, drawn from in turn; captions of the toy world's are learned from."""
    encoder: VideoEncoderConfig = VideoEncoderConfig()
    """The network."""
    frames: int = Field(16, ge=2)
    """Frames of a view."""
    stored: Literal["float32", "float16"] = "float16"
    """What the weights are stored in."""
    heldout_clips: int = Field(128, ge=1)
    """Held-out clips that the losses are measured on."""
    training: TrainingConfig = TrainingConfig()
    """Steps, batch, optimiser, precision, and when to save."""


class PriorRecipe(BaseRecipe):
    """Trains an encoder of pictures and texts, and the prior from texts to pictures' embeddings, on captioned clips."""

    kind: Literal["prior"] = "prior"
    name: str
    """What the recipe makes."""
    data: DataConfig
    """Captioned clips, of which single frames are looked at."""
    embedding: TextImageConfig = TextImageConfig()
    """The networks."""
    prior_starts: int = Field(0, ge=0)
    """The step from which on the prior is trained; before, the embeddings that it would learn still change a lot."""
    heldout_clips: int = Field(128, ge=1)
    """Held-out clips that the losses are measured on."""
    training: TrainingConfig = TrainingConfig()
    """Steps, batch, optimiser, precision, and when to save."""


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(resources.files("kinolab") / "recipes"))
    return {p.stem: p for p in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe given by its path or by the name of one that ships.

    Raises:
        InputError: where there is neither; lists the names.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.exists():
        return path
    known = shipped_recipes()
    if str(name) in known:
        return known[str(name)]
    raise InputError(f"{name}: no such recipe; expected a YAML file or one of {', '.join(known)}")


def load_recipe(source: Path | str | dict[str, Any], overrides: Sequence[str] = ()) -> BaseRecipe:
    """A recipe from a file, a shipped name or a mapping, on top of the one it extends; dotted overrides on top of both.

    Raises:
        InputError: for no such recipe, an unknown key or a wrong value; names the file, or all files it is made of.
    """
    name, cls, values = recipe_values(source, overrides)
    return load_config(cls, values, name=name)


def recipe_values(
    source: Path | str | dict[str, Any], overrides: Sequence[str] = ()
) -> tuple[str, type[BaseRecipe], dict[str, Any]]:
    """What errors call a recipe, its class, and all that it says, not yet checked (see `load_recipe`).

    Raises:
        InputError: for no such recipe, or one of no known kind.
    """
    if isinstance(source, dict):
        name, values = "recipe", _whole(source, "recipe", ())
    else:
        path = find_recipe(source)
        name, values = str(source), read_yaml(path)
        if not isinstance(values, dict):
            raise InputError(f"{name}: expected a mapping of keys to values, such as kind, data and training")
        if EXTENDS in values:
            name = f"{name} (extends {shown(values[EXTENDS])})"
            values = _whole(values, str(source), (path,))
    values = apply_overrides(values, overrides)
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in JOBS:
        raise InputError(f"{name}: expected kind: {' or '.join(JOBS)}, got {shown(kind)}")
    return name, JOBS.get(kind).Recipe, values


def _whole(values: dict[str, Any], name: str, files: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe's values on top of those of the recipe it extends, if it does, and so on.

    Args:
        values: what its file says.
        name: what errors call it.
        files: the files from the first one that extends another down to this one; empty for a mapping.
    """
    if EXTENDS not in values:
        return values
    path = _base(values[EXTENDS], name, files[-1].parent if files else None)
    chain = (*files, path)
    if real(path) in map(real, files):
        raise InputError(f"{name}: extends goes round in a circle: {' -> '.join(p.name for p in chain)}")
    if len(chain) > DEEPEST:
        raise InputError(f"{name}: extends {path.name}: more than {DEEPEST} recipes on top of each other")
    base = _whole(read_yaml(path), str(path), chain)
    if "kind" in values and values["kind"] != base.get("kind"):
        raise InputError(f"{name}: kind: {shown(values['kind'])} can't extend {path.name}, of kind {base.get('kind')}")
    own = {key: value for key, value in values.items() if key != EXTENDS}
    # Its default run folder is named after it; with the base's name it would be taken for the base's run.
    return merged(base, {"name": files[-1].stem, **own} if files else own)


def _base(extended: object, name: str, folder: Path | None) -> Path:
    """The file of an extended recipe: one that ships, or one in `folder`, where the recipe lies that extends it."""
    known = shipped_recipes()
    if isinstance(extended, str) and extended in known:
        return known[extended]
    if isinstance(extended, str) and extended.endswith((".yaml", ".yml")) and folder is not None:
        try:
            path = inside(folder, extended)
        except InputError as error:
            raise InputError(f"{name}: extends: {error}") from None
        if path.is_file():
            return path
    where = "a YAML file in its folder or " if folder is not None else ""
    raise InputError(f"{name}: extends: {shown(extended)}: no such recipe; expected {where}one of {', '.join(known)}")
