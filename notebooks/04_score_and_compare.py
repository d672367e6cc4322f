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
# # Score and compare
#
# Looking at a model tells whether it is plausible. Whether a change makes it better takes true poses and a score. This
# notebook explains the competition's, and compares two detectors with it.
#
# True poses come in a `truth.csv` beside `sample_submission.csv`, with the same columns, and the distances of the score
# in a `thresholds.json`, where they are not the usual ones. The rendered scene has both; it is also taken when the
# attached competition has no such file. For your own scene set `INPUT`; of several the first is used.

# %%
import tempfile
from pathlib import Path

import imc_kit
from imc_kit import explore, viz
from imc_kit.compare import page
from imc_kit.compare.repeatability import RepeatabilityConfig
from imc_kit.compare.run import compare
from imc_kit.detectors import OrbConfig

INPUT = ""
OUT = Path(tempfile.mkdtemp(prefix="imc-kit-"))

task = explore.open_input(INPUT, truth=True)
scene = task.scenes[0]
task = task.only(scene.name)
print(f"{len(scene.images)} photographs of {scene.name}, in {scene.root}")

# %% [markdown]
# ## The score
#
# A reconstruction from photographs has no scale, no north and no origin. So the score (mAA, as in 2024) first lays the
# submitted camera **centres** over the true ones with one similarity transform for the scene: a scale, a rotation and
# a shift, chosen to bring as many cameras as possible close to the truth. Rotations of cameras do not count.
#
# Then it counts, for each of six distances (2.5 cm to 1 m for most scenes), the cameras that are nearer to the truth
# than that. Three cameras fit almost any truth, so they are free: with *n* of *m* cameras within a distance, the share
# is (*n* − 3) / (*m* − 3), at least 0. The mAA is the mean over the six distances; the competition's score is the mean
# over its scenes, whatever their sizes.
#
# Two ends of the scale: the truth itself, and the poses of `sample_submission.csv`, which are all the same.

# %%
print(explore.score(task, task.root / "truth.csv"), "\n")
print(explore.score(task, task.root / "sample_submission.csv"))

# %% [markdown]
# What follows from it:
# - **A missing camera costs as much as a wrong one**, and a guess costs nothing: every row gets a pose.
# - **Only one model counts**: models have no common frame, so the poses of the largest are submitted, and guesses for
#   all other photographs.
# - **One wrong bend spoils half the scene**: if one half is turned against the other, one of them is far away.
# - **Small scenes are nervous**: with 10 photographs each is worth a seventh of the scene.
#
# ## Two configurations on one scene
#
# SIFT against ORB, with 2048 keypoints each and all else the same. Put anything here: presets by name, or options as
# `imc_kit.preset("aliked", {"detector.max_keypoints": 2048})`. `compare` solves the scene with each, and tries their
# features on views of a photograph that are computed from it, so that it is known where every point has to be.

# %%
configs = {"SIFT": imc_kit.preset("small"), "ORB": imc_kit.preset("small", {"detector": OrbConfig(max_keypoints=2048)})}
tried = RepeatabilityConfig(photos=1)
comparison = compare(task, configs, OUT, repeatability=tried, **explore.truth(task))
print(comparison)

# %% [markdown]
# One row for each configuration. **Inliers** are those of a verified pair, the median. **Repeatability** is the share
# of keypoints that are found again at the same place of a changed view, **matching accuracy** the share of matches
# that are right, **matching score** the share of keypoints that are matched rightly: the one that matters most. A
# detector can be good at finding points again and bad at telling them apart.

# %%
page.draw_metric(comparison.rows, "matching_score")

# %%
page.draw_changes(comparison.rows, "matching_score")

# %% [markdown]
# Which change hurts which detector tells where it will fail: *scale* between near and far views, *perspective* between
# views from different sides, *light* between day and evening.
#
# ## mAA by threshold
#
# The mAA is one number; the curve behind it tells what kind of error there is. (What is solved is not solved again:
# `solve` reads it back.)

# %%
runs = {label: imc_kit.solve(task, OUT / label, config) for label, config in configs.items()}
results = {label: run.scenes[scene.name] for label, run in runs.items()}
scores = {label: explore.score(task, run.submission).scenes[scene.name] for label, run in runs.items()}
viz.draw_accuracy(scores)

# %% [markdown]
# A curve that is **low everywhere** misses cameras, or has them in wrong places: look at pairs and models. One that is
# low at the left and reaches 100 % has all cameras roughly right: more exact keypoints (a larger `long_side`), shared
# cameras or more matches will lift it. A **step** that never closes is a part of the scene that is off.
#
# ## Where the cameras are
#
# Blue is what was found, laid over the truth as the score does; green diamonds are the true cameras, and a green line
# joins each to where it came out. First SIFT, then ORB.

# %%
viz.draw_model(explore.largest_model(results["SIFT"]), scores["SIFT"])

# %%
viz.draw_model(explore.largest_model(results["ORB"]), scores["ORB"])

# %% [markdown]
# ## What it costs
#
# The same stages for both: what differs tells where the time goes.

# %%
page.draw_stages(comparison.rows)

# %% [markdown]
# `compare` has left all of this in `OUT`: `compare.html` to look at, `compare.csv` and `compare.json` to go on from. On
# the command line: `imc-kit compare DIR --presets sift,orb+nearest --out out`.
#
# ## Before you believe a difference
#
# - COLMAP with several threads sums in another order each time: run both twice (another `OUT`) and see by how much the
#   same configuration differs from itself. `{"threads": 1}` makes runs repeatable.
# - One scene tells about one scene. What wins here may lose on your competition's: compare on several, with true
#   poses.
# - Change one option at a time, and look at registered photographs before the mAA: they move first.
