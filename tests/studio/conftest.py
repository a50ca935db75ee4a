"""The tiny random model that the studio's jobs sample."""

from tests.evaluation.conftest import tiny_config, tiny_model

__all__ = ["tiny_config", "tiny_model"]
