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
# # Matches and pairs
#
# Two questions decide whether a scene can be solved. Which photographs show the same thing? And which keypoints of
# such a pair are the same point? This notebook looks at both, on your photographs or on the kit's rendered scene (set
# `INPUT` as in `01_explore_features`).

# %%
from imc_kit import explore, retrieval, viz
from imc_kit.detectors.sift import SiftConfig
from imc_kit.matchers import AdalamConfig, LightGlueConfig, NearestConfig
from imc_kit.retrieval import ClipConfig, DinoConfig, VladConfig

INPUT = ""
DETECTOR = SiftConfig(max_keypoints=2048, long_side=1024)

task = explore.open_input(INPUT)
scene = task.scenes[0]
views = explore.views(scene, DETECTOR, most=24)  # of a larger scene 24, evenly taken
names = list(views)
print(f"{len(views)} of the {len(scene.images)} photographs of {scene.name}, from {scene.root}")

# %% [markdown]
# ## Neighbours: which photographs show the same?
#
# A **global descriptor** sums up a whole photograph in one vector; the cosine between two of them is their similarity.
# VLAD adds up the local descriptors that are there already, so it costs little and needs no weights. DINOv2 and CLIP
# are networks, which know what a photograph shows, from any side; they are used if their files are here.

# %%
descriptors, left_out = explore.usable({"VLAD": VladConfig(), "DINOv2": DinoConfig(), "CLIP": ClipConfig()})
print(left_out)

# %%
rows = {label: explore.describe(views, descriptor) for label, descriptor in descriptors.items()}
ranked = {label: explore.neighbours(views, table, names[0], len(views)) for label, table in rows.items()}
viz.gallery({label: viz.draw_neighbours(query, others[:7]) for label, (query, others) in ranked.items()}, width=640)

# %% [markdown]
# The framed photograph is the question, the rest are the answers, best first, each with its similarity. Each
# descriptor has its own scale: 0.1 may be a strong VLAD similarity and a weak one of DINOv2, so choose the *k* most
# similar rather than all above a limit.
#
# ## Matches: which keypoints are the same?
#
# The nearest neighbour is a good pair to look at. **Nearest** matches two keypoints when each is the other's nearest
# by descriptor. The **ratio test** also wants it to be clearly nearer than the second nearest. **AdaLAM** keeps
# matches that move as those around them do. **LightGlue** is a network that sees all keypoints of both photographs at
# once.
#
# COLMAP, which also reconstructs the scene later, then verifies them: a match is an **inlier** when one motion of the
# camera between the two photographs explains it together with most others. Blue lines are inliers, orange ones are
# not; the better a match's score, the clearer its line.

# %%
matchers, left_out = explore.usable(
    {
        "nearest": NearestConfig(),
        "nearest, ratio 0.8": NearestConfig(ratio=0.8),
        "AdaLAM": AdalamConfig(),
        "LightGlue": LightGlueConfig(),
    },
    DETECTOR.kind,
)
print(left_out)

# %%
query, others = ranked["VLAD"]
near = (names[0], others[0][0])
matched = explore.match_with(views, near, matchers)
first, second = (views[name].photo for name in near)
viz.gallery(
    {
        f"{label}: {pair}": viz.draw_matches(first, second, pair.matches, pair.inliers)
        for label, pair in matched.items()
    },
    width=560,
)

# %% [markdown]
# Two numbers matter, and they pull against each other: how many inliers there are (they fix the cameras), and which
# share of the matches they are (COLMAP guesses the motion from a handful of matches drawn at random, many times over,
# and with a share of 10 % hardly any handful is free of wrong ones).
#
# ## The ratio test
#
# A smaller ratio keeps fewer matches, of which more are right.

# %%
ratios = {f"ratio {ratio}": NearestConfig(ratio=ratio) for ratio in (0.6, 0.7, 0.8, 0.9, 1.0)}
for label, pair in explore.match_with(views, near, ratios).items():
    print(f"{label}: {pair}")

# %% [markdown]
# 0.8 is usual for SIFT. Descriptors of learned detectors are less spread: there a ratio test costs more right matches
# than it saves, and `min_score`, a least similarity, does better. Where structures repeat (windows, columns) the
# second nearest is almost as near as the first: the test drops such matches, and mostly rightly.
#
# ## A pair with nothing in common
#
# The least similar photograph shows what matching makes of an impossible pair.

# %%
far = (names[0], others[-1][0])
nothing = explore.match(views, [far], NearestConfig(ratio=0.8))[far]
viz.gallery(
    {str(nothing): viz.draw_matches(*(views[name].photo for name in far), nothing.matches, nothing.inliers)}, width=560
)

# %% [markdown]
# A matcher always finds something, and up to ten or so matches agree with some motion by chance: pairs with fewer than
# 15 matches are dropped (`min_matches`). More inliers are no proof either: on a building with two like towers,
# hundreds can agree and be wrong.
#
# ## All pairs, or some?
#
# All pairs of a hundred photographs are 4950, and most show nothing in common. Here are all pairs of these
# photographs: matches above the diagonal, inliers below it, photographs in an order in which those that match stand
# together.

# %%
everything = explore.match(views, retrieval.exhaustive(names), NearestConfig(ratio=0.8))
matches, inliers = explore.counts(everything)
viz.draw_matrix(names, matches, inliers).update_layout(height=560)

# %% [markdown]
# Most inliers are near the diagonal, between photographs of the same sides. Elsewhere is mostly what a matcher finds
# by chance: matches, few or no inliers. A selection of pairs should keep the former and skip the latter.

# %%
for label, table in rows.items():
    for k in (2, 4, 8):
        print(f"{label}, k = {k}: {explore.judge(retrieval.similar(names, [table], k), inliers)}")

# %% [markdown]
# Each photograph is paired with the *k* most similar to it. A pair that is left out is lost for good, a needless one
# costs a fraction of a second: so take k generously (20 to 30), and all pairs up to some 30 photographs. By itself the
# kit asks small, quick matches instead of descriptors (`--pairs.method matches`). On the command line:
# `--pairs.method similar --pairs.k 30`, `--pairs.exhaustive-up-to 60`, `--descriptors dinov2`.
#
# **Next:** from these pairs to cameras: `03_reconstruct_a_scene`.
