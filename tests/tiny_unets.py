"""Tiny configs of the U-Net and of the systems made of it, which the tests of every denoiser run too.

All have 4 channels, latents of 4 x 4, 5 classes and prompts of 8 numbers.
"""

from __future__ import annotations

from typing import Any

from kinolab import denoisers
from kinolab.config import Config

SMALL: dict[str, Any] = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "attention_levels": (0,), "num_heads": 2, "norm_groups": 4,
    "input_size": 4, "num_classes": 5, "text_dim": 8,
}  # fmt: skip
UNETS: dict[str, Config] = {
    "unet": denoisers.UnetConfig(**SMALL),
    "svd": denoisers.SvdConfig(**SMALL, head_size=None, number_features=6, context="text", concatenated={}),
    "modelscope": denoisers.ModelScopeConfig(**SMALL),
    "animatediff": denoisers.AnimateDiffConfig(**SMALL, motion_heads=2, version="v2"),
    "video_ldm": denoisers.VideoLdmConfig(**SMALL, num_frames=4),
    "makeavideo": denoisers.MakeAVideoConfig(**SMALL, num_frames=4),
    "imagen_video": denoisers.ImagenVideoConfig(**SMALL, num_frames=4),
    "tuneavideo": denoisers.TuneAVideoConfig(**SMALL, num_frames=4),
}
"""By the `kind` of each."""
