"""Which pairs of images to match."""

from imc_kit.retrieval.pairs import exhaustive

__all__ = ["exhaustive"]
