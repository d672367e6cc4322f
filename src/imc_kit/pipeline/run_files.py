"""Read what a run left in its folder, finished or not."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from imc_kit.data.scenes import SPLITS, Task, load
from imc_kit.data.tables import read_table
from imc_kit.errors import KitError
from imc_kit.pipeline.out_folder import scene_folder
from imc_kit.pipeline.results import read_content

_HINT = "give the folder of a run (--out of imc-kit solve)"
_KINDS = ("input", str), ("layout", str), ("scenes", dict)


def read_run_json(run: Path) -> dict[str, Any]:
    """The content of a run's run.json. Raises `KitError` if there is none, or if it is not a run's."""
    path = run / "run.json"
    try:
        content = json.loads(path.read_text("utf-8") if path.is_file() else "")
    except (OSError, ValueError, RecursionError) as error:
        raise KitError(f"cannot read {path} ({error}): {_HINT}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in _KINDS):
        raise KitError(f"{path} was not written by imc-kit solve: {_HINT}")
    return content


def input_task(root: str, known: Sequence[str], out: Path) -> Task | None:
    """Load the input from disk, in the split with the most known or requested scenes; None if it is gone."""
    best, most = None, 0
    for split in SPLITS:
        with suppress(KitError, OSError, ValueError):
            task = load(root, split, out=out)
            common = len({scene.name for scene in task.scenes}.intersection([*known, *requested(task, out)]))
            best, most = (task, common) if common > most else (best, most)
    return best


def requested(task: Task, out: Path) -> list[str]:
    """The scenes that have rows in the submission, in the task's order; none if it cannot be read."""
    columns, present = list(task.keys[0]), set()
    with suppress(KitError):
        present = set(read_table(out / "submission.csv", columns)[columns].itertuples(index=False, name=None))
    found = {row.scene for key, row in zip(task.keys, task.rows, strict=True) if tuple(key.values()) in present}
    return [scene.name for scene in task.scenes if scene.name in found]


def scene_result(run: Path, name: str, account: Mapping[str, Any]) -> tuple[Path, Mapping[str, Any]]:
    """The folder of the result that run.json describes, and that result; empty if there is none.

    A run with a time limit has two results, and the full one may be from an earlier run.
    """
    for part in ("scenes", "quick"):
        folder = scene_folder(run / part, name)
        with suppress(Exception):  # whatever is wrong with it, the page can tell of the others
            result = read_content(folder / "result.json")
            if all(result.get(key) == account[key] for key in ("counts", "seconds")):
                return folder, result
    return scene_folder(run / "scenes", name), {}
