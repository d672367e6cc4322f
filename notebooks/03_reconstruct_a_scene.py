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
# # Reconstruct a scene
#
# This notebook goes from a folder of photos to the pose of every camera, and shows how to see whether it went well. Set
# `INPUT` to your own folder or to a competition's folder. Without it, the kit renders a scene. If there are several
# scenes, the first is solved.

# %%
import logging
import tempfile
from pathlib import Path

import imc_kit
from imc_kit import explore, viz
from imc_kit.viz.report import write_report

INPUT = ""
OUT = Path(tempfile.mkdtemp(prefix="imc-kit-"))  # with a folder of your own, the next run uses these results

logging.basicConfig(format="%(message)s", level=logging.INFO, force=True)
task = explore.open_input(INPUT)
scene = task.scenes[0]
print(f"{len(scene.images)} photos of {scene.name}, in {scene.root}")

# %% [markdown]
# ## Solve
#
# `solve` runs all stages: keypoints, pairs, matches, and COLMAP's verification and mapping. `OUT` holds a valid
# `submission.csv` from the first second on, and all files that this notebook reads. A preset sets every option, and you
# can override any option by its name. 2048 keypoints keep this run short.

# %%
config = imc_kit.preset("sift", {"detector.max_keypoints": 2048})
run = imc_kit.solve(task.only(scene.name), OUT, config)
result = run.scenes[scene.name]
print(", ".join(f"{count:,} {what}" for what, count in result.counts.items()))

# %% [markdown]
# **registered** is the number of photos in the largest model; the poses of all other photos are guesses. More than one
# **model** means that the scene split into parts. Models have no common frame, so only the largest counts (except in
# 2025, when scenes are mixed and each model counts as a separate scene).
#
# ## Matches and inliers
#
# Above the diagonal: the number of matches of each pair. Below: the number that COLMAP verified.

# %%
names = list(result.placements)
matches, inliers = explore.scene_counts(OUT, scene.name)
viz.draw_matrix(names, matches, inliers).update_layout(height=560)

# %% [markdown]
# One block along the diagonal is a connected scene. Two blocks with nothing between them become two models. No mapper
# can register a photo with an empty row: more keypoints, another detector or a lower threshold may help; options of the
# mapping cannot.
#
# ## The view graph
#
# The next figure shows the same as a graph. A dot is a photo, a line is a verified pair, and a thicker line has more
# inliers. Photos that share many inliers are near each other. Hover over a dot for its name.

# %%
viz.draw_graph(names, inliers, {name: placement.model for name, placement in result.placements.items()})

# %% [markdown]
# A ring is a walk around something, a chain is a walk along it. Look for **bridges**: a single thin line that connects
# a whole part. If that pair is wrong, everything behind it is wrong. Look for **shortcuts** too: thin lines across the
# graph. On a building with similar sides they mostly join different sides.
#
# ## The model
#
# The figure shows the points in their colours, and each camera as a pyramid with a tick on its upper side. Hover for a
# name, drag to rotate, scroll to zoom. The bar below shows the scale. It has no unit unless the true poses are known,
# because photos alone do not distinguish a doll's house from a house.

# %%
viz.draw_model(explore.largest_model(result))

# %% [markdown]
# In a good model, cameras are where a photographer could have stood, walls are thin, and right angles are 90°.
# Cameras inside a wall, two copies of a wall, or all cameras in one place are wrong, however small the reprojection
# error is.
#
# ## Time and memory

# %%
viz.draw_seconds({scene.name: result.seconds})

# %%
viz.draw_memory({scene.name: result.memory})

# %% [markdown]
# The time for matching grows with the number of pairs, the time for mapping with the number of registered photos. The
# memory is that of this process. COLMAP runs in another process, so a crash of COLMAP costs one mapping run and not
# this notebook.
#
# ## Photos that lie on their side
#
# Learned features do not match if they are rotated by more than about 45°. With `upright=True`, the kit first matches
# low-resolution images with SIFT, which tolerates rotation, and estimates each photo's 90° rotation from these matches.
# Features are then detected on upright images, and the poses are rotated back at the end. This takes a fraction of the
# run's time. It is part of the preset `aliked`; SIFT does not need it.

# %%
upright = imc_kit.preset("sift", {"detector.max_keypoints": 2048, "upright": True})
rotated = imc_kit.solve(task.only(scene.name), OUT / "upright", upright).scenes[scene.name]
print(f"{rotated.counts['rotated']} photos were rotated, {rotated.counts['registered']} are registered")

# %% [markdown]
# ## Structures that repeat
#
# If two sides look alike, wrong pairs pass the verification, because every window has its twin. Such a pair is weak
# compared with the chain of strong pairs that joins the same two photos by another path. So the kit makes several
# mapping runs: with COLMAP's global mapper and all pairs; with pairs that have at least `min_strength` times the
# matches of the weakest link of that chain; with the incremental mapper. The kit stops early if a model has most images
# (`enough`) and most verified matches agree with it (`trusted`), or if two runs with different pairs agree.

# %%
for number, mapping_run in enumerate(config.mapping):
    print(f"mapping.{number}: {mapping_run}")

# %% [markdown]
# To distrust weak pairs from the start: `imc_kit.preset("sift", {"mapping.0.min_strength": 0.7})`. If the value is too
# high, a scene falls apart where overlap is thin.
#
# ## The report
#
# The report shows the same figures for every scene of a run, the best and the weakest pairs, and says what went wrong.
# It is one file that opens in any browser without internet: `imc-kit report OUT` on the command line, or

# %%
print(write_report(OUT))

# %% [markdown]
# **Next:** is the model right? If the true poses are known, this can be measured: `04_score_and_compare`.
