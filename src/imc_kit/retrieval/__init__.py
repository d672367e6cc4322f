"""Which pairs of images to match, and global descriptors to find them by."""

from __future__ import annotations

from imc_kit.errors import unknown_name
from imc_kit.retrieval.aggregates import FisherConfig, VladConfig
from imc_kit.retrieval.base import Aggregate, AggregateConfig, DescriptorConfig, Network, NetworkDescriptorConfig
from imc_kit.retrieval.networks import ClipConfig, DinoConfig, ResNetConfig
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
    "ClipConfig",
    "DescriptorConfig",
    "DinoConfig",
    "FisherConfig",
    "Network",
    "NetworkDescriptorConfig",
    "PairsConfig",
    "ResNetConfig",
    "VladConfig",
    "by_matches",
    "descriptor_class",
    "exhaustive",
    "nearest_first",
    "read_pairs",
    "select",
    "sequential",
    "similar",
]

DESCRIPTORS: dict[str, type[DescriptorConfig]] = {
    config.name: config for config in (VladConfig, FisherConfig, DinoConfig, ResNetConfig, ClipConfig)
}


def descriptor_class(name: str) -> type[DescriptorConfig]:
    """The options of a global descriptor, by its name. Raises `KitError` with the nearest name if there is none."""
    if name not in DESCRIPTORS:
        raise unknown_name("descriptor", name, DESCRIPTORS)
    return DESCRIPTORS[name]
