"""Join the models of a large scene's partitions, in COLMAP's child process (see `partitioned`)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pycolmap

from imc_kit.colmap.bundle_adjustment import (
    ROUGH,
    TOLERANCE,
    adjust,
    correspondence_graph,
    solve,
    solver,
    triangulation,
)
from imc_kit.colmap.database import id_pair_counts
from imc_kit.colmap.mapping import intrinsics_are_per_image
from imc_kit.colmap.merging import find_similarity, united
from imc_kit.colmap.options import Known
from imc_kit.colmap.steps import MergingConfig
from imc_kit.colmap.support import Evidence, read_evidence

_SHARED = 3
"""Models that share fewer images are not joined: two images and their few points may both be wrong."""
_ITERATIONS = 50
"""Maximum solver iterations of the last bundle adjustment."""
_NO_EVIDENCE = Evidence({}, {})
"""Partitions share images and thus keypoints, which link their points: no matches are needed."""


def join_job(
    database: str, parts: Sequence[Sequence[str]], output: str, threads: int, seed: int, known: Mapping[str, Any]
) -> None:
    """Join the models of partitions, bundle-adjust them, and write them to `output`/0, 1, …, largest first.

    database: the verified matches that they were made from. parts: the folders of each partition's models, largest
    first.

    Raises ValueError when the largest models of two partitions share images but fit no similarity.
    """
    with pycolmap.Database.open(database) as opened:
        cache = pycolmap.DatabaseCache.create(opened, pycolmap.DatabaseCacheOptions(load_all_images=True))
        evidence = read_evidence(opened, sorted(id_pair_counts(opened, verified=True)))
    cameras = Known(**known)
    per_image = intrinsics_are_per_image(Path(database), cameras)
    models = [pycolmap.Reconstruction(folder) for folders in parts for folder in folders]
    for model in models:
        _triangulate(model, correspondence_graph(model, evidence.matches), seed, cameras)
    starts = [sum(map(len, parts[:number])) for number, folders in enumerate(parts) if folders]
    images = [set(model.reg_image_ids()) for model in models]
    groups = _groups(models, images, seed)
    home = {number: index for index, group in enumerate(groups) for number in group}
    for first, second in combinations(starts, 2):
        if home[first] != home[second] and (shared := len(images[first] & images[second])) >= _SHARED:
            raise ValueError(f"two partitions share {shared} images, but their models do not fit together")
    joined: list[Any] = []
    for group in groups:
        lead, *others = group
        if any(set().union(*(images[number] for number in group)) <= set(model.reg_image_ids()) for model in joined):
            continue  # it adds nothing
        model = united(models[lead], [(models[number], group[number]) for number in others], cache)
        graph = correspondence_graph(model, evidence.matches)
        adjust(model, graph, per_image, threads, seed, cameras, tolerance=ROUGH)
        solve(model, solver(threads, _ITERATIONS, robust=False, tolerance=TOLERANCE), cameras.constant)
        joined.append(model)
    for number, model in enumerate(sorted(joined, key=lambda model: -model.num_reg_images())):
        (Path(output) / str(number)).mkdir()
        model.write(Path(output) / str(number))


def _triangulate(model: Any, graph: Any, seed: int, known: Known) -> None:
    """Triangulate all matches, in place: a partition comes with the few longest tracks of each image."""
    triangulator = pycolmap.IncrementalTriangulator(graph, model, pycolmap.ObservationManager(model, graph))
    options = triangulation(model, seed, known)
    for image_id in sorted(model.reg_image_ids()):
        triangulator.triangulate_image(options, image_id)


def _groups(models: Sequence[Any], images: Sequence[set[int]], seed: int) -> list[dict[int, Any]]:
    """The models that fit together, largest group first: the numbers of each group's models, each with the similarity
    that moves it to the group's largest model, which comes first.

    A spanning tree of similarities, from the pair of models that shares the most images on (Kruskal).
    """
    shared = {(a, b): len(images[a] & images[b]) for a, b in combinations(range(len(models)), 2)}
    group = {number: [number] for number in range(len(models))}
    links: dict[int, dict[int, Any]] = defaultdict(dict)
    for (a, b), count in sorted(shared.items(), key=lambda entry: (-entry[1], entry[0])):
        if count < _SHARED or group[a] is group[b]:
            continue
        if similarity := find_similarity(models[b], models[a], _NO_EVIDENCE, MergingConfig(), seed):
            links[a][b], links[b][a] = similarity, similarity.inverse()
            group[a] += group[b]
            group |= dict.fromkeys(group[b], group[a])
    groups = []
    for members in {id(members): members for members in group.values()}.values():
        lead = max(members, key=lambda number: (len(images[number]), -number))
        moved, waiting = {lead: pycolmap.Sim3d()}, [lead]
        while waiting:
            one = waiting.pop(0)
            new = {other: moved[one] * link for other, link in links[one].items() if other not in moved}
            moved |= new
            waiting += new
        groups.append(moved)
    return sorted(groups, key=lambda moved: -len(set().union(*(images[number] for number in moved))))
