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
# A detector picks a few thousand points of a photograph that it hopes to find again in other photographs, and
# describes what is around each. Everything later rests on them: two photographs without common keypoints cannot be
# matched, and a camera without matches has no pose. This notebook shows what each detector picks, and what its options
# do.
#
# It needs no data, no weights and no internet: without an input it looks at a scene that the kit renders (half a
# minute). For your own photographs set `INPUT` to their folder, or to a competition's. At home, install the kit with
# `pip install '.[notebooks]'`; on Kaggle, run the first cell of `submission` here first, and the attached competition
# is the input.
#
# It is the first of four: from keypoints (here) to matches (`02_matches_and_pairs`), to cameras
# (`03_reconstruct_a_scene`), to a score (`04_score_and_compare`). Each can be read alone.

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
print(f"{name} of scene {scene.name}, which has {len(scene.images)} photographs, in {scene.root}")

# %% [markdown]
# ## The detectors
#
# All get the same budget, 2048 keypoints, and the same photograph, at most 1024 pixels long. SIFT, ORB and AKAZE are
# part of OpenCV. The learned ones need a file with their network, which is not part of the kit: those whose file is
# found are shown, the others named.

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
# The best 600 are drawn. A circle shows the **scale** of a keypoint, how large the thing is that was found, where the
# detector says so; small equal circles mean that it does not. For SIFT and AKAZE it is the blob that was found, of
# which they describe a surrounding several times as wide; for ORB it is the whole patch that is described. The colour
# is the **score**, by which keypoints are ranked: contrast for SIFT, cornerness for ORB, the network's confidence for
# learned ones. Each has its own unit, so compare scores within a picture, never between two.
#
# What to look for:
# - **Fewer than the budget**: a threshold ended the search (`contrast_threshold` of SIFT, `fast_threshold`
#   of ORB, `threshold` of the others), not the budget. Lower it for smooth or dark photographs.
# - **Spread.** ORB crowds the strongest corners. Keypoints on one object fix a camera badly, however many they are.
# - **Scales.** SIFT and AKAZE find blobs from a few pixels to a tenth of the photograph, and with them can match a
#   near view with a far one. ORB covers a factor of 3.6; most learned detectors have one scale, and rely on what
#   training taught them.
# - **What moves or repeats.** Leaves, water, people and sky give keypoints that no other photograph confirms.

# %% [markdown]
# ## `long_side`: at which size to look
#
# Before detecting, a photograph is shrunk until its longer side has `long_side` pixels; it is never enlarged.
# Keypoints are always given in pixels of the original.

# %%
sizes = {side: explore.view(scene, name, SiftConfig(max_keypoints=2048, long_side=side)) for side in (200, 400, 800)}
viz.gallery({f"{side} pixels: {view}": viz.draw_keypoints(view.photo, view.features) for side, view in sizes.items()})

# %% [markdown]
# Twice the side means four times the pixels, about four times the time, and finer keypoints that are placed more
# exactly. It is no gain without end: fine detail is seen only by cameras that stood equally near, and noise has
# keypoints too. Learned detectors do best near the size they were trained at, around 1024; classical ones take 1600 to
# 3200 where the photographs are sharp.

# %% [markdown]
# ## `max_keypoints`: how many to keep
#
# The strongest are kept.

# %%
budgets = {
    most: explore.view(scene, name, SiftConfig(max_keypoints=most, long_side=1024)) for most in (250, 1000, 4000)
}
viz.gallery(
    {f"at most {most:,}: {view}": viz.draw_keypoints(view.photo, view.features) for most, view in budgets.items()}
)

# %% [markdown]
# Detection takes the same time whatever the budget; matching compares every keypoint with every other, so that twice
# the budget costs four times as much for each pair. The strongest come first, and they sit where contrast is: weaker
# ones fill the rest of the photograph, and are what links the two views that hardly overlap. 2000 to 4000 is usual for
# learned detectors, up to 8000 for SIFT.

# %% [markdown]
# ## Masks: where not to look
#
# A mask keeps keypoints out of a part of the photograph, and the budget is then spent on the rest. It may come from a
# folder of black and white pictures, `MaskConfig(folder=…)`, made by any segmentation; or from the colour of
# vegetation, which moves in the wind and looks alike everywhere. (`min_share=0` masks this photograph even if hardly
# anything is left; by default such a photograph stays unmasked.)

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
# Orange is what the mask covers. Look before you mask: on a facade with ivy it takes away noise; in a garden it takes
# away the scene, and green paint is masked like grass.
#
# **Next:** which of these keypoints find each other in another photograph is in `02_matches_and_pairs`. The same
# options on the command line: `imc-kit solve DIR --out out --detector sift --detector.long-side 1600
# --detector.max-keypoints 4000 --masks.vegetation`.
