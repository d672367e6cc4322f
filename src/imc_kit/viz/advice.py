"""What went wrong in a scene: what happened, the likely cause, and what to try."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from imc_kit.runtime.deadline import RAN_OUT, STOPPED
from imc_kit.runtime.faults import RETRIED
from imc_kit.types import Pair

FEW_KEYPOINTS = 500
"""Images with fewer keypoints get advice: the kit's detectors find thousands in an ordinary photo."""
ENOUGH = 15
"""COLMAP's minimum of inliers for a pair (`min_num_inliers`): pairs with fewer do not count as verified."""
_STAGES = {"incremental mapping": "mapping.2"}
_STAGES |= {stage: stage for stage in ("verification", "readding", "merging", "localisation", "refinement")}
"""The prefix of a step's options, by the name of the step in notes."""
_CAUSES = (
    ("cannot read the image", "the file is damaged or not a photo", ""),
    (STOPPED, "the scene is large, or wrong matches keep COLMAP busy", ""),
    ("the notes before this say why", "a step before it failed, or time ran out", ""),
    ("is truncated", "the file was not copied completely", ""),
    ("weak pairs", "structures repeat, or these photos show little of the same", ""),
    ("ended with", "COLMAP crashed or ran out of memory", "--detector.max-keypoints 4096"),
    (RAN_OUT, "the run's time limit left too little for this scene", "--preset small"),
    (RETRIED, "a fault that may pass, such as a lack of memory, or a file that was not there", ""),
    ("no model came out", "too little overlap, or photos of different places", "--preset aliked"),
)
"""(text in the note, likely cause, option to try); the first match wins."""


@dataclass(frozen=True)
class Advice:
    """One warning: what happened, the likely cause, and the option of `imc-kit solve` to try ('' if none helps).

    which: the affected images; only the first three are named.
    """

    what: str
    cause: str
    option: str = ""
    which: str = ""


def advise(
    models: Sequence[Sequence[str]],
    names: Sequence[str],
    keypoints: Mapping[str, int],
    inliers: Mapping[Pair, int],
    notes: Sequence[str] = (),
    accuracy: float | None = None,
    *,
    separate: bool = False,
) -> list[Advice]:
    """The warnings about one scene.

    models: the images of each model, the largest first. names: all images of the scene.
    keypoints: number by image; unreadable images are missing. inliers: number by verified pair.
    notes: the pipeline's own warnings. accuracy: the year's score, if the truth is known.
    separate: each model is a separate scene, as in 2025.
    """
    placed = {name for model in (models if separate else models[:1]) for name in model}
    out = [name for name in names if name in keypoints and name not in placed]
    about_models = _model_advice(models, len(placed) == len(names), accuracy, separate)
    return [*map(_note_advice, notes), *_image_advice(out, keypoints, inliers, models), *about_models]


def _image_advice(
    out: Sequence[str], keypoints: Mapping[str, int], inliers: Mapping[Pair, int], models: Sequence[Sequence[str]]
) -> Iterator[Advice]:
    """out: the readable images that are in no model that counts."""
    best = dict.fromkeys(out, 0)
    for pair, count in inliers.items():
        best |= {name: max(best[name], count) for name in pair if name in best}
    poor = [name for name in out if keypoints[name] < FEW_KEYPOINTS]
    lonely = [name for name in out if name not in poor and best[name] < ENOUGH]
    linked = [name for name in out if name not in poor and best[name] >= ENOUGH]
    for group, what, cause, option in (
        (poor, f": fewer than {FEW_KEYPOINTS} keypoints", "the photo is blurred, dark or without texture",
         "--preset aliked"),
        (lonely, f": no pair with {ENOUGH} verified matches",
         "another place, another time of day, or a view that overlaps no other photo", "--preset aliked"),
        (linked if models else [], " despite verified matches",
         "too few matches lead to 3D points of the model to compute the camera's pose",
         "--mapping.2.options mapper.abs_pose_min_num_inliers 15"),
    ):  # fmt: skip
        if group:
            are = "1 image is" if len(group) == 1 else f"{len(group)} images are"
            few = ", ".join(group[:3]) + (f" and {len(group) - 3} more" if len(group) > 3 else "")
            yield Advice(f"{are} not in the model{what}", cause, option, few)
    if linked and not models:
        cause = "no initial pair has both enough matches and a large enough triangulation angle"
        option = "--mapping.2.options mapper.init_min_num_inliers 50 mapper.init_min_tri_angle 8"
        yield Advice("There is no model despite verified matches", cause, option)


def _model_advice(
    models: Sequence[Sequence[str]], whole: bool, accuracy: float | None, separate: bool
) -> Iterator[Advice]:
    """whole: every image is in a model that counts."""
    if len(models) > 1 and not separate:
        sizes = ", ".join(str(len(model)) for model in models[:4]) + (", …" if len(models) > 4 else "")
        what = f"The scene split into {len(models)} models (of {sizes} images); only the largest counts"
        cause = "too few matches between groups of photos (see the view graph)"
        yield Advice(what, cause, "--preset aliked")
    if accuracy is not None and models and whole and accuracy < 0.5:
        what = f"Every image is in the model, but the {'score' if separate else 'mAA'} is {accuracy:.2f}"
        cause = "similar-looking parts were matched (see the weakest pairs), or different cameras share intrinsics"
        yield Advice(what, cause, "--cameras.sharing image")


def _note_advice(note: str) -> Advice:
    """A note of the pipeline, with its likely cause and the option to try."""
    text = note.lower()
    cause, option = next((found for part, *found in _CAUSES if part in text), ("see the scene's colmap.log", ""))
    if STOPPED in text and not option:
        option = f"--{next((stage for step, stage in _STAGES.items() if step in text), 'mapping.0')}.time-limit 7200"
    return Advice(note, cause, option)
