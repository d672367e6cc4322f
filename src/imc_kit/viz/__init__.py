"""Figures, and the report of a run. The functions return a figure and neither show nor save it.

matplotlib draws photos; plotly draws scenes and scores, interactively. Both packages are imported when the first figure
is drawn. `pip install "imc-kit[viz]"` installs them.
"""

from imc_kit.viz.images import Gallery, draw_keypoints, draw_mask, draw_matches, draw_neighbours, gallery
from imc_kit.viz.model import draw_model
from imc_kit.viz.pairs import block_order, draw_graph, draw_matrix
from imc_kit.viz.scores import draw_accuracy, draw_memory, draw_seconds

__all__ = [
    "Gallery", "block_order", "draw_accuracy", "draw_graph", "draw_keypoints", "draw_mask", "draw_matches",
    "draw_matrix", "draw_memory", "draw_model", "draw_neighbours", "draw_seconds", "gallery",
]  # fmt: skip
