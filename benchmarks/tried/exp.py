import sys, json, csv, os, time, math
from pathlib import Path

from dataclasses import dataclass, replace, field
from typing import ClassVar, Any
from functools import lru_cache
import cv2, numpy as np
from imc_kit import metric
from imc_kit.config import Config, PRESETS, FeaturePipeline
from imc_kit.data.images import Photo
from imc_kit.detectors import extract, DetectorConfig
from imc_kit.detectors.sift import SiftConfig
from imc_kit.detectors.xfeat import XFeatConfig
from imc_kit.matchers import PhotoMatcherConfig, View, OneByOne, register
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.matchers.lightglue import LightGlueConfig
from imc_kit.pipeline.run import solve
from imc_kit.pipeline.tasks import loaded
from imc_kit.retrieval.pairs import PairsConfig
from imc_kit.types import Correspondences, Features
from imc_kit.viewgraph.two_view import VerificationConfig
from true_geometry import scene_with_poses, distances, likeliest_camera

LAB = Path('/tmp/tiles')
def source(name):
    for root in (Path('../shared/scenes'), Path('../shared/scenes_hard')):
        if (root/'test'/name).is_dir(): return root
def root_of(name):
    src, root = source(name), LAB/'roots'/name
    if not root.exists():
        (root/'test').mkdir(parents=True)
        (root/'test'/name).symlink_to(src/'test'/name)
        for file in ('truth.csv', 'sample_submission.csv'):
            rows = list(csv.reader((src/file).open()))
            at = rows[0].index('scene')
            with (root/file).open('w', newline='') as f: csv.writer(f).writerows([rows[0]] + [r for r in rows if r[at] == name])
        th = json.loads((src/'thresholds.json').read_text())
        (root/'thresholds.json').write_text(json.dumps({name: th[name]}))
    return root
def score(root, out):
    return metric.score_files(root/'truth.csv', out/'submission.csv').result

def merged(parts):
    first, second, scores = (np.concatenate([getattr(p, n) for p in parts]) for n in ('first','second','scores'))
    return Correspondences(first, second, scores)

@dataclass(frozen=True)
class Part:
    photo: Photo
    features: Features

@register
@dataclass(frozen=True)
class TilesConfig(PhotoMatcherConfig):
    name: ClassVar[str] = 'tiles'
    long_side: int = 3200
    detector: Any = None
    tile_detector: Any = None
    matcher: Any = None
    on: bool = True
    def create(self): return Tiles(self)

class Tiles(OneByOne):
    def __init__(self, c):
        self.c = c; self.det = c.tile_detector.create(); self.match1 = c.matcher.create(c.detector.kind); self.cache = {}
    def tiles(self, view):
        key = id(view.features.keypoints.base) , hash(view.photo.pixels[::37, ::41].tobytes())
        key = key[1]
        if key not in self.cache:
            px = view.photo.pixels; h, w = px.shape[:2]; found = []
            sx, sy = view.photo.size[0]/w, view.photo.size[1]/h
            boxes = [(0,0,w//2,h//2),(w//2,0,w,h//2),(0,h//2,w//2,h),(w//2,h//2,w,h)]
            for x0,y0,x1,y1 in boxes:
                small = np.ascontiguousarray(px[y0:y1, x0:x1])
                f = extract(self.det, [Photo(small, (x1-x0, y1-y0), 0, False)])[0]
                pts = f.keypoints + np.float32([x0, y0])
                pts = ((pts + .5) * [sx, sy] - .5).astype(np.float32)
                found.append((f, pts))
            half = cv2.resize(px, (w//2, h//2), interpolation=cv2.INTER_AREA)
            f = extract(self.det, [Photo(half, view.photo.size, 0, False)])[0]
            found.append((f, f.keypoints))
            self.cache[key] = found
        return self.cache[key]
    def match(self, first, second):
        a, b = (replace(v.features, descriptors=v.features.descriptors.astype(np.float32)) for v in (first, second))
        m = self.match1.match(a, b); i, j = m.indices.T
        base = Correspondences(a.keypoints[i], b.keypoints[j], m.scores + 1)
        if not self.c.on or len(m) < 15: return base
        _, inliers = VerificationConfig().verify(base.first, base.second)
        if inliers.sum() < 15: return base
        parts = [base]
        for f, p in self.tiles(first):
            for g, q in self.tiles(second):
                if len(f) and len(g):
                    m = self.match1.match(f, g); i, j = m.indices.T
                    parts.append(Correspondences(p[i], q[j], m.scores))
        out = merged(parts)
        # one to one in original pixels: greedy by score on a lattice of one pixel
        from imc_kit.types import one_to_one_rows
        def cells(p): return np.unique(np.rint(p).astype(np.int64) @ [1, 100000], return_inverse=True)[1]
        rows = one_to_one_rows(np.stack([cells(out.first), cells(out.second)], 1), out.scores)
        return Correspondences(out.first[rows], out.second[rows], out.scores[rows])

def precision(name, found, poses, scene, sizes):
    """Mean matches per pair and share within 2 pixels, and the number of right ones"""
    cam = likeliest_camera(found, poses, sizes)
    ok = [(distances(p, (poses[i], poses[j]), cam) < 2) for (i, j), p in found.items() if len(p[0])]
    return sum(map(len, ok)) / max(1, len(ok)), np.concatenate(ok).mean(), sum(o.sum() for o in ok)/max(1, len(ok)), len(ok)

def stats(root, name, out):
    """matches per verified pair in the database before verification and precision."""
    import pycolmap
    scene, poses = scene_with_poses(root, name)
    db = next((out/'scenes').rglob('database.db'))
    with pycolmap.Database.open(str(db)) as o:
        ims = {im.image_id: im for im in o.read_all_images()}
        kp = {i: o.read_keypoints(i)[:, :2] - 0.5 for i in ims}
        number = {n: k for k, n in enumerate(scene.images)}
        found = {}
        for pid, m in zip(*o.read_all_matches()):
            i, j = pycolmap.pair_id_to_image_pair(pid) if hasattr(pycolmap, 'pair_id_to_image_pair') else pid
            try: tv = o.read_two_view_geometry(i, j)
            except Exception: continue
            if len(tv.inlier_matches) < 15: continue
            a, b = number[ims[i].name], number[ims[j].name]
            m = np.asarray(m)
            found[a, b] = (kp[i][m[:, 0]].astype(np.float32), kp[j][m[:, 1]].astype(np.float32))
    from PIL import Image
    size = Image.open(scene.path(scene.images[0])).size
    if not found: return None
    return precision(name, found, poses, scene, size)

def run(name, label, config, root=None):
    root = root or root_of(name); out = LAB/'runs'/f'{name}-{label}'
    t = time.time()
    r = solve(root, out, replace(config, threads=1))
    s = score(root, out)
    res = next(iter(r.scenes.values()))
    try: st = stats(root, name, out)
    except Exception as e: st = repr(e)
    row = dict(scene=name, label=label, score=next(float(getattr(s, a)) for a in dir(s) if not a.startswith('_') and isinstance(getattr(s, a), float)), registered=res.counts['registered'], images=res.counts['images'], verified=res.counts['verified pairs'], stats=[float(x) for x in st] if isinstance(st, tuple) else st, seconds=round(time.time()-t))
    print(json.dumps(row), flush=True)
    with (LAB/'rows.jsonl').open('a') as f: f.write(json.dumps(row)+'\n')
