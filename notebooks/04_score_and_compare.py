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
# The figure of a model shows whether it is plausible. To find out whether a change improves it, you need true poses and
# a score. This notebook explains the competition's score and compares two detectors with it.
#
# The true poses are in a `truth.csv` next to `sample_submission.csv`, with the same columns. The distances of the score
# are in a `thresholds.json` unless they are the usual ones. The rendered scene has both; it is also used if the
# attached competition has no true poses. Set `INPUT` to use your own scene; of several scenes the first is used.

# %%
import tempfile
from pathlib import Path

import imc_kit
from imc_kit import explore, viz
from imc_kit.compare import page
from imc_kit.compare.repeatability import RepeatabilityConfig
from imc_kit.compare.run import compare
from imc_kit.detectors.opencv import OrbConfig

INPUT = ""
OUT = Path(tempfile.mkdtemp(prefix="imc-kit-"))

task = explore.open_input(INPUT, truth=True)
scene = task.scenes[0]
task = task.only(scene.name)
print(f"{len(scene.images)} photos of {scene.name}, in {scene.root}")

# %% [markdown]
# ## The score
#
# A reconstruction from photos has no scale, no north and no origin. So the score (mAA, as in 2024) first aligns the
# submitted camera **centres** with the true centres by one similarity transform per scene: a scale, a rotation and a
# shift, chosen to bring as many cameras as possible close to the truth. The rotations of cameras do not count.
#
# Then it counts the cameras that are nearer to the truth than each of six distances (2.5 cm to 1 m for most scenes).
# Three cameras fit almost any truth, so they do not count: if *n* of *m* cameras are within a distance, their share is
# (*n* − 3) / (*m* − 3), at least 0. The mAA is the mean over the six distances. The competition's score is the mean
# over its scenes, whatever their sizes.
#
# Here are the two ends of the scale: the truth itself, and the poses of `sample_submission.csv`, which are all equal.

# %%
print(explore.score(task, task.root / "truth.csv"), "\n")
print(explore.score(task, task.root / "sample_submission.csv"))

# %% [markdown]
# Consequences:
# - **A missing camera costs as much as a wrong one**, and a guess costs nothing: so every row gets a pose.
# - **Only one model counts.** Models have no common frame, so the kit submits the poses of the largest model and
#   guesses for all other photos.
# - **One wrong bend spoils half the scene.** If one half is rotated relative to the other, one of them is far off.
# - **Small scenes vary a lot**: among 10 photos, each is worth a seventh of the scene.
#
# ## Two configurations on one scene
#
# The next cell compares SIFT with ORB, at 2048 keypoints each and otherwise equal. You can compare anything: presets by
# name, or options as in `imc_kit.preset("aliked", {"detector.max_keypoints": 2048})`. `compare` solves the scene with
# each configuration. It also tests the features on warped copies of one photo, where the correct position of every
# point is known.

# %%
configs = {"SIFT": imc_kit.preset("small"), "ORB": imc_kit.preset("small", {"detector": OrbConfig(max_keypoints=2048)})}
tried = RepeatabilityConfig(photos=1)
comparison = compare(task, configs, OUT, repeatability=tried, **explore.truth(task))
print(comparison)

# %% [markdown]
# The table has one row for each configuration. **Inliers** is the median over the verified pairs. **Repeatability** is
# the share of keypoints that are found again at the same point of a changed view. **Matching accuracy** is the share of
# correct matches. **Matching score** is the share of keypoints that are matched correctly, which matters most. A
# detector can be good at finding points again and bad at telling them apart.

# %%
page.draw_metric(comparison.rows, "matching_score")

# %%
page.draw_changes(comparison.rows, "matching_score")

# %% [markdown]
# A change that hurts a detector predicts where it will fail: *scale* between near and far views, *perspective* between
# views from different sides, *light* between day and evening.
#
# ## mAA by threshold
#
# The mAA is one number. The curve behind it shows the kind of error. (Scenes are not solved again: `solve` reads the
# results back.)

# %%
runs = {label: imc_kit.solve(task, OUT / label, config) for label, config in configs.items()}
results = {label: run.scenes[scene.name] for label, run in runs.items()}
scores = {label: explore.score(task, run.submission).scenes[scene.name] for label, run in runs.items()}
viz.draw_accuracy(scores)

# %% [markdown]
# A curve that is **low everywhere** has missing or wrong cameras: look at pairs and models. A curve that is low at the
# left and reaches 100 % has all cameras roughly right: more accurate keypoints (a larger `long_side`), shared
# intrinsics or more matches may raise it. A curve that **levels off below 100 %** has a part of the scene in the wrong
# place.
#
# ## Where the cameras are
#
# Blue cameras are the result, aligned with the truth as the score does it. Green diamonds are the true cameras, and a
# green line joins each to its result. First SIFT, then ORB.

# %%
viz.draw_model(explore.largest_model(results["SIFT"]), scores["SIFT"])

# %%
viz.draw_model(explore.largest_model(results["ORB"]), scores["ORB"])

# %% [markdown]
# ## What it costs
#
# Both configurations have the same stages, so the figure shows where they differ in time.

# %%
page.draw_stages(comparison.rows)

# %% [markdown]
# `compare` saves all of this in `OUT`: `compare.html` to look at, `compare.csv` and `compare.json` for further
# analysis. On the command line: `imc-kit compare DIR --presets sift,orb+nearest --out out`.
#
# ## Before you believe a difference
#
# - COLMAP with several threads sums numbers in a different order each time. Run both configurations twice (with another
#   `OUT`) to see how much the results of one configuration vary. `{"threads": 1}` makes runs repeatable.
# - One scene says little about other scenes. Compare on several scenes with true poses.
# - Change one option at a time, and look at the registered photos before the mAA: they change first.
