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
# # From photos to camera poses, offline
#
# This notebook needs two inputs and no internet: the competition's data, and the dataset that `build_dataset.py` made.
# It runs unchanged in a session, as "Save & Run All", and when a submission is scored on the hidden photos.
#
# **Settings.** You can leave all of them as they are.

# %%
PRESET = ""  # where the options start, for example "sift"; empty: the preset that the kit was built for
OPTIONS = {}  # changes to the preset by name, for example {"detector.max_keypoints": 2048}
SCENES = ()  # scenes to solve, for example ("church", "dioscuri"); empty: all, which a submission needs
SPLIT = "test"  # "train" solves the training photos instead, and scores them
TIME_LIMIT = 8.5 * 3600  # seconds; Kaggle stops a notebook after nine hours
SCORE = SPLIT == "train"  # the score needs true poses, which only the training photos have

# %% [markdown]
# **Install.** This cell finds the kit wherever Kaggle mounted it and runs its `install.py`. That checks every file
# against the kit's manifest and installs the wheels for this Python. torch, numpy and OpenCV do not change.

# %%
import os
import runpy
from pathlib import Path

inputs = Path(os.environ.get("IMC_KIT_INPUT", "/kaggle/input"))
kits = [lock.parent for depth in range(1, 5) for lock in inputs.glob("*/" * depth + "imc_kit.lock")]
if len(kits) != 1:
    raise RuntimeError(f"attach one imc_kit dataset (Add Input): {len(kits)} of them are under {inputs}")
runpy.run_path(str(kits[0] / "install.py"))["install"](kits[0])

# %% [markdown]
# **Find the inputs.** `attach` finds the competition's data and the kit's weight files, checks the weight files, and
# names the kind of run: `interactive`, `batch` ("Save & Run All"), or `rerun`, the scoring on the hidden photos.

# %%
import logging
import sys

import pandas as pd

import imc_kit
from imc_kit import explore, kaggle

logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout, force=True)
session = kaggle.attach()
print(session)

# %% [markdown]
# **Solve.** `submission.csv` has a row for every photo before the first scene begins, and is rewritten after each
# scene. A scene that fails does not affect the others. With the time limit, every scene gets a quick answer first, and
# the run ends before Kaggle stops it.

# %%
config = imc_kit.preset(PRESET or session.preset, {"time_limit": TIME_LIMIT, **OPTIONS})
task = imc_kit.load(session.competition, SPLIT)
task = task.only(*SCENES) if SCENES else task
run = imc_kit.solve(task, out=Path.cwd(), config=config, score=SCORE)

# %% [markdown]
# **Results.** How many photos of each scene have a pose, how long each scene took, and the score if there is one.

# %%
print(run)

# %% [markdown]
# The view graph of the scene with the smallest share of registered photos: a dot is a photo, a line is a pair with
# verified matches. Crosses are photos without a pose.

# %%
explore.worst_scene(run)

# %% [markdown]
# The submission's first rows.

# %%
pd.read_csv(run.submission).head()
