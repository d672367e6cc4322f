# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Explore features
#
# A detector picks a few thousand points of a photo that it expects to find again in other photos, and computes a
# descriptor of the surroundings of each. Every later step depends on these keypoints: photos without common keypoints
# cannot be matched, and a camera without matches has no pose. This notebook shows what each detector picks and what its
# options do.
#
# You need no data, no weight files and no internet: without an input, the notebook uses a scene that the kit renders
# (half a minute). To look at your own photos, set `INPUT` to their folder or to a competition's folder. At home,
# install the kit with `pip install '.[notebooks]'`. On Kaggle, run the install cell of `submission` here first; the
# input is then the attached competition.
#
# This is the first of four notebooks: keypoints (here), matches (`02_matches_and_pairs`), cameras
# (`03_reconstruct_a_scene`), score (`04_score_and_compare`). You can read each on its own.

# %%
from imc_kit import explore, viz
from imc_kit.data.masks import MaskConfig
from imc_kit.detectors.aliked import AlikedConfig
from imc_kit.detectors.dedode import DedodeConfig
from imc_kit.detectors.disk import DiskConfig
from imc_kit.detectors.keynet import KeyNetConfig
from imc_kit.detectors.opencv import AkazeConfig, OrbConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.detectors.superpoint import SuperPointConfig
from imc_kit.detectors.xfeat import XFeatConfig

INPUT = ""

task = explore.open_input(INPUT)
scene = task.scenes[0]
name = scene.images[0]
print(f"{name} of scene {scene.name}, which has {len(scene.images)} photos, in {scene.root}")

# %% [markdown]
# ## The detectors
#
# Every detector gets the same photo, shrunk to at most 1024 pixels, and may keep 2048 keypoints. SIFT, ORB and AKAZE
# need no weight files. The learned detectors need a file with their network, which is not part of the kit. The next
# cell keeps the detectors whose file is found and names the others.

# %%
detectors, left_out = explore.usable(
    {
        "SIFT": SiftConfig(max_keypoints=2048, long_side=1024),
        "ORB": OrbConfig(max_keypoints=2048, long_side=1024),
        "AKAZE": AkazeConfig(max_keypoints=2048, long_side=1024),
        "ALIKED": AlikedConfig(max_keypoints=2048, long_side=1024),
        "SuperPoint": SuperPointConfig(max_keypoints=2048, long_side=1024),
        "DISK": DiskConfig(max_keypoints=2048, long_side=1024),
        "XFeat": XFeatConfig(max_keypoints=2048, long_side=1024),
        "DeDoDe": DedodeConfig(max_keypoints=2048, long_side=1024),
        "Key.Net": KeyNetConfig(max_keypoints=2048, long_side=1024),
    }
)
print(left_out)

# %%
found = {label: explore.view(scene, name, detector) for label, detector in detectors.items()}
viz.gallery(
    {f"{label}: {view}": viz.draw_keypoints(view.photo, view.features, most=600) for label, view in found.items()},
    width=440,
)

# %% [markdown]
# The pictures show the best 600 keypoints. A circle shows the **scale** of a keypoint, which is the size of the
# structure that was found. Keypoints without a scale are small, equal circles. For SIFT and AKAZE, the circle is the
# blob that was found, and the descriptor covers an area several times as wide; for ORB, the circle is the whole patch
# that the descriptor covers. The colour is the **score** that ranks the keypoints: contrast for SIFT, cornerness for
# ORB, confidence for learned detectors. Each detector has its own unit, so compare scores within one picture only.
#
# What to look for:
# - **Fewer keypoints than the budget**: a threshold ended the search (`contrast_threshold` of SIFT, `fast_threshold` of
#   ORB, `threshold` of the others). Lower it for smooth or dark photos.
# - **Spread.** ORB crowds around the strongest corners. Keypoints on a single object determine a camera badly, however
#   many there are.
# - **Scales.** SIFT and AKAZE find blobs from a few pixels to a tenth of the photo, so they can match a near view with
#   a far one. ORB covers a factor of 3.6. Most learned detectors have one scale and rely on their training.
# - **Things that move or repeat.** Leaves, water, people and sky produce keypoints that no other photo confirms.

# %% [markdown]
# ## `long_side`: the size at which features are detected
#
# The photo is shrunk until its longer side has `long_side` pixels; it is never enlarged. Keypoints are always given in
# pixels of the original.

# %%
sizes = {side: explore.view(scene, name, SiftConfig(max_keypoints=2048, long_side=side)) for side in (200, 400, 800)}
viz.gallery({f"{side} pixels: {view}": viz.draw_keypoints(view.photo, view.features) for side, view in sizes.items()})

# %% [markdown]
# Twice the side means four times the pixels, about four times the time, and finer, more accurate keypoints. The gain is
# limited: only cameras that stood equally near see fine detail, and noise produces keypoints too. Learned detectors do
# best near the size of their training images, about 1024. Classical detectors benefit from 1600 to 3200 if the photos
# are sharp.

# %% [markdown]
# ## `max_keypoints`: how many keypoints are kept
#
# The strongest keypoints are kept.

# %%
budgets = {
    most: explore.view(scene, name, SiftConfig(max_keypoints=most, long_side=1024)) for most in (250, 1000, 4000)
}
viz.gallery(
    {f"at most {most:,}: {view}": viz.draw_keypoints(view.photo, view.features) for most, view in budgets.items()}
)

# %% [markdown]
# Detection takes the same time for every budget. Matching compares every keypoint with every other, so twice the budget
# costs four times as much for each pair. The strongest keypoints lie where contrast is high. Weaker keypoints fill the
# rest of the photo and link views that hardly overlap. 2000 to 4000 is usual for learned detectors, up to 8000 for
# SIFT.

# %% [markdown]
# ## Masks: where not to look
#
# A mask keeps keypoints out of a part of the photo; the budget is spent on the rest. A mask comes from a folder of
# black-and-white images that you made with any segmentation, `MaskConfig(folder=…)`, or from the colour of vegetation,
# which moves in the wind and looks the same everywhere. (`min_share=0` masks this photo even if hardly anything
# remains. By default such a photo is not masked.)

# %%
from imc_kit.data import masks

plants = MaskConfig(vegetation=True, min_share=0)
plain, masked = (
    explore.view(scene, name, SiftConfig(max_keypoints=1000, long_side=1024), mask) for mask in (None, plants)
)
viz.gallery(
    {
        "vegetation, by its colour": viz.draw_mask(masked.photo, masks.mask(masked.photo, name, plants)),
        f"without a mask: {plain}": viz.draw_keypoints(plain.photo, plain.features),
        f"with it: {masked}": viz.draw_keypoints(masked.photo, masked.features),
    }
)

# %% [markdown]
# The mask covers the orange area. Look before you mask: on a facade with ivy the mask removes noise, in a garden it
# removes the scene, and green paint is masked like grass.
#
# **Next:** `02_matches_and_pairs` shows which of these keypoints find each other in another photo. The same options on
# the command line: `imc-kit solve DIR --out out --detector sift --detector.long-side 1600 --detector.max-keypoints 4000
# --masks.vegetation`.
