"""Explore one scene in memory: features, matches and neighbours of a few photos. The notebooks use these functions.

For whole scenes use `pipeline.run.solve`, which does the same and keeps its results on disk.
"""

import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from imc_kit import metric, viz
from imc_kit.colmap import database, database_files, verification
from imc_kit.data import images, masks, scenes
from imc_kit.data.images import Photo
from imc_kit.data.masks import MaskConfig
from imc_kit.data.scenes import Task
from imc_kit.detectors import DetectorConfig, extract
from imc_kit.errors import KitError
from imc_kit.kaggle import input_root
from imc_kit.matchers import MatcherConfig, check_accepts
from imc_kit.pipeline.out_folder import scene_folder
from imc_kit.pipeline.results import Run, SceneResult
from imc_kit.pipeline.tasks import loaded
from imc_kit.retrieval import AggregateConfig, DescriptorConfig, NetworkDescriptorConfig
from imc_kit.runtime import weights
from imc_kit.runtime.executors import workers
from imc_kit.synthetic import plaza
from imc_kit.types import Correspondences, Features, Float32, Mask, Model, Pair, Scene
from imc_kit.viewgraph.two_view import VerificationConfig

ENOUGH = 15
"""Mapping uses pairs with at least this many inliers: the default of `VerificationConfig.min_inliers`."""
_MAX_DEPTH = 4
"""Search for an attached competition this many levels below Kaggle's input root. Kaggle mounts it 1 to 3 deep."""

Counts = dict[Pair, int]
Neighbour = tuple[str, Photo, float]
"""The name and the photo of a view, and its similarity."""


@dataclass(frozen=True, eq=False)
class ImageView:
    """A photo and its features; `str` summarises them.

    photo: at the detector's input size. kind: descriptor kind. seconds: detection time only.
    """

    photo: Photo
    features: Features
    kind: str
    seconds: float

    def __str__(self) -> str:
        text = f"{len(self.features):,} keypoints in {self.seconds:.2f} s"
        if self.features.scales is None or not len(self.features):
            return text
        low, middle, high = np.percentile(self.features.scales, [5, 50, 95])
        return f"{text}, scales {low:.2g} to {high:.2g} pixels, median {middle:.2g}"


@dataclass(frozen=True, eq=False)
class Matched:
    """The matches of two views, best first, and which of them were verified; `str` summarises them.

    seconds: matching time only.
    """

    matches: Correspondences
    inliers: Mask
    seconds: float

    def __str__(self) -> str:
        good = int(self.inliers.sum())
        share = f" ({good / len(self.inliers):.0%})" if len(self.inliers) else ""
        return f"{len(self.matches):,} matches, {good:,} inliers{share}, in {self.seconds:.2f} s"


Views = Mapping[str, ImageView]
"""The views of a scene by image name."""


def open_input(given: Path | str = "", *, truth: bool = False) -> Task:
    """The photos to explore: from `given`, else from the attached competition, else from a rendered scene.

    given: a folder for `scenes.load`. A competition is attached where Kaggle mounts it, or in the folder that
        IMC_KIT_INPUT names: the competition's root or a folder of photos.
    truth: require a truth.csv; without one the rendered scene is used.

    The rendered scene is in a temporary folder that is deleted when Python exits. Raises `KitError` when `given` cannot
    be used, and when several competitions are attached.
    """
    if given:
        task = scenes.load(given)
        if truth and not (task.root / "truth.csv").is_file():
            raise KitError(f"{task.root} has no truth.csv: add the true poses, in the submission's columns")
        return task
    folder = _attached()
    if folder is None or (truth and not (folder / "truth.csv").is_file()):
        folder = Path(_rendered().name)
    return scenes.load(folder)


def usable(choices: Mapping[str, Any], *arguments: Any) -> tuple[dict[str, Any], str]:
    """The configurations of detectors, matchers or global descriptors that can run here, and a sentence on the others.

    choices: configurations by label. arguments: passed to `create`; matchers need the descriptor kind.
    """
    found = {}
    missing: dict[str, list[str]] = {}
    reasons = []
    for name, config in choices.items():
        files = [weights.manifest()[file] for file in config.weight_files(*arguments)]
        if lacking := [file.name for file in files if weights.usable(weights.places(), file) is None]:
            missing[name] = lacking
            continue
        try:
            config.create(*arguments)
            found[name] = config
        except KitError as error:
            reasons.append(f"Without {name}: {error}.")
    if missing:
        get = " ".join(dict.fromkeys(file for lacking in missing.values() for file in lacking))
        reasons.insert(0, f"Without {', '.join(missing)}: no weight files here (imc-kit weights get {get}).")
    return found, " ".join(reasons) or f"All of them: {', '.join(found)}."


def view(scene: Scene, name: str, detector: DetectorConfig, mask: MaskConfig | None = None) -> ImageView:
    """Load one photo of a scene and detect features where the mask allows.

    Raises `KitError` when the photo cannot be read or the detector cannot run.
    """
    ready = loaded(detector)
    photo = images.load(scene.path(name), detector.long_side)
    allowed = None if mask is None else masks.mask(photo, name, mask)
    started = time.perf_counter()
    (features,) = extract(ready, [photo], [allowed])
    return ImageView(photo, features, detector.kind, time.perf_counter() - started)


def views(scene: Scene, detector: DetectorConfig, *, most: int = 24) -> dict[str, ImageView]:
    """The views of a scene by image name, in scene order; `most` evenly spaced ones if the scene is larger."""
    chosen = np.linspace(0, len(scene.images) - 1, min(most, len(scene.images))).round().astype(int)
    names = [scene.images[number] for number in chosen]
    with workers(None, None) as pool:
        return dict(zip(names, pool.map(lambda name: view(scene, name, detector), names), strict=True))


def describe(views: Views, descriptor: DescriptorConfig) -> Float32:
    """A global descriptor of each view, [N, D]. Rows have unit (or zero) norm, so dot products are similarities."""
    if isinstance(descriptor, NetworkDescriptorConfig):
        return descriptor.create().describe([view.photo.pixels for view in views.values()])
    assert isinstance(descriptor, AggregateConfig)
    return descriptor.create().describe(list(views), lambda name: views[name].features)


def neighbours(views: Views, rows: Float32, name: str, count: int = 7) -> tuple[tuple[str, Photo], list[Neighbour]]:
    """A view and its `count` most similar views, most similar first, for `viz.draw_neighbours`.

    rows: descriptors of all views, from `describe`.
    """
    names = list(views)
    similarity = rows @ rows[names.index(name)]
    order = [number for number in np.argsort(-similarity, kind="stable") if names[number] != name]
    nearest = [(names[number], views[names[number]].photo, float(similarity[number])) for number in order[:count]]
    return (name, views[name].photo), nearest


def match(views: Views, pairs: Sequence[Pair], matcher: MatcherConfig) -> dict[Pair, Matched]:
    """Match pairs of views and verify them, as the pipeline does.

    Raises `KitError` when the matcher does not accept the views' descriptors or cannot run.
    """
    return dict(zip(pairs, _matched(views, pairs, [matcher] * len(pairs)), strict=True))


def match_with(views: Views, pair: Pair, matchers: Mapping[str, MatcherConfig]) -> dict[str, Matched]:
    """Match and verify one pair with each matcher. Matchers and results are by label."""
    return dict(zip(matchers, _matched(views, [pair] * len(matchers), matchers.values()), strict=True))


def counts(matched: Mapping[Pair, Matched]) -> tuple[Counts, Counts]:
    """The number of matches and the number of inliers of each pair, for the figures of `viz`."""
    matches = {pair: len(found.matches) for pair, found in matched.items()}
    return matches, {pair: int(found.inliers.sum()) for pair, found in matched.items()}


def scene_counts(out: Path | str, scene: str) -> tuple[Counts, Counts]:
    """The same for a scene that `solve` wrote to `out`. Raises `KitError` when its database is missing."""
    folder = scene_folder(Path(out, "scenes"), scene)
    path = folder / database_files.NAME
    if not path.exists():
        raise KitError(f"there is no {path}: solve the scene again")
    return database.match_counts(path), verification.inlier_counts(path)


def truth(task: Task) -> dict[str, Path]:
    """The ground-truth file of a task, for `compare` and `write_report`. Raises `KitError` when there is none."""
    return {"truth": metric.find_truth(task.root, task.keys)}


def score(task: Task, submission: Path | str) -> metric.AnyScore:
    """A submission's score on the task's scenes only. Raises `KitError` if a file is missing or cannot be read."""
    names = [scene.name for scene in task.scenes]
    return metric.score_files(truth(task)["truth"], submission, scenes=names).result


def worst_scene(run: Run) -> Any:
    """The view graph of the scene with the smallest share of registered photos, or a sentence on why there is none."""
    share = {
        name: result.counts["registered"] / max(1, result.counts["images"])
        for name, result in run.scenes.items()
        if result.placements
    }
    if not share:
        return "no scene was solved"
    name = min(share, key=lambda name: share[name])
    placements = run.scenes[name].placements
    try:
        _, inliers = scene_counts(run.submission.parent, name)
        models = {image: placement.model for image, placement in placements.items()}
        return viz.draw_graph(list(placements), inliers, models).update_layout(
            title=f"{name}, {share[name]:.0%} registered"
        )
    except KitError as error:
        return f"{name} cannot be drawn: {error}"


def largest_model(result: SceneResult) -> Model:
    """The largest model of a solved scene; an empty one if it has none."""
    return result.models[0] if result.models else Model(Path(), {})


def judge(selected: Sequence[Pair], inliers: Mapping[Pair, int], least: int = ENOUGH) -> str:
    """How good a selection of pairs is, in a sentence. inliers: of all candidate pairs."""
    good = {frozenset(pair) for pair, count in inliers.items() if count >= least}
    kept = good & {frozenset(pair) for pair in selected}
    hits = f"{len(kept)} of the {len(good)} that have {least} inliers or more"
    return f"{len(selected)} of {len(inliers)} pairs, with {hits}"


def _matched(views: Views, pairs: Iterable[Pair], matchers: Iterable[MatcherConfig]) -> list[Matched]:
    """Match and verify each pair with the matcher at the same position."""

    def matched(pair: Pair, matcher: MatcherConfig) -> Matched:
        first, second = (views[name] for name in pair)
        check_accepts(matcher, first.kind)
        ready = loaded(matcher, first.kind)
        started = time.perf_counter()
        found = ready.match(first.features, second.features)
        seconds = time.perf_counter() - started
        best_first = np.argsort(-found.scores, kind="stable")
        rows = found.indices[best_first]
        points = first.features.keypoints[rows[:, 0]], second.features.keypoints[rows[:, 1]]
        _, inliers = VerificationConfig().verify(*points)
        return Matched(Correspondences(*points, found.scores[best_first]), inliers, seconds)

    with workers(None, None) as pool:
        return list(pool.map(matched, pairs, matchers))


def _attached() -> Path | None:
    """The folder of the attached competition, or the folder of photos that IMC_KIT_INPUT names."""
    root = input_root()
    for depth in range(_MAX_DEPTH + 1):
        found = sorted(path.parent for path in root.glob("*/" * depth + "sample_submission.csv"))
        if len(found) > 1:
            raise KitError(f"several competitions are attached: {', '.join(map(str, found))}; set INPUT to one of them")
        if found:
            return found[0]
    return root if os.environ.get("IMC_KIT_INPUT") else None


@cache
def _rendered() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="imc-kit-", ignore_cleanup_errors=True)
    plaza.write_scene(folder.name)
    return folder
