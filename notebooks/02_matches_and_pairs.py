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
# Two questions decide whether a scene can be solved. Which photos show the same thing? And which keypoints of such a
# pair are the same point? This notebook looks at both, on your photos or on a scene that the kit renders (set `INPUT`
# as in `01_explore_features`).

# %%
from imc_kit import explore, viz
from imc_kit.detectors.sift import SiftConfig
from imc_kit.matchers.adalam import AdalamConfig
from imc_kit.matchers.lightglue import LightGlueConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.retrieval.aggregates import VladConfig
from imc_kit.retrieval.networks import ClipConfig, DinoConfig
from imc_kit.retrieval.pairs import PairsConfig, exhaustive, similar

INPUT = ""
DETECTOR = SiftConfig(max_keypoints=2048, long_side=1024)

task = explore.open_input(INPUT)
scene = task.scenes[0]
views = explore.views(scene, DETECTOR, most=24)  # at most 24 photos, evenly spaced
names = list(views)
print(f"{len(views)} of the {len(scene.images)} photos of {scene.name}, from {scene.root}")

# %% [markdown]
# ## Neighbours: which photos show the same thing?
#
# A **global descriptor** sums up a whole photo in one vector. The cosine between two vectors is the similarity of the
# photos. VLAD adds up the local descriptors that exist already, so it costs little and needs no weight file. DINOv2 and
# CLIP are networks that recognise what a photo shows from any side. They are used if their files are found.

# %%
descriptors, left_out = explore.usable({"VLAD": VladConfig(), "DINOv2": DinoConfig(), "CLIP": ClipConfig()})
print(left_out)

# %%
rows = {label: explore.describe(views, descriptor) for label, descriptor in descriptors.items()}
ranked = {label: explore.neighbours(views, table, names[0], len(views)) for label, table in rows.items()}
viz.gallery({label: viz.draw_neighbours(query, others[:7]) for label, (query, others) in ranked.items()}, width=640)

# %% [markdown]
# The framed photo is the query. The others are the results, best first, with their similarity. Each descriptor has its
# own scale: 0.1 can be a strong similarity for VLAD and a weak one for DINOv2. So choose the *k* most similar photos
# instead of all photos above a limit.
#
# ## Matches: which keypoints are the same point?
#
# The most similar photo makes a good pair to look at. **Nearest** matches two keypoints if each is the other's nearest
# neighbour by descriptor. The **ratio test** also requires it to be clearly nearer than the second nearest. **AdaLAM**
# keeps matches that move like the matches around them. **LightGlue** is a network that sees all keypoints of both
# photos at once.
#
# COLMAP, which later reconstructs the scene, then verifies the matches: a match is an **inlier** if one motion of the
# camera between the two photos explains it together with most other matches. Blue lines are inliers, orange lines are
# not. The higher the score of a match, the clearer its line.

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
# Two numbers matter, and one grows at the expense of the other: the number of inliers, which determine the cameras, and
# the inlier ratio. COLMAP estimates the motion by RANSAC, from small random samples of matches. If only 10 % of the
# matches are inliers, hardly any sample is free of wrong matches.
#
# ## The ratio test
#
# A smaller ratio keeps fewer matches, and a larger share of them is correct.

# %%
ratios = {f"ratio {ratio}": NearestConfig(ratio=ratio) for ratio in (0.6, 0.7, 0.8, 0.9, 1.0)}
for label, pair in explore.match_with(views, near, ratios).items():
    print(f"{label}: {pair}")

# %% [markdown]
# 0.8 is usual for SIFT. Descriptors of learned detectors differ less from each other: there, a ratio test removes more
# correct matches than wrong ones, and a minimum similarity (`min_score`) works better. If a structure repeats, such as
# windows or columns, the second nearest keypoint is almost as near as the nearest. The test drops such matches, which
# is usually what you want.
#
# ## A pair with nothing in common
#
# The least similar photo shows what a matcher finds in an impossible pair.

# %%
far = (names[0], others[-1][0])
nothing = explore.match(views, [far], NearestConfig(ratio=0.8))[far]
viz.gallery(
    {str(nothing): viz.draw_matches(*(views[name].photo for name in far), nothing.matches, nothing.inliers)}, width=560
)

# %% [markdown]
# A matcher always finds something, and about ten matches can agree with some motion by chance. So pairs with fewer than
# 15 matches are dropped (`min_matches`). Many inliers are no proof either: on a building with two similar towers,
# hundreds of matches can agree and be wrong.
#
# ## All pairs, or some?
#
# A hundred photos make 4950 pairs, and most of them have nothing in common. The next figure shows all pairs of these
# photos: matches above the diagonal, inliers below it. Photos that match each other are next to each other.

# %%
everything = explore.match(views, exhaustive(names), NearestConfig(ratio=0.8))
matches, inliers = explore.counts(everything)
viz.draw_matrix(names, matches, inliers).update_layout(height=560)

# %% [markdown]
# Most inliers are near the diagonal, between photos of the same side. Elsewhere you mostly see what a matcher finds by
# chance: matches with few or no inliers. A good selection of pairs keeps the former and skips the latter.

# %%
for label, table in rows.items():
    for k in (2, 4, 8):
        print(f"{label}, k = {k}: {explore.judge(similar(names, [table], PairsConfig(k=k, min_per_image=0)), inliers)}")

# %% [markdown]
# Each photo is paired with its *k* most similar photos. A missing pair is lost; an unnecessary pair costs a fraction of
# a second. So choose a generous k (20 to 30), and all pairs for up to about 30 photos. By default, the kit selects
# pairs by quick low-resolution matching instead of descriptors (`--pairs.method matches`). On the command line:
# `--pairs.method similar --pairs.k 30`, `--pairs.exhaustive-up-to 60`, `--descriptors dinov2`.
#
# **Next:** from these pairs to cameras in `03_reconstruct_a_scene`.
