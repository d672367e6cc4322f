"""Time and memory by number of images: the kit on rendered views of one place, with pairs by retrieval.

    python benchmarks/scale.py [--sizes 50 100 200 400 800] [--preset sift] [--keypoints 1000] [--long-side 640] [-k 10]
                               [--threads N] [--without-mapping] [--views FOLDER] [--partition N] [--out FILE]
                               [--synthetic [--seeds 0 1 2] [--whole-up-to 800]]

The views go once round the rendered plaza; smaller sizes take every second view, every fourth, and so on. They are
rendered first (`--views` keeps them in a folder and reuses views that are there). Each size is solved in its own
process, with one mapping run or up to verification. Each image is paired with its K most similar images by VLAD.

With `--synthetic`, mapping and refinement alone are measured, on databases of drone flights that are written directly
(`synthetic_flight`), one for each seed: CPU seconds by job, and errors against the true cameras. Flights of at most
`--whole-up-to` images are mapped as a whole, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from compare import _facts, _markdown
from imc_kit.colmap.mapping import MappingConfig
from imc_kit.colmap.mapping_runs import DEFAULT_RUNS
from imc_kit.errors import KitError
from imc_kit.synthetic import plaza

STAGES = ("inspect", "upright", "detect", "pairs", "match", "verify", "map", "complete", "place")
MB = 1e6
REMARKS = """\
s: the whole run, without starting Python, followed by the seconds of each stage. MB at start: memory before the first
stage. MB: peak resident memory of the kit's process, with its stage. MB of COLMAP: peak of the largest process that the
kit started; the kernel counts it as at least what the starting process held."""
FLIGHT_REMARKS = """\
Means over the seeds. CPU s: of all processes, and its factor to the size before; then by job, without writing the
database. cm: median error of the camera centres. MB: the largest process of any seed."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory by number of images.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200, 400, 800], help="numbers of images")
    parser.add_argument("--preset", default="sift", help="default: sift")
    parser.add_argument("--keypoints", type=int, default=1000, help="maximum per image; default: 1000")
    parser.add_argument("--long-side", type=int, default=640, help="of the views, in pixels; default: 640")
    parser.add_argument("-k", type=int, default=10, help="similar images that each image is paired with; default: 10")
    parser.add_argument("--threads", type=int, help="default: one per core")
    parser.add_argument("--without-mapping", action="store_true", help="stop after verification")
    parser.add_argument("--partition", type=int, help="images per partition; 0: map as a whole")
    parser.add_argument("--synthetic", action="store_true", help="measure mapping alone, without photos")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of synthetic flights; default: 0")
    parser.add_argument(
        "--whole-up-to", type=int, default=0, help="also map synthetic flights up to this size as a whole"
    )
    parser.add_argument("--views", type=Path, help="folder for the views; default: a temporary one")
    parser.add_argument("--out", type=Path, help="also save the table in this file")
    arguments = parser.parse_args()
    sizes = sorted(set(arguments.sizes))
    names = "preset", "keypoints", "long_side", "k", "threads", "partition"
    given = {name: getattr(arguments, name) for name in names}
    text = "".join(f"- {name}: {value}\n" for name, value in _facts().items())
    print(text)
    rows = []
    if arguments.synthetic:
        for size in sizes:
            for whole in (False, True) if size <= arguments.whole_up_to else (False,):
                for seed in arguments.seeds:
                    job = {"flight": size, **given, "seed": seed} | ({"partition": 0} if whole else {})
                    rows.append({"whole": whole} | run(job))
                    print(json.dumps(rows[-1]), flush=True)
        finish(arguments.out, text, f"{flights_table(rows)}\n\n{FLIGHT_REMARKS}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        views = render_views(arguments.views or Path(scratch) / "views", sizes[-1], arguments.long_side)
        for size in sizes:
            job = {
                "views": [str(views[number * len(views) // size]) for number in range(size)],
                "folder": str(Path(scratch) / str(size)),
                **given,
                "mapping": not arguments.without_mapping,
            }
            rows.append(run(job))
            print(json.dumps(rows[-1]), flush=True)
    used = [stage for stage in STAGES if any(stage in row.get("seconds", {}) for row in rows)]
    header = [
        "images",
        "pairs",
        "verified",
        "registered",
        "s",
        "s per image",
        *used,
        "MB at start",
        "MB",
        "MB of COLMAP",
    ]
    finish(arguments.out, text, f"{_markdown(header, [line(row, used) for row in rows])}\n\n{REMARKS}")


def flights_table(rows: list[dict[str, Any]]) -> str:
    """The rows of synthetic flights, averaged over the seeds."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in ("whole", "images", "seed")))
    last: dict[bool, float] = {}
    lines = []
    for whole, size in dict.fromkeys((row["whole"], row["images"]) for row in rows):
        same = [row for row in rows if (row["whole"], row["images"]) == (whole, size)]
        cells = []
        for name in columns:
            values = [row[name] for row in same if name in row]
            if name == "error" or not values:
                cells.append("; ".join(map(str, values)))
                continue
            value = max(values) if name == "MB" else sum(values) / len(values)
            factor = f" ({value / last[whole]:.2f})" if name == "CPU s" and whole in last else ""
            last |= {whole: value} if name == "CPU s" else {}
            cells.append(f"{value:.4g}{factor}")
        lines.append([str(size), "as a whole" if whole else "in partitions", str(len(same)), *cells])
    return _markdown(["images", "mapped", "flights", *columns], lines)


def finish(out: Path | None, facts: str, table: str) -> None:
    text = f"{facts}\n{table}\n"
    print(text)
    if out:
        out.write_text(text, "utf-8")


def render_views(folder: Path, count: int, long_side: int) -> list[Path]:
    """Render `count` different views with an aspect ratio of 4:3; views that are in `folder` already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    solids = plaza.plaza()
    camera = plaza.Camera.centred((long_side, long_side * 3 // 4))
    paths = [folder / f"{count}-{long_side}-{number:04}.jpg" for number in range(count)]

    def take(path: Path, pose: plaza.Pose) -> None:
        if not path.exists():
            pixels = plaza.render(solids, camera, pose, samples=1)
            path.write_bytes(cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes())

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(take, paths, plaza.orbit(count)))
    return paths


def run(job: dict[str, Any]) -> dict[str, Any]:
    """The answer of a worker process to its job, or its error."""
    command = [sys.executable, __file__, "--worker"]  # an argument could not hold the paths of thousands of views
    done = subprocess.run(command, input=json.dumps(job), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"images": job.get("flight") or len(job["views"]), "error": f"exit status {done.returncode}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def line(row: dict[str, Any], stages: list[str]) -> list[str]:
    if "error" in row:
        return [str(row["images"]), row["error"], *[""] * (len(stages) + 7)]
    seconds, memory = row["seconds"], row["memory"]
    total = sum(seconds.values())
    where = max(memory, key=lambda stage: memory[stage])
    return [
        *(str(row[name]) for name in ("images", "pairs", "verified", "registered")),
        f"{total:.0f}",
        f"{total / row['images']:.2f}",
        *(f"{seconds.get(stage, 0):.1f}" for stage in stages),
        f"{row['start'] / MB:.0f}",
        f"{memory[where] / MB:.0f} ({where})",
        f"{row['children'] / MB:.0f}",
    ]


def mapping_run(job: dict[str, Any]) -> tuple[MappingConfig]:
    """The first mapping run."""
    given = {} if job["partition"] is None else {"partition": job["partition"]}
    return (replace(DEFAULT_RUNS[0], **given),)


def flight_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Map a synthetic flight and refine its model: seconds, and CPU seconds of this process and its children by job."""
    import resource

    import numpy as np
    import pycolmap

    import synthetic_flight
    from imc_kit.colmap import child, mapping, steps
    from imc_kit.runtime.executors import cores

    used: Counter[str] = Counter()
    last = 0.0

    def take(what: str) -> None:
        nonlocal last
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        now = sum(one.ru_utime + one.ru_stime for one in both)
        used[what] += now - last
        last = now

    def counted(self: Any, name: str, *arguments: Any, **options: Any) -> None:
        take("kit")
        run_job(self, name, *arguments, **options)
        take(name)

    run_job = child.Workplace.run
    child._FORKS = False  # the kernel then tells what each child used when it ends
    child.Workplace.run = counted
    threads = job["threads"] or cores()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(threads) as pool:
        folder = Path(scratch)
        truth = synthetic_flight.write(folder / "flight.db", job["flight"], job["k"], job["seed"])
        take("writing")
        started = time.monotonic()
        at = child.Workplace(folder / "models", folder / "log.txt", threads)
        large = child.LargeScenes(folder / "parts", pool)
        (photos := folder / "photos").mkdir()
        (config,) = mapping_run(job)
        mapped = mapping.map_scene(folder / "flight.db", photos, config, replace(at, large=large))[0]
        refined = steps.refine(mapped, steps.RefinementConfig(), replace(at, folder=folder / "refined"))
        take("kit")
        seconds = round(time.monotonic() - started, 1)
        row: dict[str, Any] = {"images": job["flight"], "seed": job["seed"], "registered": len(refined.poses)}
        for title, model in (("mapped", mapped), ("refined", refined)):
            found, true = (np.array([poses[name].center for name in model.poses]) for poses in (model.poses, truth))
            errors = np.linalg.norm(pycolmap.estimate_sim3d(found, true) * found - true, axis=1)
            scores = [(errors <= distance).sum() / len(truth) for distance in plaza.DISTANCES]
            row |= {f"mAA {title}": round(float(np.mean(scores)), 4), f"cm {title}": round(100 * np.median(errors), 1)}
        largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        del used["writing"]
        jobs = {name: round(taken, 1) for name, taken in used.items()}
        return row | {"s": seconds, "CPU s": round(sum(used.values()), 1)} | jobs | {"MB": round(largest * 1024 / MB)}


def worker(job: dict[str, Any]) -> dict[str, Any]:
    """Solve the views of one job in this process. Linux only."""
    import resource

    import pycolmap  # noqa: F401  (counts as memory at the start)

    from imc_kit.config import preset
    from imc_kit.data.store import Store
    from imc_kit.pipeline.scene import match_scene
    from imc_kit.retrieval.pairs import PairsConfig
    from imc_kit.runtime.executors import workers
    from imc_kit.runtime.meter import peak_memory
    from imc_kit.types import Scene

    config = preset(job["preset"], {"detector.max_keypoints": job["keypoints"], "detector.long_side": job["long_side"]})
    config = replace(
        config,
        pairs=PairsConfig("similar", exhaustive_up_to=0, k=job["k"]),
        mapping=mapping_run(job) if job["mapping"] else (),
        turntable=replace(config.turntable, on=False),
        threads=job["threads"],
    )
    config.check()
    folder = Path(job["folder"])
    first = Path(job["views"][0])
    scene = Scene("views", first.parent, tuple(Path(view).name for view in job["views"]))
    start = peak_memory()
    with workers(None, config.threads) as executor:
        matched = match_scene(scene, folder, Store(folder / "store"), config, executor)
        result = matched.reconstruct(executor)
    return {
        "images": len(scene.images),
        "pairs": result.counts["pairs"],
        "verified": result.counts["verified pairs"],
        "registered": result.counts["registered"],
        "points": result.counts["points"],
        "seconds": result.seconds,
        "memory": result.memory,
        "start": start,
        "children": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["--worker"]:
            job = json.load(sys.stdin)
            print(json.dumps(flight_worker(job) if "flight" in job else worker(job)))
        else:
            main()
    except KitError as error:
        sys.exit(str(error))
