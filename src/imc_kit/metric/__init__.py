"""The scores of the Image Matching Challenges of 2023, 2024 and 2025.

`score` computes 2024's score, `score_centers` the same from arrays, and `score_2023` and `score_2025` those of these
years. Every score is a fraction between 0 and 1; 2025's own program prints it in percent. Only 2023 scores rotations.
The other years compare camera centres C = −Rᵀt after alignment by a similarity.
"""

from imc_kit.metric.centers import FREE, THRESHOLDS, TRANSPARENT_THRESHOLDS, SceneScore, Score, score, score_centers
from imc_kit.metric.clusters import score_2025
from imc_kit.metric.files import AnyScore, ScoredFiles, distances_of, find_truth, read_thresholds, score_files
from imc_kit.metric.pairs import score_2023
from imc_kit.metric.tasks import OfScene, score_scenes

__all__ = [
    "FREE", "THRESHOLDS", "TRANSPARENT_THRESHOLDS", "AnyScore", "OfScene", "SceneScore", "Score", "ScoredFiles",
    "distances_of", "find_truth", "read_thresholds", "score", "score_2023", "score_2025", "score_centers",
    "score_files", "score_scenes",
]  # fmt: skip
