"""Compare imc_kit's presets with COLMAP alone, scene by scene, on scenes whose true poses are known.

    python benchmarks/compare.py ROOT [--presets sift aliked] [--scenes A B] [--max-images 70] [--out DIR] [--repeats 1]
                                      [--without-colmap] [--against CHECKOUT]

ROOT has a competition's layout, with truth.csv and thresholds.json (distances by scene). The methods take turns scene
by scene. Each run has its own process, so peak memory is measured for that run only and a crash costs one cell. COLMAP
is pycolmap's extract_features, match_exhaustive and incremental_mapping with their defaults, once with per-image and
once with shared intrinsics; its largest model is scored. With --against, another checkout of the kit (such as a git
worktree of an earlier version) solves the same scenes in turn, as PRESET@before. compare.json and compare.md are
rewritten after every run.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imc_kit import metric
from imc_kit.data import scenes, tables
from imc_kit.data.images import Photo
from imc_kit.detectors import extract
from imc_kit.errors import KitError, unknown_name
from imc_kit.types import Pose, Scene

BEFORE = "@before"
"""Marks a preset of the other checkout."""
COLMAP = {"colmap-per-image": "PER_IMAGE", "colmap-single": "SINGLE"}
"""COLMAP's camera mode for each method."""
PACKAGES = ("pycolmap", "opencv-python-headless", "opencv-python", "numpy", "numba", "torch", "kornia")
REMARKS = """\
registered: images in the scored model. The kit also submits guesses for the other images; COLMAP leaves them out.
seconds: the whole run, without starting Python, scoring, and compiling code that is compiled once per installation.
mAA: a run that crashed counts as 0 in the means.
MB: peak resident memory of the process. MB of children: peak of the largest process that it started (the kit maps in
one); the kernel counts it as at least what the starting process held."""

Job = dict[str, Any]
Row = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    root, out = arguments.root.resolve(), arguments.out
    out.mkdir(parents=True, exist_ok=True)
    chosen = _choose(root, arguments.scenes, arguments.max_images)
    other = arguments.against
    presets = [name for preset in arguments.presets for name in ((preset, preset + BEFORE) if other else (preset,))]
    unavailable = {preset: answer["error"] for preset in presets if (answer := _run({"check": preset}, other))}
    colmap = () if arguments.without_colmap else tuple(COLMAP)
    methods = [*(preset for preset in presets if preset not in unavailable), *colmap]
    header = _facts() | {f"{preset} cannot run": reason for preset, reason in unavailable.items()}
    print(*(f"{name}: {value}" for name, value in header.items()), sep="\n", end="\n\n")

    rows: list[Row] = []
    for scene in chosen:
        for repeat in range(arguments.repeats):
            for method in (*presets, *colmap):
                row: Row = {"scene": scene.name, "method": method, "images": len(scene.images), "repeat": repeat}
                if method in methods:
                    row |= _run({"root": str(root), "scene": scene.name, "method": method, "seed": repeat}, other)
                rows.append(row)
                cells = _cells(row)
                if len(rows) == 1:
                    print(_aligned(cells))
                print(_aligned(cells.values()), flush=True)
                _save(out, header, rows, _summary(rows, methods))
    print(f"\n{_summary(rows, methods).to_string()}\n\nsaved in {out}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare imc_kit's presets with COLMAP alone on scenes with truth.")
    parser.add_argument("root", type=Path, help="scenes in a competition's layout, with truth.csv and thresholds.json")
    parser.add_argument(
        "--presets",
        nargs="*",
        default=["sift", "aliked"],
        help="presets, also joined by + as in sift+aliked; default: sift aliked",
    )
    parser.add_argument("--scenes", nargs="+", help="use only these, whatever their size")
    parser.add_argument("--max-images", type=int, default=70, help="leave larger scenes out; default: 70")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each method on each scene; default: 1")
    parser.add_argument("--without-colmap", action="store_true", help="compare the presets with each other only")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="run the presets of this checkout, too")
    return parser.parse_args()


def _choose(root: Path, names: Sequence[str] | None, most: int) -> list[Scene]:
    """The scenes to run. Raises `KitError` if one has no true poses or distances."""
    task = scenes.load(root)
    known = {scene.name: scene for scene in task.scenes}
    for name in names or ():
        if name not in known:
            raise unknown_name("scene", name, known)
    chosen = [known[name] for name in names] if names else [s for s in task.scenes if len(s.images) <= most]
    for scene in chosen:
        _truth(_restricted(task, scene.name))
        _thresholds(_restricted(task, scene.name))
    left = [name for name, scene in known.items() if scene not in chosen]
    print(f"{len(chosen)} scenes of {root}" + (f"; left out: {', '.join(left)}" if left else ""))
    return chosen


def _restricted(task: scenes.Task, name: str) -> scenes.Task:
    """The task of solving one scene."""
    one = tuple(scene for scene in task.scenes if scene.name == name)
    return dataclasses.replace(task, scenes=one, rows=tuple(row for row in task.rows if row.scene == name), notes=())


def _truth(task: scenes.Task) -> pd.DataFrame:
    path = task.root / "truth.csv"
    table = tables.read_table(path, ("image_path", *tables.POSE_COLUMNS))
    truth = table[table["image_path"].isin([row.key["image_path"] for row in task.rows])]
    if truth.empty:
        raise KitError(f"{path} has no row of scene {task.scenes[0].name}: name the scenes to run with --scenes")
    return truth


def _thresholds(task: scenes.Task) -> dict[str, list[float]]:
    path, scene = task.root / "thresholds.json", task.rows[0].key["scene"]
    try:
        return {scene: json.loads(path.read_text("utf-8"))[scene]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(f"{path} does not give the distances of scene {scene}: {type(error).__name__}") from error


# One run, in its own process.


def _run(job: Job, other: Path | None = None) -> Row:
    """The answer of a worker process to its job; `error` if it failed or crashed.

    other: the checkout that does the jobs whose method or check ends in `BEFORE`.
    """
    checkout = Path(__file__).resolve().parents[1]
    for key in ("check", "method"):
        if other is not None and job.get(key, "").endswith(BEFORE):
            checkout, job = other.resolve(), job | {key: job[key].removesuffix(BEFORE)}
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "worker.log")
        worker = [sys.executable, str(checkout / "benchmarks" / "compare.py"), "--worker"]
        command = [*worker, json.dumps(job | {"folder": folder})]
        with log.open("wb") as output:
            ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
            code = ended.returncode
        if code == 0:
            answer: Row = json.loads(Path(folder, "answer.json").read_text("utf-8"))
            return answer
        last = (log.read_text("utf-8", "replace").strip().splitlines() or ["it printed nothing"])[-1]
        return {"error": f"crashed ({signal.Signals(-code).name if code < 0 else f'exit status {code}'}): {last}"}


def _answer(job: Job) -> None:
    try:
        row = _work(job)
    except KitError as error:
        row = {"error": str(error)}
    Path(job["folder"], "answer.json").write_text(json.dumps(row), "utf-8")


def _work(job: Job) -> Row:
    """Do one job. Raises `KitError` for a problem that a person can solve."""
    if "check" in job:
        _prepare(job["check"])
        return {}
    task = _restricted(scenes.load(job["root"]), job["scene"])
    solve: Callable[[scenes.Task, Job], tuple[Any, Row]] = _colmap if job["method"] in COLMAP else _kit
    started = time.monotonic()
    answer, row = solve(task, job)
    row["wall"] = round(time.monotonic() - started, 2)
    for key, who in (("memory", resource.RUSAGE_SELF), ("memory_children", resource.RUSAGE_CHILDREN)):
        peak = resource.getrusage(who).ru_maxrss * 1024 / 1e6  # Linux counts in KiB
        row[key] = max(round(peak), row.get(key, 0))

    (score,) = metric.score(_truth(task), answer, _thresholds(task)).scenes.values()
    return row | {"mAA": None if score.images <= metric.FREE else score.score, "counts": score.counts}


def _prepare(preset: str) -> None:
    """Check a preset, and compile before any run is timed what is compiled once per installation."""
    config = _config(preset)
    config.check()
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    for feature_pipeline in config.sparse:
        (features,) = extract(feature_pipeline.detector.create(), [Photo(pixels, (300, 200), 0, False)])
        feature_pipeline.matcher.create(feature_pipeline.detector.kind).match(features, features)


def _kit(task: scenes.Task, job: Job) -> tuple[Any, Row]:
    """The submission's path, and facts about the run."""
    from imc_kit.pipeline.run import solve
    from imc_kit.runtime import malloc

    malloc.tune()  # as the command does
    config = dataclasses.replace(_config(job["method"]), seed=job["seed"])
    run = solve(task, Path(job["folder"]) / "out", config)
    if run.failed:
        return run.submission, {"registered": 0, "seconds": {}, "error": "; ".join(run.failed.values())}
    (result,) = run.scenes.values()
    placed = [result.placements[row.image] for row in task.rows if row.image is not None]
    registered = sum(placement.model == 0 for placement in placed)
    # The kit resets the kernel's peak in every stage.
    memory = round(max(result.memory.values(), default=0) / 1e6)
    return run.submission, {"registered": registered, "seconds": result.seconds, "memory": memory}


def _config(method: str) -> Any:
    """A preset, or several joined by +: the first with the feature pipelines of the others added."""
    from imc_kit.config import preset

    first, *others = (preset(name) for name in method.split("+"))
    added = tuple(feature_pipeline for other in others for feature_pipeline in other.feature_pipelines)
    upright = first.upright or any(other.upright for other in others)
    return dataclasses.replace(first, also=(*first.also, *added), upright=upright)


def _colmap(task: scenes.Task, job: Job) -> tuple[Any, Row]:
    """A table of poses, and facts about the run."""
    import pycolmap

    (scene,) = task.scenes
    folder, database = Path(job["folder"]), Path(job["folder"]) / "database.db"
    (folder / "models").mkdir()
    mode = getattr(pycolmap.CameraMode, COLMAP[job["method"]])
    times = [time.monotonic()]
    pycolmap.extract_features(database, scene.root, image_names=list(scene.images), camera_mode=mode)
    times.append(time.monotonic())
    pycolmap.match_exhaustive(database)
    times.append(time.monotonic())
    models = pycolmap.incremental_mapping(database, scene.root, folder / "models")
    times.append(time.monotonic())

    poses = {}
    if models:
        largest = max(models.values(), key=lambda model: model.num_reg_images())
        for image in (largest.images[number] for number in largest.reg_image_ids()):
            matrix = image.cam_from_world().matrix()
            poses[image.name] = tables.format_pose(Pose(matrix[:, :3], matrix[:, 3]))
    answered = [
        row.key | dict(zip(tables.POSE_COLUMNS, poses[row.image], strict=True))
        for row in task.rows
        if row.image in poses
    ]  # the metric treats a missing row like a row of nan
    extracted, matched, mapped = (round(end - start, 2) for start, end in pairwise(times))
    seconds = {"extract": extracted, "match": matched, "map": mapped}
    return pd.DataFrame(answered, columns=list(task.columns)), {"registered": len(answered), "seconds": seconds}


# Tables.


def _summary(rows: Sequence[Row], methods: Sequence[str]) -> pd.DataFrame:
    """Mean mAA by scene and method, COLMAP's better mode, the difference of each preset from it; total seconds."""
    frame = pd.DataFrame(rows, columns=["scene", "method", "mAA", "wall", "error"])
    frame.loc[frame["mAA"].isna() & frame["error"].notna(), "mAA"] = 0
    frame[["mAA", "wall"]] = frame[["mAA", "wall"]].astype(float)
    means = frame.groupby(["scene", "method"], sort=False)[["mAA", "wall"]].mean()
    table = means["mAA"].unstack(sort=False).reindex(columns=list(methods)).dropna()
    if set(COLMAP) <= set(methods):
        table["colmap-better"] = table[list(COLMAP)].max(axis=1)
        for preset in methods[: -len(COLMAP)]:
            table[f"{preset} − better"] = table[preset] - table["colmap-better"]
    table.loc["mean"] = table.mean()
    table = table.map("{:.4f}".format)
    seconds = means["wall"].groupby("method").sum()
    table.loc["total"] = [f"{seconds[name]:.0f} s" if name in seconds else "" for name in table.columns]
    return table.rename_axis(index=None, columns=None)


def _cells(row: Row) -> dict[str, str]:
    """A row of the table: texts by column."""
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in row.get("seconds", {}).items())
    return {
        "scene": row["scene"],
        "method": row["method"],
        "images": str(row["images"]),
        "registered": str(row.get("registered", "–")),
        "mAA": "–" if row.get("mAA") is None else f"{row['mAA']:.4f}",
        "seconds": str(row.get("wall", "–")),
        "MB": str(row.get("memory", "–")),
        "MB of children": str(row.get("memory_children", "–")),
        "seconds per stage": row.get("error") or stages or "–",
    }


def _aligned(cells: Iterable[str]) -> str:
    widths = (-20, -16, 6, 10, 6, 7, 5, 14, -1)
    return "  ".join(f"{text:<{-w}}" if w < 0 else f"{text:>{w}}" for text, w in zip(cells, widths, strict=True))


def _facts() -> dict[str, str]:
    """The versions and the machine."""
    versions = {"imc-kit": "from source, not installed"}
    for package in ("imc-kit", *PACKAGES):
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
        "Python": platform.python_version(),
        "CPU": f"{(names or [platform.machine()])[0]}, {os.cpu_count()} cores",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _save(out: Path, header: dict[str, str], rows: list[Row], summary: pd.DataFrame) -> None:
    content = {"header": header, "rows": rows, "summary": summary.to_dict("index")}
    (out / "compare.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), "utf-8")
    facts = "\n".join(f"- {name}: {value}" for name, value in header.items())
    first = _markdown(["scene", *summary.columns], [[name, *cells] for name, *cells in summary.itertuples(name=None)])
    cells = [_cells(row) for row in rows]
    second = _markdown(list(cells[0]), [list(line.values()) for line in cells])
    (out / "compare.md").write_text("\n\n".join([facts, first, second, REMARKS]) + "\n", "utf-8")


def _markdown(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["--worker"]:
            _answer(json.loads(sys.argv[2]))
        else:
            main()
    except KitError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")
