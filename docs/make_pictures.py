"""Makes the pictures of the README: `make pictures`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from imc_kit.render import Camera, orbit, plaza, render_scene

views = render_scene(plaza(), Camera.centred((320, 240)), orbit(24)[::3])
sheet = np.vstack([np.hstack(views[:4]), np.hstack(views[4:])])
folder = Path(__file__).parent / "pictures"
folder.mkdir(exist_ok=True)
cv2.imwrite(str(folder / "plaza.jpg"), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
