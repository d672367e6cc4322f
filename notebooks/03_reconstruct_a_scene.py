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
# From a folder of photographs to the pose of every camera, and how to see whether it went well. Set `INPUT` to your
# own folder or a competition's; without it, the kit renders a scene. Of several scenes the first is solved.

# %%
import logging
import tempfile
from pathlib import Path

import imc_kit
from imc_kit import explore, viz
from imc_kit.viz.report import write_report

INPUT = ""
OUT = Path(tempfile.mkdtemp(prefix="imc-kit-"))  # a folder of your own keeps what is found for the next run

logging.basicConfig(format="%(message)s", level=logging.INFO, force=True)
task = explore.open_input(INPUT)
scene = task.scenes[0]
print(f"{len(scene.images)} photographs of {scene.name}, in {scene.root}")

# %% [markdown]
# ## Solve
#
# `solve` runs all stages: keypoints, pairs, matches, COLMAP's verification and mapping. It leaves a valid
# `submission.csv` in `OUT` from the first second on, and beside it everything that this notebook looks at. A preset is
# where the options start from, and any of them can be overridden by name; 2048 keypoints keep this quick.

# %%
config = imc_kit.preset("sift", {"detector.max_keypoints": 2048})
run = imc_kit.solve(task.only(scene.name), OUT, config)
result = run.scenes[scene.name]
print(", ".join(f"{count:,} {what}" for what, count in result.counts.items()))

# %% [markdown]
# **registered** is how many photographs the largest model has; the poses of the others are guesses. More than one
# **model** means that the scene fell apart: models have no common frame, and only the largest counts (in 2025, where
# scenes are mixed, each counts as a scene of its own).
#
# ## Matches and inliers
#
# Above the diagonal: how many matches each pair has. Below: how many COLMAP verified.

# %%
names = list(result.placements)
matches, inliers = explore.scene_counts(OUT, scene.name)
viz.draw_matrix(names, matches, inliers).update_layout(height=560)

# %% [markdown]
# One block along the diagonal is a scene that hangs together. Two blocks with nothing between them become two models.
# A photograph with an empty row cannot be registered by any mapper: more keypoints, another detector or a lower
# threshold can help, mapping options cannot.
#
# ## The view graph
#
# The same as a graph: a dot is a photograph, a line a verified pair, the thicker the more inliers it has. Photographs
# that share many inliers are near each other; hover for names.

# %%
viz.draw_graph(names, inliers, {name: placement.model for name, placement in result.placements.items()})

# %% [markdown]
# A ring is a walk around something, a chain a walk along it. Look for **bridges**, a single thin line on which a whole
# part hangs: if that pair is wrong, all behind it is wrong. Look for **shortcuts** too, thin lines across: on a
# building with like sides they mostly join different sides.
#
# ## The model
#
# Points in their colours, and for each camera the pyramid that it sees, with a tick on its upper side; hover for its
# name, drag to turn, scroll to come nearer. The bar below tells the scale: without a truth it has no unit, as
# photographs alone do not tell a doll's house from a house.

# %%
viz.draw_model(explore.largest_model(result))

# %% [markdown]
# What a good one looks like: cameras where a photographer could have stood, walls that are thin, right angles that are
# right. Cameras inside a wall, two copies of a wall or all cameras on one spot are wrong, however small the
# reprojection error.
#
# ## Time and memory

# %%
viz.draw_seconds({scene.name: result.seconds})

# %%
viz.draw_memory({scene.name: result.memory})

# %% [markdown]
# Time goes to matching as the number of pairs grows, and to mapping as the number of registered photographs does.
# Memory is that of this process. COLMAP runs in another, so that a crash of it costs one attempt, not this notebook.
#
# ## Photographs that lie on their side
#
# Learned detectors do not recognise what is turned by more than some 45°. With `upright=True` a quick first matching
# with SIFT, which does not mind, finds by how many quarter turns each photograph differs from the others, and
# detection sees them all the same way up. The poses are turned back at the end. It costs a fraction of the run, is
# part of the preset `aliked`, and needless for SIFT.

# %%
turning = imc_kit.preset("sift", {"detector.max_keypoints": 2048, "upright": True})
turned = imc_kit.solve(task.only(scene.name), OUT / "upright", turning).scenes[scene.name]
print(f"{turned.counts['turned']} photographs were turned, {turned.counts['registered']} are registered")

# %% [markdown]
# ## Structures that repeat
#
# Where two sides look alike, wrong pairs verify: every window has its twin. Such a pair is weak beside the chain of
# strong pairs that joins the same two photographs another way round. So the mapping makes several attempts: with
# COLMAP's global mapper and all pairs; with only those pairs that have at least `min_strength` of the weakest link of
# that chain; with the incremental mapper; and with that without the pairs whose rotation is off by more than
# `max_cycle_error` degrees from what the others say. An attempt is the last when its model has most images (`enough`)
# and most verified matches agree with it (`trusted`), or when it and another one, with other pairs, agree as well.

# %%
for number, attempt in enumerate(config.mapping):
    print(f"mapping.{number}: {attempt}")

# %% [markdown]
# To distrust weak pairs from the start: `imc_kit.preset("sift", {"mapping.0.min_strength": 0.7})`. Too high a strength
# cuts a scene in pieces where overlap is thin.
#
# ## The report
#
# The same figures for every scene of a run, with its best and weakest pairs and plain words on what went wrong, in one
# file that opens in any browser, without internet: `imc-kit report OUT` on the command line, or

# %%
print(write_report(OUT))

# %% [markdown]
# **Next:** is it right? With true poses this can be measured: `04_score_and_compare`.
