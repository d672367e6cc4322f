"""hloc's files, written and read as its own code does (`extract_features.py`, `match_features.py`, `utils/io.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

Found = tuple[Any, Any]
"""Keypoints [N, 2] and descriptors [N, D]."""


def detect(photo: Path) -> Found:
    """RootSIFT in the raster that hloc reads."""
    pixels = cv2.imread(str(photo), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    keypoints, descriptors = cv2.SIFT_create(1000, contrastThreshold=0.0133).detectAndCompute(pixels, None)
    return cv2.KeyPoint.convert(keypoints), np.sqrt(descriptors / descriptors.sum(1, keepdims=True))


def match(first: Found, second: Found) -> tuple[Any, Any]:
    """`matches0` and `matching_scores0`, by the ratio test."""
    matches, scores = np.full(len(first[0]), -1, np.int16), np.zeros(len(first[0]), np.float16)
    for best, other in cv2.BFMatcher().knnMatch(first[1], second[1], k=2):
        if best.distance < 0.8 * other.distance:
            matches[best.queryIdx], scores[best.queryIdx] = best.trainIdx, 1 - best.distance / other.distance
    return matches, scores


def write_features(path: Path, found: Mapping[str, Found], sizes: Mapping[str, tuple[int, int]], half: bool) -> None:
    with h5py.File(str(path), "a", libver="latest") as fd:
        for name, (keypoints, descriptors) in found.items():
            pred = {"keypoints": keypoints, "descriptors": descriptors.T, "scores": np.ones(len(keypoints), np.float32)}
            if half:
                pred = {key: value.astype(np.float16) for key, value in pred.items()}
            grp = fd.create_group(name)
            for key, value in (pred | {"image_size": np.array(sizes[name])}).items():
                grp.create_dataset(key, data=value)
            grp["keypoints"].attrs["uncertainty"] = 1.0


def write_matches(path: Path, matched: Mapping[tuple[str, str], tuple[Any, Any]]) -> None:
    with h5py.File(str(path), "a", libver="latest") as fd:
        for (name0, name1), (matches, scores) in matched.items():
            grp = fd.create_group("/".join((name0.replace("/", "-"), name1.replace("/", "-"))))
            grp.create_dataset("matches0", data=matches)
            grp.create_dataset("matching_scores0", data=scores)


def get_keypoints(path: Path, name: str) -> Any:
    with h5py.File(str(path), "r", libver="latest") as hfile:
        return hfile[name]["keypoints"].__array__()


def get_matches(path: Path, name0: str, name1: str) -> tuple[Any, Any]:
    with h5py.File(str(path), "r", libver="latest") as hfile:
        pair, reverse = "/".join((name0.replace("/", "-"), name1.replace("/", "-"))), False
        if pair not in hfile:
            pair, reverse = "/".join((name1.replace("/", "-"), name0.replace("/", "-"))), True
        matches = hfile[pair]["matches0"].__array__()
        scores = hfile[pair]["matching_scores0"].__array__()
    idx = np.where(matches != -1)[0]
    matches = np.stack([idx, matches[idx]], -1)
    return np.flip(matches, -1) if reverse else matches, scores[idx]


def parse_retrieval(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for line in path.read_text().rstrip("\n").split("\n"):
        query, other = line.split()
        pairs.append((query, other))
    return pairs
