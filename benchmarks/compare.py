"""Compare imc_kit's presets with COLMAP alone, scene by scene, on scenes whose cameras are known.

    python benchmarks/compare.py ROOT [--presets sift aliked] [--scenes A B] [--max-images 70] [--out DIR] [--repeats 1]

ROOT is in a competition's layout, with truth.csv and thresholds.json (distances by scene) beside. The methods alternate
scene by scene. Each run has a fresh process of its own, so that its peak memory is its own and a crash costs one cell.
COLMAP is pycolmap's extract_features, match_exhaustive and incremental_mapping with their defaults, once with a camera
per image and once with one camera; its largest model is scored. After every run compare.json and compare.md are
rewritten.
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
from importlib import metadata
from pathlib import Path
from typing import Any

from imc_kit import metric, scenes, submission
from imc_kit.errors import KitError, unknown_name

COLMAP = {"colmap-per-image": "PER_IMAGE", "colmap-single": "SINGLE"}
"""COLMAP's camera mode by the method's name."""
PACKAGES = ("imc-kit", "pycolmap", "opencv-python-headless", "opencv-python", "numpy", "torch", "kornia")
HEADER = ("scene", "method", "images", "registered", "mAA", "seconds", "MB", "MB of children", "seconds per stage")
REMARKS = """\
registered: images in the scored model (the kit's guesses for other images are scored too, COLMAP leaves them out).
seconds: the whole run, without starting Python and scoring.
MB: peak resident memory of the process; of children: of the largest process that it started (the kit maps in one; the
kernel counts at least what the starting process held). A run that crashed counts as mAA 0 in the means."""

Job = dict[str, Any]
Row = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    root, out = arguments.root.resolve(), arguments.out
    out.mkdir(parents=True, exist_ok=True)
    chosen = _choose(root, arguments.scenes, arguments.max_images)
    methods, unavailable = [], {}
    for preset in arguments.presets:
        reason = _run({"check": preset}).get("error")
        if reason:
            unavailable[preset] = reason
            print(f"{preset} cannot run: {reason}")
        else:
            methods.append(preset)
    methods += COLMAP

    header = _header(root)
    print(*(f"{name}: {value}" for name, value in header.items()), sep="\n", end="\n\n")
    print(_line(HEADER))
    rows: list[Row] = []
    for scene in chosen:
        for repeat in range(arguments.repeats):
            for method in (*arguments.presets, *COLMAP):
                row: Row = {"scene": scene.name, "method": method, "images": len(scene.images), "repeat": repeat}
                if method in methods:
                    row |= _run({"root": str(root), "scene": scene.name, "method": method, "seed": repeat})
                rows.append(row)
                print(_line(_cells(row)) + (f"  {row['error']}" if "error" in row else ""), flush=True)
                _save(out, header, rows, methods, unavailable)
    print()
    print(*map(_line, _summary(rows, methods)), *_verdicts(rows, methods), f"saved in {out}", sep="\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare imc_kit's presets with COLMAP alone on scenes with truth.")
    parser.add_argument("root", type=Path, help="scenes in a competition's layout, with truth.csv and thresholds.json")
    parser.add_argument("--presets", nargs="*", default=["sift", "aliked"], help="default: sift aliked")
    parser.add_argument("--scenes", nargs="+", help="only these; they may have any number of images")
    parser.add_argument("--max-images", type=int, default=70, help="leave larger scenes out; default: 70")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each method on each scene; default: 1")
    return parser.parse_args()


def _choose(root: Path, names: Sequence[str] | None, most: int) -> list[scenes.Scene]:
    """The scenes to run, all of which have true poses."""
    known = {scene.name: scene for scene in scenes.load(root).scenes}
    for name in names or ():
        if name not in known:
            raise unknown_name("scene", name, known)
    chosen = [known[name] for name in names] if names else [s for s in known.values() if len(s.images) <= most]
    for scene in chosen:
        _truth(root, _restricted(root, scene.name))
    left = ", ".join(name for name, scene in known.items() if scene not in chosen)
    print(f"{len(chosen)} scenes" + (f", without {left}" if left else ""))
    return chosen


def _restricted(root: Path, name: str) -> scenes.Task:
    """The task of solving one scene."""
    task = scenes.load(root)
    return dataclasses.replace(
        task,
        scenes=tuple(scene for scene in task.scenes if scene.name == name),
        rows=tuple(row for row in task.rows if row.scene == name),
        notes=(),
    )


def _truth(root: Path, task: scenes.Task) -> Any:
    table = submission.read_table(root / "truth.csv", ("image_path", *submission.POSE_COLUMNS))
    truth = table[table["image_path"].isin([row.key["image_path"] for row in task.rows])]
    if truth.empty:
        raise KitError(f"{root / 'truth.csv'} has no row of scene {task.scenes[0].name}: leave it out with --scenes")
    return truth


# One run, in its own process.


def _run(job: Job) -> Row:
    """What the worker says of its job, or of its end when that was not as planned: `error`."""
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "worker.json", Path(folder) / "worker.log"
        command = [sys.executable, __file__, "--worker", json.dumps(job | {"folder": folder, "result": str(result)})]
        with log.open("wb") as output:
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
        if code == 0:
            answer: Row = json.loads(result.read_text("utf-8"))
            return answer
        last = (log.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
        return {"error": f"crashed ({signal.Signals(-code).name if code < 0 else f'exit status {code}'}): {last}"}


def work(job: Job) -> Row:
    """Do one job; raises KitError for what a person can mend."""
    if "check" in job:
        from imc_kit.config import preset

        preset(job["check"]).check()
        return {}
    root, name = Path(job["root"]), job["scene"]
    task = _restricted(root, name)
    solve: Callable[[scenes.Task, Job], tuple[Any, Row]] = _colmap if job["method"] in COLMAP else _kit
    started = time.monotonic()
    answer, row = solve(task, job)
    row["wall"] = round(time.monotonic() - started, 2)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    for key, who in (("memory", resource.RUSAGE_SELF), ("memory_children", resource.RUSAGE_CHILDREN)):
        row[key] = round(resource.getrusage(who).ru_maxrss * unit / 1e6)

    distances = json.loads((root / "thresholds.json").read_text("utf-8"))
    scene = task.rows[0].key["scene"]
    thresholds = {scene: distances[scene]} if scene in distances else None
    (score,) = metric.score(_truth(root, task), answer, thresholds).scenes.values()
    return row | {"mAA": None if score.images <= metric.FREE else score.score, "counts": score.counts}


def _kit(task: scenes.Task, job: Job) -> tuple[Any, Row]:
    """The submission's path, and what is known of the run."""
    from imc_kit.config import preset
    from imc_kit.pipeline import solve

    config = dataclasses.replace(preset(job["method"]), seed=job["seed"])
    run = solve(task, Path(job["folder"]) / "out", config)
    if run.failed:
        return run.submission, {"registered": 0, "seconds": {}, "error": "; ".join(run.failed.values())}
    (result,) = run.scenes.values()
    placed = [result.placements[row.image] for row in task.rows if row.image is not None]
    registered = sum(placement.model == 0 for placement in placed)
    return run.submission, {"registered": registered, "seconds": result.seconds}


def _colmap(task: scenes.Task, job: Job) -> tuple[Any, Row]:
    """A table of poses, and what is known of the run."""
    import pandas as pd
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
            pose = image.cam_from_world().matrix()
            poses[image.name] = [";".join(map(repr, part.ravel().tolist())) for part in (pose[:, :3], pose[:, 3])]
    answers = [poses.get(str(row.image), submission.NO_POSE) for row in task.rows]
    table = pd.DataFrame(
        row.key | dict(zip(submission.POSE_COLUMNS, answer, strict=True))
        for row, answer in zip(task.rows, answers, strict=True)
    )
    stages = zip(("extract", "match", "map"), times, times[1:], strict=False)
    seconds = {stage: round(end - start, 2) for stage, start, end in stages}
    return table, {"registered": sum(row.image in poses for row in task.rows), "seconds": seconds}


# What is said of the runs.


def _mean(rows: Iterable[Row], key: str) -> float | None:
    """The mean of what was measured; a crash is mAA 0."""
    values = [row.get(key, 0.0 if key == "mAA" else None) for row in rows]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _scores(rows: Sequence[Row], methods: Sequence[str]) -> dict[str, dict[str, tuple[float, float]]]:
    """By scene, by method: mAA and seconds, each the mean of its repeats; scenes with an mAA alone."""
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for scene in dict.fromkeys(row["scene"] for row in rows):
        runs = {m: [row for row in rows if (row["scene"], row["method"]) == (scene, m)] for m in methods}
        scores = {m: _mean(some, "mAA") for m, some in runs.items()}
        if all(runs.values()) and None not in scores.values():
            table[scene] = {m: (scores[m] or 0.0, _mean(some, "wall") or 0.0) for m, some in runs.items()}
            better = max(COLMAP, key=lambda mode: table[scene][mode])
            table[scene]["colmap-better"] = table[scene][better]
    return table


def _summary(rows: Sequence[Row], methods: Sequence[str]) -> list[list[str]]:
    """mAA by scene and method, COLMAP's better mode, and how far each preset is from it."""
    table = _scores(rows, methods)
    columns = [*methods, "colmap-better"]
    presets = [method for method in methods if method not in COLMAP]
    lines = [["scene", *columns, *(f"{preset} − better" for preset in presets)]]
    means = {m: sum(cells[m][0] for cells in table.values()) / max(1, len(table)) for m in columns}
    scored = {scene: {m: cells[m][0] for m in columns} for scene, cells in table.items()} | {"mean": means}
    for scene, score in scored.items():
        differences = (f"{score[preset] - score['colmap-better']:+.4f}" for preset in presets)
        lines.append([scene, *(f"{score[m]:.4f}" for m in columns), *differences])
    total = (f"{sum(cells[m][1] for cells in table.values()):.0f} s" for m in columns)
    return [*lines, ["total", *total, *("" for _ in presets)]]


def _verdicts(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    table = _scores(rows, methods)
    verdicts = []
    for preset in [method for method in methods if method not in COLMAP and table]:
        gains = {scene: cells[preset][0] - cells["colmap-better"][0] for scene, cells in table.items()}
        worst = min(gains, key=lambda scene: gains[scene])
        mean = sum(gains.values()) / len(gains)
        verdicts.append(f"{preset}: {mean:+.4f} on COLMAP's better modes, at worst {gains[worst]:+.4f} ({worst})")
    return verdicts


def _cells(row: Row) -> list[str]:
    def text(key: str, form: str) -> str:
        return "–" if row.get(key) is None else format(row[key], form)

    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in row.get("seconds", {}).items())
    numbers = (("registered", "d"), ("mAA", ".4f"), ("wall", ".1f"), ("memory", "d"), ("memory_children", "d"))
    return [row["scene"], row["method"], str(row["images"]), *(text(*number) for number in numbers), stages or "–"]


def _line(cells: Sequence[str]) -> str:
    return "  ".join(
        [cells[0].ljust(22), *(cell.rjust(16 if number in (1, 2) else 8) for number, cell in enumerate(cells[1:], 1))]
    )


def _header(root: Path) -> dict[str, str]:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions += ["imc-kit (not installed)"] if package == "imc-kit" else []
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "scenes": root.name,
        "versions": ", ".join(versions),
        "Python": platform.python_version(),
        "CPU": f"{(names or [platform.processor() or platform.machine()])[0]}, {os.cpu_count()} cores",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _save(
    out: Path, header: dict[str, str], rows: list[Row], methods: Sequence[str], unavailable: dict[str, str]
) -> None:
    content = {"header": header, "unavailable": unavailable, "rows": rows, "summary": _summary(rows, methods)}
    (out / "compare.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), "utf-8")
    parts = [
        "\n".join(f"- {name}: {value}" for name, value in header.items()),
        *(f"{preset} could not run: {reason}" for preset, reason in unavailable.items()),
        *_verdicts(rows, methods),
        _markdown(_summary(rows, methods)),
        _markdown([HEADER, *map(_cells, rows)]),
        *(f"{row['scene']}, {row['method']}: {row['error']}" for row in rows if "error" in row),
        REMARKS,
    ]
    (out / "compare.md").write_text("\n\n".join(parts) + "\n", "utf-8")


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(lines[0])
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["--worker"]:
            task = json.loads(sys.argv[2])
            try:
                answer = work(task)
            except KitError as error:
                answer = {"error": str(error)}
            Path(task["result"]).write_text(json.dumps(answer), "utf-8")
        else:
            main()
    except KitError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")
