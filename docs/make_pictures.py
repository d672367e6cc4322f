"""Make the pictures of the documentation: `make pictures`.

All show the plaza that `make demo` renders. Chromium takes the pictures of the 3D view and of the report; without it
they stay as they are.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from imc_kit import viz
from imc_kit.colmap import database, database_reading, verification
from imc_kit.colmap.mapping import read_models
from imc_kit.config import preset
from imc_kit.data import images
from imc_kit.detectors import extract
from imc_kit.metric import score
from imc_kit.pipeline.run import solve
from imc_kit.synthetic.plaza import Camera, look_at, orbit, plaza, render, render_scene, write_scene
from imc_kit.viz.report import write_report

FOLDER = Path(__file__).parent / "pictures"
CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--virtual-time-budget=8000",
)  # fmt: skip


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    readme_picture()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_scene(root / "scene")
        solve(root / "scene", root / "out")
        scene = root / "out/scenes/plaza"
        found = scene / "database.db"
        matches, inliers = database.match_counts(found), verification.inlier_counts(found)
        pair = ("view_005.jpg", "view_007.jpg")
        first, second = (images.load(root / "scene/test/plaza/images" / name) for name in pair)
        features = extract(preset("sift").detector.create(), [first])[0]
        save(viz.draw_keypoints(first, features, most=800), "keypoints")
        save(viz.draw_matches(first, second, *database_reading.read_pair(found, *pair)), "matches")
        names = list(database.keypoint_counts(found))
        truth = score(root / "scene/truth.csv", root / "out/submission.csv").scenes["plaza"]
        photograph(viz.draw_matrix(names, matches, inliers), "matrix", (560, 480), root)
        photograph(viz.draw_model(read_models(scene / "models")[0], truth), "model", (800, 500), root)
        report = write_report(root / "out", truth=root / "scene/truth.csv")
        screenshot(report.as_uri(), "report", (1100, 2220), root)


def readme_picture() -> None:
    solids = plaza()
    large = Camera.centred((960, 600), 790)
    view = render(solids, large, look_at(np.array([-7.6, -5.2, 3.6]), np.array([0.2, 0.1, 1.35])), samples=3)
    strip = np.hstack(render_scene(solids, Camera.centred((240, 180)), orbit(24)[::6]))
    cv2.imwrite(str(FOLDER / "plaza.jpg"), np.vstack([view, strip])[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def save(figure: Any, name: str) -> None:
    figure.savefig(FOLDER / f"{name}.jpg", pil_kwargs={"quality": 80})


def photograph(figure: Any, name: str, size: tuple[int, int], root: Path) -> None:
    """Save a picture of a plotly figure, taken by Chromium."""
    figure.update_layout(width=size[0], height=size[1], paper_bgcolor="white")
    page = root / f"{name}.html"
    page.write_text(
        "<!doctype html><style>body { margin: 0 }</style>"
        + figure.to_html(full_html=False, include_plotlyjs=True, config={"displayModeBar": False}),
        "utf-8",
    )
    screenshot(page.as_uri(), name, size, root)


def screenshot(url: str, name: str, size: tuple[int, int], root: Path) -> None:
    chromium = shutil.which("chromium")
    if not chromium:
        print(f"{name}.png stays as it is: Chromium is not installed")
        return
    command = [chromium, *CHROMIUM, f"--user-data-dir={root / 'profile'}", f"--window-size={size[0]},{size[1]}"]
    taken = root / f"{name}.png"
    subprocess.run([*command, f"--screenshot={taken}", url], check=True, capture_output=True, timeout=120)
    Image.open(taken).convert("RGB").quantize(256, kmeans=2).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
