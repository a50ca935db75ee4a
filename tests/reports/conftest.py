"""The tiny random model that the evaluations are tested with."""

from tests.evaluation.conftest import tiny_config, tiny_model

__all__ = ["tiny_config", "tiny_model"]
