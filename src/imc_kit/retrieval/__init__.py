"""Pair selection, and the global descriptors that it uses: `DESCRIPTORS` finds them by name."""

from __future__ import annotations

from imc_kit.retrieval.base import (
    DESCRIPTORS,
    Aggregate,
    AggregateConfig,
    DescriptorConfig,
    Network,
    NetworkDescriptorConfig,
    register,
)
from imc_kit.retrieval.pairs import (
    PairsConfig,
    by_matches,
    exhaustive,
    nearest_first,
    read_pairs,
    select,
    sequential,
    similar,
)

__all__ = [
    "DESCRIPTORS",
    "Aggregate",
    "AggregateConfig",
    "DescriptorConfig",
    "Network",
    "NetworkDescriptorConfig",
    "PairsConfig",
    "by_matches",
    "exhaustive",
    "nearest_first",
    "read_pairs",
    "register",
    "select",
    "sequential",
    "similar",
]
