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
# # From photographs to camera poses, offline
#
# This notebook needs two inputs and no internet: the competition's data, and the dataset that `build_dataset.py` made.
# It runs as it is in a session, as "Save & Run All", and when a submission is scored on the hidden photographs.
#
# **Install.** The first cell finds the kit, wherever Kaggle mounted it, and runs its `install.py`. That checks every
# file against the kit's manifest, then installs the wheels for this Python. torch, numpy and OpenCV stay as they are.

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
# **Look around.** `attach` finds the competition's data and the kit's weights, checks them, and says which kind of run
# this is: `interactive`, `batch` ("Save & Run All"), or `rerun`, the scoring on the hidden photographs.

# %%
import logging

import imc_kit
from imc_kit import kaggle

logging.basicConfig(format="%(message)s", level=logging.INFO, force=True)
session = kaggle.attach()
print(session)

# %% [markdown]
# **Solve.** `submission.csv` is there, with a row for every photograph, before the first scene is begun, and is written
# again after each. A scene that fails costs that scene alone. The session ends after nine hours; half an hour before,
# the run ends itself, having given every scene a quick answer first. To try something, change the preset here: any
# option can be set by name, for example `"detector.max_keypoints": 2048` beside the time limit.

# %%
config = imc_kit.preset(session.preset, {"time_limit": 8.5 * 3600})
run = imc_kit.solve(session.competition, out=Path.cwd(), config=config)

# %% [markdown]
# **What came out.** How many photographs of each scene have a pose, and where the time went.

# %%
for name, result in run.scenes.items():
    counts, seconds = result.counts, sum(result.seconds.values())
    print(f"{name}: {counts['registered']} of {counts['images']} images, {seconds:.0f} s")
for name, reason in run.failed.items():
    print(f"{name} could not be solved: {reason}")
print(f"submission: {run.submission}")
