from b import *
from imc_kit.data import images
import torch; torch.set_num_threads(1); cv2.setNumThreads(1)
for name, pairs in (('temple_sparse16', ((5, 6), (0, 1))), ('moldGoldCape40', ((0, 1), (10, 11)))):
    root = root_of(name); scene, poses = scene_with_poses(root, name)
    for kind in ('sift', 'xfeat'):
        c = config(kind, True).matcher; det = c.detector.create(); on = c.create()
        off = replace(c, on=False).create()
        foundoff, foundon = {}, {}
        for i, j in pairs:
            v = []
            for n in (i, j):
                path = scene.path(scene.images[n]); v.append(View(images.load(path, 3200), extract(det, [images.load(path, 1024)])[0]))
            size = v[0].photo.size
            x, y = off.match(*v), on.match(*v)
            foundoff[i, j], foundon[i, j] = (x.first, x.second), (y.first, y.second)
        if kind == 'sift': cam = likeliest_camera(foundoff, poses, size)
        for (i, j) in pairs:
            for label, f in (('plain', foundoff), ('tiles', foundon)):
                d = distances(f[i, j], (poses[i], poses[j]), cam) * 1024 / max(size)
                print(name, kind, (i, j), label, len(d), int((d < 2).sum()), int((d < 1).sum()), flush=True)
