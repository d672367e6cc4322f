"""Makes the pictures of the README: `make pictures`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from imc_kit.render import Camera, look_at, orbit, plaza, render, render_scene

solids = plaza()
large = Camera.centred((960, 600), 790)
view = render(solids, large, look_at(np.array([-7.6, -5.2, 3.6]), np.array([0.2, 0.1, 1.35])), samples=3)
strip = np.hstack(render_scene(solids, Camera.centred((240, 180)), orbit(24)[::6]))
folder = Path(__file__).parent / "pictures"
folder.mkdir(exist_ok=True)
cv2.imwrite(str(folder / "plaza.jpg"), np.vstack([view, strip])[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
