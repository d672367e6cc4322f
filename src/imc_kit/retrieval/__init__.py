"""Which pairs of images to match."""

from imc_kit.retrieval.pairs import Pair, exhaustive

__all__ = ["Pair", "exhaustive"]
