"""Which pairs of a scene to match, and which images to rotate upright."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from math import inf

import numpy as np

from imc_kit.config import CHEAP, fingerprint
from imc_kit.data.imported import aliases
from imc_kit.data.store import pair_key
from imc_kit.pipeline.matching import Matching
from imc_kit.pipeline.records import ImageRecord
from imc_kit.pipeline.static import each_pair, without_static
from imc_kit.pipeline.tasks import Records
from imc_kit.retrieval import AggregateConfig, DescriptorConfig, NetworkDescriptorConfig, pairs
from imc_kit.retrieval.aggregates import VladConfig
from imc_kit.retrieval.listed import read_pairs
from imc_kit.retrieval.nearby import nearby
from imc_kit.runtime import deadline, faults, progress
from imc_kit.types import Features, Float32, Float64, Pair
from imc_kit.viewgraph.lowres import PairOverlap, pair_overlap
from imc_kit.viewgraph.orientation import assign_rotations

log = logging.getLogger(__name__)

_LOW_RESOLUTION = 0.5
"""Share of the time for low-resolution matching; the rest is for full resolution. After a quick answer, these matches
are already in the store."""
_DESCRIPTION = 0.3
"""Seconds per image to aggregate local features into a global descriptor; skipped if less time is left."""
_RANKING = VladConfig(sample=4000, keypoints=2000)
"""The VLAD of `similarity`. Few local descriptors suffice, because it only ranks candidates for unregistered images
(docs/benchmarks.md)."""


def select(matching: Matching, records: Records, given: Sequence[Pair] | None) -> list[Pair]:
    """The pairs to match, most useful first if time is limited.

    given: the caller's pairs; None selects them by `config.pairs`.
    """
    chosen = _selected(matching, records) if given is None else given
    chosen = [(first, second) for first, second in chosen if first in records and second in records]
    if matching.until == inf:
        return chosen
    return pairs.nearest_first(list(records), chosen, _expected_overlap(matching, records, chosen))


def upright(matching: Matching, records: Records) -> dict[str, ImageRecord]:
    """The same images, each with the 90° rotation that makes it upright according to low-resolution matches."""
    found = overlaps(matching, records)
    votes = {pair: (overlap.rotation_quarters, overlap.weight) for pair, overlap in found.items()}
    rotations = assign_rotations(list(records), votes)
    if count := sum(rotation != 0 for rotation in rotations.values()):
        log.info("%s: %d images are rotated upright", matching.scene.name, count)
    return {name: replace(record, info=record.info.rotated(rotations[name])) for name, record in records.items()}


def upright_like(matching: Matching, records: Records, known: Records) -> dict[str, ImageRecord]:
    """The same images, each with the 90° rotation that agrees best with images whose rotations are `known`."""
    unrotated = {name: replace(one, info=one.info.rotated(-one.info.extra_quarters)) for name, one in known.items()}
    candidates = [(name, other) for other in records for name in known]
    weights = {name: np.zeros(4) for name in records}
    for (name, other), overlap in overlaps(matching, {**unrotated, **records}, candidates).items():
        quarters = known[name].info.extra_quarters + overlap.rotation_quarters
        weights[other][quarters % 4] += overlap.weight
    return {
        name: replace(record, info=record.info.rotated(int(weights[name].argmax()))) for name, record in records.items()
    }


def similarity(matching: Matching, records: Records, until: float = inf) -> Callable[[str, str], float | None]:
    """A function of two image names: how alike the images look, −1 … 1, by the VLAD of their features.

    The first call computes the VLAD. The function returns None for an image that is not in `records`, and for all
    images if the time until the deadline `until` is too short.
    """
    row = {name: number for number, name in enumerate(records)}

    @cache
    def descriptors() -> Float32 | None:
        if deadline.left(until) <= _DESCRIPTION * len(records):
            return None
        return _describe(matching, records, _RANKING)

    def alike(first: str, second: str) -> float | None:
        if first not in row or second not in row or (rows := descriptors()) is None:
            return None
        return float(rows[row[first]] @ rows[row[second]])

    return alike


@progress.titled("low resolution")
def overlaps(matching: Matching, records: Records, given: Sequence[Pair] | None = None) -> dict[Pair, PairOverlap]:
    """The overlap of the given pairs; by default of all pairs, or of the most similar ones in a large scene."""
    cheap = _low_resolution(matching)
    usable = cheap.detect(records)
    chosen = _selected(cheap, usable) if given is None else [pair for pair in given if usable.keys() >= {*pair}]
    found = without_static(cheap, cheap.match(usable, chosen), usable, chosen)
    matching.notes += [note for note in cheap.notes if faults.happened([note])]
    keypoints = {name: found.features(name).without_descriptors() for name in usable}
    measured = each_pair(cheap, "overlaps", pair_overlap, keypoints, found.matches, chosen)
    if len(measured) < len(chosen):
        done = f"{len(measured)} of {len(chosen)} pairs were compared at low resolution"
        matching.notes.append(f"{deadline.RAN_OUT}, {done}")
    return measured


def _low_resolution(matching: Matching) -> Matching:
    config = replace(CHEAP, static=matching.config.static, positions=matching.config.positions)
    until = deadline.portion(matching.until, _LOW_RESOLUTION)
    cheap = Matching(matching.scene, matching.store, config, matching.executor, until)
    cheap.positions = matching.positions
    return cheap


def _selected(matching: Matching, records: Records) -> Sequence[Pair]:
    config, imported, images = matching.config.pairs, matching.config.imported, matching.scene.images
    if imported.pairs:
        return read_pairs(imported.pairs, images, matching.notes, aliases(matching.scene))
    if imported.has_matches:
        return matching.imported.pairs(records)
    if matching.positions.select_pairs(list(records), matching.config.positions, config):
        return _nearby(matching, records)
    if config.method == "matches" and len(records) > config.exhaustive_up_to:
        counts = {pair: overlap.inliers for pair, overlap in overlaps(matching, records).items()}
        return pairs.by_matches(list(records), counts, config)
    names = images if config.method == "file" else list(records)  # a file may name unreadable images
    return pairs.select(names, config, partial(_describe, matching, records), matching.notes)


def _nearby(matching: Matching, records: Records) -> Sequence[Pair]:
    """The pairs of images taken near each other, and retrieval's pairs of images without positions."""
    config, names, positions = matching.config, list(records), matching.positions
    chosen = nearby(names, positions.table(names), config.positions.k)
    if nowhere := {name for name in names if name not in positions.metres}:
        found = pairs.select(names, config.pairs, partial(_describe, matching, records))
        number = {name: i for i, name in enumerate(names)}
        more = (pair for pair in found if not nowhere.isdisjoint(pair))
        chosen = sorted({*chosen, *more}, key=lambda pair: (number[pair[0]], number[pair[1]]))
    return chosen


def _expected_overlap(matching: Matching, records: Records, chosen: Sequence[Pair]) -> Float64:
    """An estimate of how much images overlap, [N, N], from stored results only.

    This is the number of matches in the quick answer, if there was one. Ties go to images close together in the list,
    because photos are often taken in order.
    """
    row = {name: number for number, name in enumerate(records)}
    numbers = np.arange(len(records), dtype=np.float64)
    overlap = -np.abs(numbers[:, None] - numbers) / max(1, len(records))
    # The quick answer rotates images by EXIF only, not by the rotation estimated from matches.
    key = {name: replace(one, info=replace(one.info, extra_quarters=0)).key for name, one in records.items()}
    quick = matching.store.matches(fingerprint(CHEAP.detector, CHEAP.matcher, matching.config.masks))
    for first, second in chosen:
        if (pair := pair_key(key[first], key[second])) in quick:
            overlap[row[first], row[second]] += len(quick[pair])
            overlap[row[second], row[first]] = overlap[row[first], row[second]]
    return overlap


def _describe(matching: Matching, records: Records, descriptor: DescriptorConfig) -> Float32:
    """A global descriptor of every image, [N, D]."""
    if isinstance(descriptor, NetworkDescriptorConfig):
        return _describe_by_network(matching, records, descriptor)
    assert isinstance(descriptor, AggregateConfig)
    if matching.config.sparse:
        pipeline = matching.config.sparse[0]
        table, keyed = matching.features(pipeline), matching.keyed(pipeline, records)

        def features(name: str) -> Features:
            found = name in keyed and keyed[name].key in table
            return table[keyed[name].key] if found else Features.empty(records[name].info.size, 0)

        if any(features(name).descriptors.shape[1] for name in records):  # imported features may have none
            return descriptor.create().describe(list(records), features)
    cheap = _low_resolution(matching)
    cheap.detect(records)
    return _describe(cheap, records, descriptor)


def _describe_by_network(matching: Matching, records: Records, descriptor: NetworkDescriptorConfig) -> Float32:
    """The same from a network. An image that cannot be described gets zeros, which are similar to nothing."""
    table = matching.store.descriptors(fingerprint(descriptor))
    matching.notes += matching.tasks(records).describe(table, descriptor)
    rows = {name: table[record.key] for name, record in records.items() if record.key in table}
    zeros = np.zeros_like(next(iter(rows.values()), np.empty(0, np.float32)))
    return np.array([rows.get(name, zeros) for name in records], np.float32)
