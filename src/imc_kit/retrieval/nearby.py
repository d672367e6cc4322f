"""Pairs of photos that were taken near each other."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from imc_kit.retrieval.pairs import named
from imc_kit.types import Float64, Pair


def nearby(images: Sequence[str], places: Float64, k: int) -> list[Pair]:
    """Pair each image with the k nearest ones, and with its neighbours in all directions.

    places: x, y, z [N, 3] in metres; images whose place is nan are in no pair.

    Where photos follow each other closely, the k nearest are all on one flight line. So there are also the edges of a
    Delaunay triangulation in the plane in which the places extend most: they join every line to the next.
    """
    from scipy.spatial import Delaunay, QhullError

    known = np.flatnonzero(np.isfinite(places).all(axis=1))
    places = places[known]
    others = neighbours(places, k)[1]
    edges = [np.stack([np.repeat(known, others.shape[1]), known[others].ravel()], axis=1)]
    if len(known) >= 4:  # as Qhull needs
        centred = places - places.mean(axis=0)
        plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        with suppress(QhullError):  # they lie on a line
            triangles = known[Delaunay(plane).simplices]
            edges += [triangles[:, [i, i - 1]] for i in range(3)]
    return named(images, np.concatenate(edges))


def neighbours(places: Float64, k: int) -> tuple[Float64, NDArray[np.int64]]:
    """The distances of the k places nearest to each, and their row numbers, both [N, k], nearest first.

    places: finite, [N, 3]. Of fewer than k others, all.
    """
    from scipy.spatial import KDTree

    count = len(places)
    k = max(0, min(k, count - 1))
    if not k:
        return np.empty((count, 0)), np.empty((count, 0), np.int64)
    distances, others = KDTree(places).query(places, k + 1)
    # Each place is among its own neighbours, but not always first; of many equal places it may be missing.
    own = others == np.arange(count)[:, None]
    own[~own.any(axis=1), -1] = True
    return distances[~own].reshape(count, k), others[~own].reshape(count, k).astype(np.int64)
