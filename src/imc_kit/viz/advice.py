"""What did not go well in a scene, in plain words: what, why most likely, and what to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imc_kit.runtime.deadline import RAN_OUT

FEW_KEYPOINTS = 500
"""Images with fewer are worth a word: the kit's detectors find thousands in an ordinary photograph."""
WORTH = 15
"""COLMAP makes nothing of pairs with fewer inliers."""
_STAGES = {
    "incremental mapping": "mapping.2",
    "verification": "verification",
    "readding": "readding",
    "merging": "merging",
    "localisation": "localisation",
    "refinement": "refinement",
}
"""What a note may be about, and the name of its options."""


@dataclass(frozen=True)
class Advice:
    """One warning: what happened, the likely cause, and the option of `imc-kit solve` to try ('' where none helps).

    which: the images that it is about, the first of many.
    """

    what: str
    cause: str
    option: str = ""
    which: str = ""


def advise(
    models: Sequence[Sequence[str]],
    names: Sequence[str],
    keypoints: Mapping[str, int],
    inliers: Mapping[tuple[str, str], int],
    notes: Sequence[str] = (),
    accuracy: float | None = None,
    *,
    separate: bool = False,
) -> list[Advice]:
    """What to say of one scene.

    models: the images of each of its models, the largest first.
    names: all its images.
    keypoints: how many each has; images that are not named could not be read.
    inliers: of each verified pair.
    notes: the pipeline's own warnings.
    accuracy: the mAA, or the year's own score, when the truth is known.
    separate: every model is a scene of its own, as in 2025.
    """
    advices = [_of_note(note) for note in notes]
    counted = models if separate else models[:1]
    placed = {name for model in counted for name in model}
    best = dict.fromkeys(names, 0)
    for pair, count in inliers.items():
        for name in pair:
            best[name] = max(best.get(name, 0), count)
    out = [name for name in names if name in keypoints and name not in placed]
    poor = [name for name in out if keypoints[name] < FEW_KEYPOINTS]
    lonely = [name for name in out if name not in poor and best[name] < WORTH]
    linked = [name for name in out if name not in poor and best[name] >= WORTH]
    if poor:
        advices.append(
            Advice(
                f"{_are(poor)} not in the model, with fewer than {FEW_KEYPOINTS} keypoints",
                "blurred, dark or smooth photographs, in which the detector finds little",
                "--preset aliked",
                _few(poor),
            )
        )
    if lonely:
        advices.append(
            Advice(
                f"{_are(lonely)} not in the model, without {WORTH} verified matches with any other",
                "another place, another time of day, or a view that no other photograph overlaps",
                "--preset aliked",
                _few(lonely),
            )
        )
    if linked and models:
        advices.append(
            Advice(
                f"{_are(linked)} not in the model, in spite of verified matches",
                "their matches lead to too few points of the model to fix a camera",
                "--mapping.2.options mapper.abs_pose_min_num_inliers 15",
                _few(linked),
            )
        )
    elif linked:
        advices.append(
            Advice(
                "There is no model, in spite of verified matches",
                "no pair has both enough matches and enough of an angle to start from",
                "--mapping.2.options mapper.init_min_num_inliers 50 mapper.init_min_tri_angle 8",
            )
        )
    if len(models) > 1 and not separate:
        sizes = ", ".join(str(len(model)) for model in models[:4]) + (", …" if len(models) > 4 else "")
        advices.append(
            Advice(
                f"The scene fell into {len(models)} models (of {sizes} images)",
                "too few matches between groups of photographs (see the view graph); only the largest model counts",
                "--preset aliked",
            )
        )
    if accuracy is not None and models and len(placed) == len(names) and accuracy < 0.5:
        advices.append(
            Advice(
                f"Every image is in the model, but the {'score' if separate else 'mAA'} is {accuracy:.2f}",
                "look-alike parts were taken for the same (see the weakest pairs), or different cameras share one",
                "--cameras.sharing image",
            )
        )
    return advices


def _of_note(note: str) -> Advice:
    """The pipeline's sentence, and what is known about it."""
    text = note.lower()
    if "cannot read the image" in text:
        return Advice(note, "the file is damaged, or no photograph", "")
    if "stopped at its time limit" in text:
        stage = next((stage for step, stage in _STAGES.items() if step in text), "mapping.0")
        return Advice(note, "the scene is large, or its matches lead nowhere", f"--{stage}.time-limit 7200")
    if "colmap's" in text and "ended with" in text:
        return Advice(note, "COLMAP crashed or ran out of memory", "--detector.max-keypoints 4096")
    if RAN_OUT in text:
        return Advice(note, "the run's time limit left too little for this scene", "--preset small")
    if "no model came out" in text:
        return Advice(note, "too little overlap, or photographs of different places", "--preset aliked")
    return Advice(note, "see the scene's colmap.log")


def _are(names: Sequence[str]) -> str:
    return "1 image is" if len(names) == 1 else f"{len(names)} images are"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
