"""DP-VAE: a video autoencoder whose latents stay in the distribution of a frozen image autoencoder's.

"VideoDiT: Bridging Image Diffusion Transformers for Streamlined Video Generation". What was decided here where the
paper leaves a choice, and why, is in docs/design-notes.md.

A clip is cut into groups of pictures. The key frame of a group has the latent that the frozen image autoencoder gives
it. A causal 3D encoder goes through the group from its key frame on and gives one more latent for every r frames, as a
residual on the key frame's:

    z_0 = E_image(x_key),    z_i = z_0 + E(x)_i - E(x)_0    for i >= 1

So an image is a clip of one frame with the image autoencoder's latents, and frames that rest cost no residual: E sees
the same everywhere, whatever its weights. Inflated from the image autoencoder (`inflate_dpvae`), z_i is the image's
latent of frame r*i before any training. One causal 3D decoder reads all latents of a group.

A key frame inside its group is coded to both sides: E and the decoder go from it to the end, and from it back to the
beginning. If it is the r*j-th frame, the group costs no more latents than with its first frame as the key frame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Discriminator, Tag, model_validator
from torch import Tensor, nn

from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior, Term
from kinolab.autoencoders.image import ImageAutoencoder, ImageConfig
from kinolab.autoencoders.taesd import Taesd, TaesdConfig
from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError
from kinolab.layers import tiny_coder
from kinolab.layers.causal_coder import CausalCoderShape, Decoder, Encoder, TimeSteps, Variant
from kinolab.layers.causal_conv import CausalConv3d, Stream, alike
from kinolab.layers.key_frames import (
    Group,
    Groups,
    KeyFrameConfig,
    cut_into_groups,
    key_candidates,
    latents_in_group,
    longest_scene,
)
from kinolab.layers.latent_alignment import AlignmentConfig, energy_distance, moment_distance
from kinolab.layers.latent_scaling import LOGVAR_RANGE, ScaledLatents
from kinolab.layers.normalization import fast_layout
from kinolab.layers.scene_cuts import detector_cuts

ImagePart = Annotated[
    Annotated[ImageConfig, Tag("image")] | Annotated[TaesdConfig, Tag("taesd")],
    Discriminator(lambda value: value.get("kind", "image") if isinstance(value, Mapping) else value.kind),
]
"""The config of an image autoencoder that a DP-VAE is built around; without a `kind` it is `image`."""


class DpVaeConfig(KindConfig):
    """DP-VAE; the 3D encoder and decoder have the widths of the image autoencoder that they are inflated from."""

    kind: Literal["dpvae"] = "dpvae"
    image: ImagePart = ImageConfig()
    """The frozen image autoencoder, `image` or `taesd`: its latent channels and its spatial ratio are the video's."""
    variant: Variant = "encoder_outer2d"
    """Which convolutions are 2D, as in `odvae`."""
    temporal_ratio: Literal[1, 2, 4, 8] = 4
    """Frames per latent after the key frame; at most the spatial ratio."""
    time_steps: TimeSteps = "late"
    """Which of the encoder's spatial steps halve time too where there are more of them: the last or the first."""
    group_frames: int = 17
    """Frames of a whole group, 1 + r*n: n latents and the key frame's. Clips are m whole groups, or end in 1 + r*k
    frames."""
    image_branch: bool = True
    """Whether the image autoencoder encodes the key frames; without, the 3D encoder does, and nothing is a residual (an
    ablation of the paper)."""
    key_frames: KeyFrameConfig = KeyFrameConfig()
    """Where groups begin and which frame is the key frame, for `encode_groups` and in training. `encode` and `decode`
    know rule `first` only, as latents of a batch have one shape."""
    regularisation: AlignmentConfig = AlignmentConfig()
    """What keeps the video latents in the distribution of the image latents while training."""
    gradient_checkpointing: bool = False
    """Recompute the residual blocks in the backward pass: less memory, about a third more time in training."""

    @model_validator(mode="after")
    def _check(self) -> DpVaeConfig:
        r, s = self.temporal_ratio, self.image.spatial_ratio
        if isinstance(self.image, TaesdConfig) and self.image.variant != "image":
            raise ValueError(f"expected an image autoencoder, got a video's: image.variant {self.image.variant}")
        if isinstance(self.image, TaesdConfig) and self.time_steps != "late":
            raise ValueError("time_steps 'early' is for image autoencoders of kind image: leave it out")
        if r > s:
            raise ValueError(f"expected a temporal_ratio of at most the image's spatial ratio {s}, got {r}")
        if self.group_frames <= 1 or (self.group_frames - 1) % r:
            near = 1 + max(1, (self.group_frames - 1) // r) * r
            raise ValueError(f"expected group_frames = 1 + {r}*n with n >= 1, got {self.group_frames}; use {near}")
        return self

    @property
    def reads_image(self) -> bool:
        """Whether the frozen image autoencoder is part of the model."""
        return self.image_branch or self.regularisation.active

    def coders(self) -> tuple[Encoder | tiny_coder.Encoder, Decoder | tiny_coder.Decoder]:
        """The 3D encoder and decoder, in the image autoencoder's widths."""
        image, r = self.image, self.temporal_ratio
        if isinstance(image, TaesdConfig):
            tiny = image.coder(self.variant, r, self.gradient_checkpointing)
            return (
                tiny_coder.Encoder(image.channels, tiny, image.latent_channels),
                tiny_coder.Decoder(image.latent_channels, tiny, image.channels),
            )
        shape = CausalCoderShape(
            widths=image.block_out_channels,
            blocks=image.layers_per_block,
            groups=image.norm_num_groups,
            variant=self.variant,
            temporal_ratio=r,
            time_steps=self.time_steps,
            mid_attention="frame" if image.mid_block_attention else "none",
            checkpointing=self.gradient_checkpointing,
        )
        return (
            Encoder(image.channels, shape, image.latent_channels),
            Decoder(image.latent_channels, shape, image.channels),
        )


@dataclass
class _Coding:
    """What passes from one piece of a group to the next: the layers' memory, and z_0 - E(x)_0."""

    stream: Stream | None = None
    offset: Tensor | None = None


class DpVae(ScaledLatents, Autoencoder):
    """DP-VAE: (B, 3, T, H, W) <-> (B, C', T', h, w), where every group of 1 + r*n frames has 1 + n latents."""

    Config = DpVaeConfig

    image: ImageAutoencoder | Taesd | None

    def __init__(self, config: DpVaeConfig) -> None:
        super().__init__()
        self.config = config
        image, C = config.image, config.image.latent_channels
        self.spec = AutoencoderSpec(
            latent_channels=C,
            temporal_ratio=config.temporal_ratio,
            spatial_ratio=image.spatial_ratio,
            causal=True,
            channels=image.channels,
            group_frames=config.group_frames,
        )
        self.register_scaling(C, image.latent_shift, image.latent_scale)
        self.encoder, self.decoder = config.coders()
        kl = image if isinstance(image, ImageConfig) else None
        self.quant_conv = CausalConv3d(2 * C, 2 * C, (1, 1, 1)) if kl is not None and kl.use_quant_conv else None
        self.post_quant_conv = CausalConv3d(C, C, (1, 1, 1)) if kl is not None and kl.use_post_quant_conv else None
        frozen = ImageAutoencoder(image) if isinstance(image, ImageConfig) else Taesd(image)
        self.image = frozen.requires_grad_(False) if config.reads_image else None

    @property
    def keeps_scaling(self) -> bool:
        """Its latents are in the image autoencoder's units, so long as that one is there."""
        return self.image is not None

    def encoder_parts(self) -> nn.ModuleList:
        """The 3D encoder, and the image autoencoder's, which makes the key frames' latents."""
        parts = super().encoder_parts()
        if self.image is not None and self.config.image_branch:
            parts.extend(self.image.encoder_parts())
        return parts

    def encode(self, video: Tensor) -> Posterior:
        """(B, 3, T, H, W) in [-1, 1] -> posterior over (B, C', T', h, w), in groups of `group_frames`.

        The first frame of each group is its key frame, whatever rule the config has: `encode_groups` knows the others.
        """
        self.check_video(video)
        posteriors = [self._encode(group, _Coding()) for group in video.split(self.config.group_frames, dim=2)]
        return _joined(posteriors)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C', T', h, w) of regular groups -> (B, 3, T, H, W)."""
        self.check_latents(latents)
        return torch.cat([self._decode(z, None) for z in latents.split(self._group_latents, dim=2)], dim=2)

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Posterior]:
        """Posteriors of consecutive chunks (B, 3, t, H, W), t >= 1 of any lengths; equal to `encode` of them joined.

        A posterior comes as soon as its frames came. Memory depends on the longest chunk only.

        Raises:
            InputError: for chunks of wrong shape; and at the end, if the frames in all break the rule of `spec`.
        """
        coding, seen = _Coding(), 0
        for chunk in alike(chunks):
            self.check_video(chunk[:, :, :1])
            for piece in _pieces(chunk, seen, self.config.group_frames):
                if seen % self.config.group_frames == 0:
                    coding = _Coding(Stream())
                seen += piece.shape[2]
                posterior = self._encode(piece, coding)
                if posterior.mean.shape[2]:
                    yield posterior
        if seen:
            self.spec.check(seen, self.spec.spatial_ratio, self.spec.spatial_ratio)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Video of consecutive chunks of latents (B, C', t', h, w); equal to `decode` of them joined.

        The first latent of a group gives one frame, each other one r frames. Memory depends on the longest chunk only.

        Raises:
            InputError: for chunks of wrong shape.
        """
        stream, seen = Stream(), 0
        for chunk in alike(chunks):
            self.check_latents(chunk)
            for piece in _pieces(chunk, seen, self._group_latents):
                if seen % self._group_latents == 0:
                    stream = Stream()
                seen += piece.shape[2]
                yield self._decode(piece, stream)

    def encode_groups(
        self, video: Tensor, key_frames: KeyFrameConfig | None = None, cuts: Collection[int] | None = None
    ) -> Groups:
        """A clip (1, 3, T, H, W) of any length in groups by a rule for key frames (default: the config's).

        Groups that are no 1 + r*k frames long repeat their last frame until they are, and cost the latents of that.

        Args:
            cuts: first frames of new scenes, where they are known; else they are found as the rule says.

        Raises:
            InputError: for more than one clip, as cuts differ, and for sides that are no multiples of the ratio.
        """
        rule = key_frames or self.config.key_frames
        if cuts is None and rule.finds_cuts and rule.cuts == "scenedetect":
            frames = ((video[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu().numpy()
            cuts = detector_cuts(frames, fps=25.0)
        return Groups(tuple(self.group_stream([video], rule, cuts)))

    def group_stream(
        self, chunks: Iterable[Tensor], key_frames: KeyFrameConfig, cuts: Collection[int] | None = None
    ) -> Iterator[Group]:
        """`encode_groups` of a clip that arrives as chunks (1, 3, t, H, W); memory is that of a group.

        Raises:
            InputError: as `encode_groups`; and where PySceneDetect, which sees a clip whole, shall find the cuts.
        """
        if cuts is None and key_frames.finds_cuts and key_frames.cuts == "scenedetect":
            raise InputError(
                "cuts of a stream are found by cuts=builtin, or have to be known; scenedetect needs the clip"
            )
        start = 0
        for video in cut_into_groups(self._single(chunks), key_frames, self.config.group_frames, cuts):
            key = self.best_key(video, key_frames.candidates) if key_frames.rule == "best" else 0
            yield Group(start, video.shape[2], key, self.encode_group(video, key))
            start += video.shape[2]

    def decode_groups(self, groups: Groups) -> Tensor:
        """The clip (1, 3, T, H, W) of coded groups."""
        return torch.cat([self.decode_group(group) for group in groups.groups], dim=2)

    def encode_group(self, video: Tensor, key: int = 0) -> Tensor:
        """The latents (B, C', n, h, w) of one group (B, 3, g, H, W) of any length, in the order of time (no sampling).

        Raises:
            InputError: unless the key frame is one of the group, and a multiple of the temporal ratio.
        """
        if not 0 <= key < video.shape[2] or key % self.spec.temporal_ratio:
            allowed = key_candidates(video.shape[2], self.spec.temporal_ratio)
            raise InputError(f"expected a key frame out of {allowed}, got {key}")
        after = video[:, :, key:]
        missing = (1 - after.shape[2]) % self.spec.temporal_ratio  # to 1 + r*k frames
        after = torch.cat([after] + [after[:, :, -1:]] * missing, dim=2)
        latents = self._encode(after, _Coding()).mean
        if key:
            # Backwards in time, so that the key frame is the first here too.
            before = self._encode(video[:, :, : key + 1].flip(2), _Coding()).mean
            latents = torch.cat([before[:, :, 1:].flip(2), latents], dim=2)
        return latents

    def decode_group(self, group: Group) -> Tensor:
        """The frames (B, 3, g, H, W) of one coded group."""
        self.check_latents(group.latents)
        place = group.key // self.spec.temporal_ratio
        video = self._decode(group.latents[:, :, place:], None)[:, :, : group.frames - group.key]
        if place:
            before = self._decode(group.latents[:, :, : place + 1].flip(2), None)
            video = torch.cat([before[:, :, 1:].flip(2), video], dim=2)
        return video

    @torch.no_grad()
    def best_key(self, video: Tensor, candidates: int | None = None) -> int:
        """The key frame that a group (1, 3, g, H, W) is reconstructed best with, by squared error; the first of equals.

        It costs one encoding and one decoding of the group for every frame that is tried (see `key_candidates`).
        """
        keys = key_candidates(video.shape[2], self.spec.temporal_ratio, candidates)
        errors = []
        for key in keys:
            rebuilt = self.decode_group(Group(0, video.shape[2], key, self.encode_group(video, key)))
            errors.append(float(F.mse_loss(rebuilt.float(), video.float())))
        return keys[errors.index(min(errors))]

    def compression(self, frames: int, height: int, width: int, groups: Sequence[int] | None = None) -> Fraction:
        """Pixel values per latent value of a clip, key frames counted; exact.

        Args:
            groups: the frames of each group where they are not regular; their sum is `frames`.

        Raises:
            InputError: where the clip breaks a rule of `spec`, or the groups are not the clip's.
        """
        if groups is None:
            return super().compression(frames, height, width)
        if sum(groups) != frames or min(groups) < 1:
            raise InputError(f"expected groups of {frames} frames in all, got {list(groups)}")
        C, _, h, w = self.spec.latent_shape(1, height, width)
        latents = sum(latents_in_group(group, self.spec.temporal_ratio) for group in groups)
        return Fraction(self.spec.channels * frames * height * width, C * latents * h * w)

    def regularisation(self, video: Tensor, posterior: Posterior) -> dict[str, Term]:
        """How far the video latents are from the image latents: the terms of `config.regularisation`.

        The reference is the image latent of the last frame that each latent stands for. Latents of key frames are the
        image autoencoder's own and are left out (unless it encodes none).
        """
        c = self.config.regularisation
        numbers = self._reference_frames(video.shape[2])
        places = [i for i, (_, key) in enumerate(numbers) if not (key and self.config.image_branch)]
        if self.image is None or not c.active or not places:
            return {}
        frames = video[:, :, [numbers[i][0] for i in places]]
        latents = posterior.mean[:, :, places]
        with torch.no_grad():
            reference = self.image.encode(frames).mean
        terms = {}
        if c.moments_weight:
            terms["moments"] = Term(c.moments_weight, moment_distance(latents, reference))
        if c.samples_weight:
            terms["samples"] = Term(c.samples_weight, energy_distance(latents, reference, c.samples))
        if c.image_decoder_weight:
            read = self.image.decode(latents).float()
            terms["image_decoder"] = Term(c.image_decoder_weight, F.l1_loss(read, frames.float()))
        return terms

    def training_clip(self, video: Tensor, generator: torch.Generator) -> Tensor:
        """What is trained on of a clip (3, T, H, W): with cuts, its longest scene, so that no group straddles one.

        With rule best, every second clip runs backwards, as a group does from its key frame to its beginning.
        """
        rule = self.config.key_frames
        if rule.finds_cuts:
            video = longest_scene(video, rule)
            video = video[:, : self.spec.snap_frames(video.shape[1])]
        if rule.rule == "best" and int(torch.randint(2, (1,), generator=generator)):
            video = video.flip(1)
        return video

    @property
    def _group_latents(self) -> int:
        return latents_in_group(self.config.group_frames, self.spec.temporal_ratio)

    def _reference_frames(self, frames: int) -> list[tuple[int, bool]]:
        """For each latent of a regular clip, the last frame that it stands for, and whether that is a key frame."""
        G, r = self.config.group_frames, self.spec.temporal_ratio
        return [(t, t % G == 0) for t in range(frames) if t % G % r == 0]

    def _single(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The chunks, checked to be of one clip."""
        for chunk in alike(chunks):
            self.check_video(chunk[:, :, :1])
            if len(chunk) != 1:
                raise InputError(f"expected one clip (1, 3, T, H, W), as cuts and key frames differ, got {len(chunk)}")
            yield chunk

    def _encode(self, video: Tensor, coding: _Coding) -> Posterior:
        """A piece of a group, which begins with the key frame if nothing of the group came before."""
        begins = coding.stream is None or coding.offset is None
        key = self._encode_key(video[:, :, :1]) if begins else None
        if key is not None and video.shape[2] == 1 and coding.stream is None and not torch.is_grad_enabled():
            return key  # an image; in training the 3D encoder takes part with a gradient of zero, as DDP needs
        moments = self._moments(fast_layout(video.to(self.encoder.dtype)), coding.stream)
        if moments.shape[2] == 0:  # a chunk that is too short for a latent
            return Posterior(*moments.chunk(2, dim=1))
        mean, logvar = self.normalise_moments(moments)
        if begins:
            # (B, C', 1, h, w): from the video encoder's latent of the key frame to the image encoder's
            coding.offset = torch.zeros_like(mean[:, :, :1]) if key is None else key.mean - mean[:, :, :1]
        assert coding.offset is not None
        if key is None:
            return Posterior(mean + coding.offset, logvar)
        mean = torch.cat([key.mean, mean[:, :, 1:] + coding.offset], dim=2)
        return Posterior(mean, torch.cat([key.logvar, logvar[:, :, 1:]], dim=2))

    def _moments(self, video: Tensor, stream: Stream | None) -> Tensor:
        """The 3D encoder's mean and log variance, raw (B, 2C', t, h, w)."""
        moments = self.encoder(video, stream)
        if isinstance(self.encoder, tiny_coder.Encoder):  # which gives one answer
            return torch.cat([moments, torch.full_like(moments, LOGVAR_RANGE[0])], dim=1)
        if self.quant_conv is not None and moments.shape[2]:
            moments = self.quant_conv(moments)
        return moments

    @torch.no_grad()
    def _encode_key(self, frame: Tensor) -> Posterior | None:
        """The image autoencoder's posterior of key frames (B, 3, 1, H, W); none without the image branch."""
        if self.image is None or not self.config.image_branch:
            return None
        return self.image.encode(frame)

    def _decode(self, latents: Tensor, stream: Stream | None) -> Tensor:
        """A group's latents, or a piece of them, the key frame's first."""
        raw = fast_layout(self.to_raw(latents).to(self.encoder.dtype))
        if self.post_quant_conv is not None:
            raw = self.post_quant_conv(raw)
        return self.decoder(raw, stream)


def _joined(posteriors: Sequence[Posterior]) -> Posterior:
    """Posteriors one after the other in time."""
    return Posterior(torch.cat([p.mean for p in posteriors], dim=2), torch.cat([p.logvar for p in posteriors], dim=2))


def _pieces(chunk: Tensor, seen: int, group: int) -> Iterator[Tensor]:
    """A chunk that begins with frame (or latent) number `seen`, cut where groups of `group` end."""
    first = min(group - seen % group, chunk.shape[2])
    yield chunk[:, :, :first]
    if first < chunk.shape[2]:
        yield from chunk[:, :, first:].split(group, dim=2)
