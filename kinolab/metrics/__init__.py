"""Metrics: one file per family, one line of this table per score.

The table is read by protocols, scores, reports and the sensitivity report; a class from elsewhere joins it with
`METRICS.register(NAME, KIND OF PROTOCOL)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kinolab.contracts.table import Table

if TYPE_CHECKING:
    from kinolab.metrics.base import Metric

METRICS: Table[Metric] = Table(
    "metric",
    {
        "reconstruction": {
            "psnr": "kinolab.metrics.reconstruction:Psnr",
            "ssim": "kinolab.metrics.reconstruction:Ssim",
            "ssim3d": "kinolab.metrics.reconstruction:Ssim3d",
            "flicker": "kinolab.metrics.temporal:Flicker",
            "warp": "kinolab.metrics.temporal:WarpError",
            "grid": "kinolab.metrics.temporal:GridArtefacts",
            "detail": "kinolab.metrics.temporal:FrequencyProfile",
            "lpips": "kinolab.metrics.perceptual:Lpips",
            "seam": "kinolab.metrics.temporal:SeamError",
            "rfvd": "kinolab.metrics.frechet:Rfvd",
        },
        "generation": {
            "fvd": "kinolab.metrics.frechet:Fvd",
            "fvd_infinite": "kinolab.metrics.frechet:Fvd",
            "kvd": "kinolab.metrics.kernel:Kvd",
            "fid": "kinolab.metrics.frechet:Fid",
            "kid": "kinolab.metrics.kernel:Kid",
            "precision": "kinolab.metrics.manifold:ManifoldMetrics",
            "recall": "kinolab.metrics.manifold:ManifoldMetrics",
            "density": "kinolab.metrics.manifold:ManifoldMetrics",
            "coverage": "kinolab.metrics.manifold:ManifoldMetrics",
            "inception_score": "kinolab.metrics.inception_score:InceptionScore",
            "temporal_flickering": "kinolab.metrics.quality:TemporalFlickering",
            "motion_smoothness": "kinolab.metrics.quality:MotionSmoothness",
            "dynamic_degree": "kinolab.metrics.quality:DynamicDegree",
            "subject_consistency": "kinolab.metrics.quality:SubjectConsistency",
            "background_consistency": "kinolab.metrics.quality:BackgroundConsistency",
            "prompt_agreement": "kinolab.metrics.text:PromptAgreement",
        },
        "world": {
            "asked_colours": "kinolab.metrics.summaries:Passed",
            "asked_shapes": "kinolab.metrics.summaries:Passed",
            "asked_count": "kinolab.metrics.summaries:Passed",
            "asked_direction": "kinolab.metrics.summaries:Passed",
            "asked_motion": "kinolab.metrics.summaries:Passed",
            "asked_identity": "kinolab.metrics.summaries:Passed",
            "asked_all": "kinolab.metrics.summaries:Passed",
            "roughness": "kinolab.metrics.summaries:Median",
        },
        "physics": {
            "position_error": "kinolab.metrics.summaries:LessIsBetter",
            "contact_error": "kinolab.metrics.summaries:LessIsBetter",
            "found": "kinolab.metrics.summaries:MoreIsBetter",
            "identity": "kinolab.metrics.summaries:Passed",
            "momentum": "kinolab.metrics.summaries:Median",
            "energy": "kinolab.metrics.summaries:Median",
            "hits": "kinolab.metrics.summaries:MoreIsBetter",
            "timing": "kinolab.metrics.summaries:LessIsBetter",
            "colour_error": "kinolab.metrics.summaries:LessIsBetter",
            "at_place": "kinolab.metrics.summaries:MoreIsBetter",
            "place_error": "kinolab.metrics.summaries:LessIsBetter",
            "own_colour": "kinolab.metrics.summaries:MoreIsBetter",
            "own_shape": "kinolab.metrics.summaries:MoreIsBetter",
        },
        "edits": {
            "edited": "kinolab.metrics.summaries:Passed",
            "edited_colour": "kinolab.metrics.summaries:Passed",
            "edited_shape": "kinolab.metrics.summaries:Passed",
        },
        "zero": {
            "kept_colours": "kinolab.metrics.summaries:Passed",
            "kept_shapes": "kinolab.metrics.summaries:Passed",
            "kept_identity": "kinolab.metrics.summaries:Passed",
            "kept": "kinolab.metrics.summaries:Passed",
            "within_half_latent": "kinolab.metrics.summaries:Passed",
        },
        "control": {
            "followed": "kinolab.metrics.summaries:MoreIsBetter",
            "colour_kept": "kinolab.metrics.summaries:MoreIsBetter",
            "shape_kept": "kinolab.metrics.summaries:MoreIsBetter",
        },
        "tasks": {
            "given_psnr": "kinolab.metrics.summaries:Decibels",
            "made_psnr": "kinolab.metrics.summaries:Decibels",
        },
        "tune": {
            "seconds_per_clip": "kinolab.metrics.summaries:Amount",
            "faster": "kinolab.metrics.summaries:MoreIsBetter",
            "drift_psnr": "kinolab.metrics.summaries:Decibels",
        },
        "plan": {
            "run_seconds": "kinolab.metrics.summaries:Amount",
            "peak_memory": "kinolab.metrics.summaries:Amount",
            "disk_bytes": "kinolab.metrics.summaries:Amount",
            "cost": "kinolab.metrics.summaries:Amount",
        },
    },
)
"""Every score by the name that protocols have for it, in groups by the kind of protocol."""


def better_of(name: str) -> str | None:
    """What a good value of a score is; none where it is neither, or no score of the table."""
    return METRICS.get(name).better if name in METRICS else None


def digits_of(name: str) -> int:
    """Decimals that a score is shown with; 4 where nothing is said."""
    return METRICS.get(name).digits if name in METRICS else 4


def assumed_of(name: str) -> str:
    """What counts as good where a side has to be taken; more where nothing is said."""
    cls = METRICS.get(name)
    return cls.better or cls.assumed or "higher"
