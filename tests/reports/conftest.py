"""The tiny random model that the evaluations are tested with, and the folders of 0.1.0."""

from tests.evaluation.conftest import tiny_config, tiny_model
from tests.net.conftest import net

__all__ = ["net", "tiny_config", "tiny_model"]
