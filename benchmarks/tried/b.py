from exp import *
SIFT = SiftConfig(contrast_threshold=0.0133, edge_threshold=30.0, max_keypoints=2048, long_side=1024)
NEAR = NearestConfig(ratio=0.8, cells=64)
XF, LG = XFeatConfig(max_keypoints=1024, long_side=1024), LightGlueConfig()
def config(kind, on):
    det, m = (SIFT, NEAR) if kind == 'sift' else (XF, LG)
    tile = replace(det, max_keypoints=1024 if kind == 'sift' else 384, long_side=1024)
    return Config(det, TilesConfig(detector=det, tile_detector=tile, matcher=m, on=on))
if __name__ == '__main__':
    for name in sys.argv[2:]:
        for on in (False, True):
            run(name, f'{sys.argv[1]}-tiles{int(on)}', config(sys.argv[1], on))
        if sys.argv[1] == 'sift':
            run(name, 'sift8192', Config())
