"""The tables: every component that is chosen by a name, and where it is. To add one: a file in its room, a line here.

Nothing is imported before it is asked for, so that help and errors can list the names at once. A class from elsewhere
joins with `TABLE.register("name")`. Metrics are listed in `kinolab.metrics`, by what they compare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kinolab.contracts.table import Table

if TYPE_CHECKING:
    from kinolab.autoencoders.base import Autoencoder
    from kinolab.checkpoints.base import Format
    from kinolab.conditioning.maps.base import ControlMap
    from kinolab.conditioning.vision.base import ImageEncoder
    from kinolab.contracts.engine import Engine
    from kinolab.contracts.examples import Source
    from kinolab.contracts.method import Method
    from kinolab.data.curate.base import Signal
    from kinolab.data.curate.frames import FrameSignal
    from kinolab.denoisers.base import Denoiser
    from kinolab.diffusion.samplers.base import Sampler
    from kinolab.models.part import ModelPart
    from kinolab.training.trainer import Job

AUTOENCODERS: Table[Autoencoder] = Table(
    "autoencoder",
    {
        "": {
            "image": "kinolab.autoencoders.image:ImageAutoencoder",
            "temporal_decoder": "kinolab.autoencoders.temporal_decoder:TemporalDecoderAutoencoder",
            "odvae": "kinolab.autoencoders.odvae:OdVae",
            "dpvae": "kinolab.autoencoders.dpvae:DpVae",
            "vqgan": "kinolab.autoencoders.vqgan:Vqgan",
            "tats": "kinolab.autoencoders.tats:Tats",
            "taesd": "kinolab.autoencoders.taesd:Taesd",
            "pixel": "kinolab.autoencoders.pixel:PixelAutoencoder",
            "diffusers": "kinolab.autoencoders.diffusers_adapter:DiffusersAutoencoder",
        }
    },
)
"""Pixels <-> latents, by the `kind` of their config."""

DENOISERS: Table[Denoiser] = Table(
    "denoiser",
    {
        "": {
            "latte": "kinolab.denoisers.latte:Latte",
            "dit": "kinolab.denoisers.dit:DiT",
            "vdt": "kinolab.denoisers.vdt:Vdt",
            "mmdit": "kinolab.denoisers.mmdit:Mmdit",
            "unet": "kinolab.denoisers.unet:Unet",
            "svd": "kinolab.denoisers.svd:Svd",
            "vdm": "kinolab.denoisers.vdm:Vdm",
            "modelscope": "kinolab.denoisers.modelscope:ModelScope",
            "animatediff": "kinolab.denoisers.animatediff:AnimateDiff",
            "video_ldm": "kinolab.denoisers.video_ldm:VideoLdm",
            "makeavideo": "kinolab.denoisers.makeavideo:MakeAVideo",
            "space_time_unet": "kinolab.denoisers.space_time_unet:SpaceTimeUnet",
            "imagen_video": "kinolab.denoisers.imagen_video:ImagenVideo",
            "tuneavideo": "kinolab.denoisers.tuneavideo:TuneAVideo",
        }
    },
)
"""Noisy latents -> prediction, by the `kind` of their config."""

SAMPLERS: Table[Sampler] = Table(
    "sampler",
    {
        "": {
            "ddpm": "kinolab.diffusion.samplers.ddpm:Ddpm",
            "ddim": "kinolab.diffusion.samplers.ddim:Ddim",
            "dpmpp_2m": "kinolab.diffusion.samplers.dpmpp_2m:DpmPp2m",
            "euler": "kinolab.diffusion.samplers.euler:Euler",
            "heun": "kinolab.diffusion.samplers.heun:Heun",
            "stochastic": "kinolab.diffusion.samplers.stochastic:Stochastic",
            "consistency": "kinolab.diffusion.samplers.consistency:Consistency",
        }
    },
)
"""From noise to a sample, by the `name` in their config."""

IMAGE_ENCODERS: Table[ImageEncoder] = Table(
    "image encoder",
    {
        "": {
            "clip": "kinolab.conditioning.vision.clip:ClipImage",
            "thumbnail": "kinolab.conditioning.vision.thumbnail:Thumbnail",
            "contrastive": "kinolab.conditioning.vision.contrastive:Contrastive",
        }
    },
)
"""A picture -> the tokens that denoisers attend to, by the `kind` of their config."""

OWN_FIELD = "asked for by a field"
METHODS: Table[Method] = Table(
    "method",
    {
        OWN_FIELD: {
            "guidance": "kinolab.methods.guidance:Guidance",
            "frame_reach": "kinolab.methods.frame_reach:FrameReach",
            "step_cache": "kinolab.methods.step_cache:StepCache",
            "reconstruction": "kinolab.methods.reconstruction:Reconstruction",
            "replacement": "kinolab.methods.replacement:Replacement",
            "spatial_reconstruction": "kinolab.methods.spatial:SpatialReconstruction",
            "inversion": "kinolab.methods.inversion:Inversion",
        },
        "": {
            "thresholding": "kinolab.methods.thresholding:Thresholding",
            "langevin": "kinolab.methods.langevin:Langevin",
            "noise": "kinolab.methods.noise_policy:NoisePolicy",
            "temperature": "kinolab.methods.temperature:Temperature",
            "text2video_zero": "kinolab.methods.text2video_zero:Text2VideoZero",
            "smoother": "kinolab.methods.smoother:Smoother",
            "hierarchical": "kinolab.methods.hierarchical:Hierarchical",
            "controlvideo": "kinolab.methods.controlvideo:ControlVideo",
            "control_strength": "kinolab.methods.control_strength:ControlStrength",
            "text_balance": "kinolab.methods.text_balance:TextBalance",
        },
    },
)
"""Wrappers of a sampling run: those that a request asks for by a field of its own, and those that it names."""

ENGINES: Table[Engine] = Table(
    "engine",
    {
        "": {
            "embedded": "kinolab.engines.embedded:Embedded",
            "ray": "kinolab.engines.ray:Ray",
        }
    },
)
"""Where the workers of a long job come from, by the name of --engine."""

SOURCES: Table[Source] = Table(
    "data source",
    {
        "": {
            "folder": "kinolab.data.folder:FolderSource",
            "world": "kinolab.toyworld.source:WorldSource",
            "cache": "kinolab.data.cache:CacheSource",
        }
    },
)
"""Where clips come from, by the `kind` of their config."""

FORMATS: Table[Format] = Table(
    "format",
    {
        "": {
            "latte": "kinolab.checkpoints.latte:LatteFormat",
            "dit": "kinolab.checkpoints.dit:DiTFormat",
            "vdt": "kinolab.checkpoints.vdt:VdtFormat",
            "vdm": "kinolab.checkpoints.vdm:VdmFormat",
            "space_time_unet": "kinolab.checkpoints.space_time_unet:SpaceTimeUnetFormat",
            "svd_autoencoder": "kinolab.checkpoints.svd_autoencoder:SvdAutoencoderFormat",
            "svd_autoencoder_sgm": "kinolab.checkpoints.svd_autoencoder_sgm:SvdAutoencoderSgmFormat",
            "autoencoder_kl": "kinolab.checkpoints.autoencoder_kl:AutoencoderKLFormat",
            "ldm_autoencoder": "kinolab.checkpoints.ldm_autoencoder:LdmAutoencoderFormat",
            "causal_vae": "kinolab.checkpoints.causal_vae:CausalVaeFormat",
            "vqgan": "kinolab.checkpoints.vqgan:VqganFormat",
            "tats": "kinolab.checkpoints.tats:TatsFormat",
            "taesd": "kinolab.checkpoints.taesd:TaesdFormat",
            "taesd_diffusers": "kinolab.checkpoints.taesd_diffusers:TaesdDiffusersFormat",
            "latte_diffusers": "kinolab.checkpoints.latte_diffusers:LatteDiffusersFormat",
            "sd3": "kinolab.checkpoints.sd3:Sd3Format",
            "controlnet_sd3": "kinolab.checkpoints.controlnet_sd3:ControlNetSd3Format",
            "sd3_diffusers": "kinolab.checkpoints.sd3_diffusers:Sd3DiffusersFormat",
            "svd_diffusers": "kinolab.checkpoints.svd_diffusers:SvdDiffusersFormat",
            "svd_sgm": "kinolab.checkpoints.svd_sgm:SvdSgmFormat",
            "unet_diffusers": "kinolab.checkpoints.unet_diffusers:UnetDiffusersFormat",
            "unet_ldm": "kinolab.checkpoints.unet_ldm:UnetLdmFormat",
            "controlnet_diffusers": "kinolab.checkpoints.controlnet:ControlNetDiffusersFormat",
            "controlnet": "kinolab.checkpoints.controlnet:ControlNetLdmFormat",
            "modelscope": "kinolab.checkpoints.modelscope:ModelScopeFormat",
            "modelscope_original": "kinolab.checkpoints.modelscope_original:ModelScopeOriginalFormat",
            "tuneavideo": "kinolab.checkpoints.tuneavideo:TuneAVideoFormat",
            "animatediff": "kinolab.checkpoints.animatediff:AnimateDiffFormat",
            "animatediff_diffusers": "kinolab.checkpoints.animatediff:AnimateDiffDiffusersFormat",
            "motion_modules": "kinolab.checkpoints.motion:MotionModulesFormat",
            "motion_adapter": "kinolab.checkpoints.motion:MotionAdapterFormat",
        }
    },
)
"""Layouts of public weights, in the order in which a file's names and shapes are held against them."""

DISTILLATION = "distillation"
JOBS: Table[Job] = Table(
    "training job",
    {
        "": {
            "autoencoder": "kinolab.training.jobs.autoencoder:AutoencoderJob",
            "denoiser": "kinolab.training.jobs.denoiser:DenoiserJob",
            "encoder": "kinolab.training.jobs.encoder:EncoderJob",
            "prior": "kinolab.training.jobs.prior:PriorJob",
            "causal": "kinolab.training.jobs.causal:CausalJob",
        },
        DISTILLATION: {
            "progressive": "kinolab.training.jobs.progressive:ProgressiveJob",
            "consistency": "kinolab.training.jobs.consistency:ConsistencyJob",
            "matching": "kinolab.training.jobs.matching:MatchingJob",
            "self_forcing": "kinolab.training.jobs.self_forcing:SelfForcingJob",
        },
    },
)
"""What a recipe trains, by its `kind`; those of a group are ways to distil a model, which `kinolab distill` offers."""

SIGNALS: Table[Signal] = Table(
    "signal",
    {
        "": {
            "enlarged": "kinolab.data.curate.enlarged:Enlarged",
            "fitted": "kinolab.data.curate.fitted:Fitted",
            "regular": "kinolab.data.curate.regular:Regular",
            "rate": "kinolab.data.curate.rate:Rate",
            "remarks": "kinolab.data.curate.remarks:Remarks",
            "scenes": "kinolab.data.curate.scenes:Scenes",
        }
    },
)
"""What is found out about a clip before it is trained on, in the order in which it is said."""

NAMED = "named"
FRAME_SIGNALS: Table[FrameSignal] = Table(
    "signal",
    {
        "": {
            "native": "kinolab.data.curate.native:Native",
            "cuts": "kinolab.data.curate.cuts:Cuts",
            "motion": "kinolab.data.curate.motion:Motion",
            "text": "kinolab.data.curate.text:Text",
            "sharpness": "kinolab.data.curate.sharpness:Sharpness",
            "exposure": "kinolab.data.curate.exposure:Exposure",
            "blocks": "kinolab.data.curate.blocks:Blocks",
            "bars": "kinolab.data.curate.bars:Bars",
            "duplicates": "kinolab.data.curate.duplicates:Duplicates",
        },
        NAMED: {
            "encoder": "kinolab.data.curate.encoder:Encoder",
            "faces": "kinolab.data.curate.faces:Faces",
        },
    },
)
"""What `kinolab data curate` reads out of frames: all of the first group, and what settings name of the second, which
needs a file of the user's."""

MAPS: Table[ControlMap] = Table(
    "control map",
    {
        "": {
            "edges": "kinolab.conditioning.maps.edges:Edges",
            "luminance": "kinolab.conditioning.maps.edges:Luminance",
            "canny": "kinolab.conditioning.maps.canny:Canny",
            "flow": "kinolab.conditioning.maps.flow:Flow",
            "tracks": "kinolab.conditioning.maps.tracks:Tracks",
            "onnx": "kinolab.conditioning.maps.onnx:Onnx",
            "world_paths": "kinolab.conditioning.maps.world:WorldPaths",
            "world_depth": "kinolab.conditioning.maps.world:WorldDepth",
        }
    },
)
"""What is kept of a clip for a control network to follow, by the `kind` of their config."""

PARTS: Table[ModelPart] = Table(
    "part",
    {
        "": {
            "input_adapter": "kinolab.models.input_adapter:InputAdapter",
            "controlnet": "kinolab.models.controlnet:ControlNetPart",
            "controlnet_mmdit": "kinolab.models.controlnet_mmdit:ControlNetMmditPart",
            "controlnet_dit": "kinolab.models.controlnet_dit:ControlNetDiTPart",
        }
    },
)
"""Networks beside a denoiser that own a port, by the `kind` of their config."""
