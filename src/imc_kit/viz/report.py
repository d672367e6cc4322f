"""The report of a run: one HTML file that needs no network, no server and no other file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imc_kit.data import atomic
from imc_kit.errors import KitError, said
from imc_kit.runtime.progress import duration
from imc_kit.viz.advice import Advice
from imc_kit.viz.page import cell, e, facts, number_cell, page, plot, table
from imc_kit.viz.report_scene import advice_html, name_html, remedy_html, scene_part
from imc_kit.viz.run_folder import RunFolder, measure, read_run
from imc_kit.viz.scores import draw_accuracy, draw_memory, draw_seconds

AnyPath = Path | str
_DISTANCES = "The share of cameras within each distance of the truth."
_MEAN = f"{_DISTANCES} The mAA is the mean over the distances."
_ACCURACY = {
    "2023": f"{_DISTANCES} The mAA next to a name is their mean, as in 2024. The mAA in the table is the one of 2023, "
    "which compares relative poses of image pairs.",
    "2024": _MEAN,
    "2025": f"{_DISTANCES} Each line is a true scene and its assigned model. The mAA next to it is the one of 2024; "
    "the score in the table is the one of 2025: the harmonic mean of a dataset's mAA and clustering score.",
    "folder": _MEAN,
}
"""The caption of the accuracy figure, by layout."""


def write_report(
    run: AnyPath, path: AnyPath | None = None, *, truth: AnyPath | None = None, thresholds: AnyPath | None = None
) -> Path:
    """Write the report of a run as one HTML file; returns its path.

    run: the folder that `solve` wrote: run.json, submission.csv, and scenes/NAME (quick/NAME too, if the run was
        interrupted) with result.json, models and database.
    path: the file to write; by default report.html in that folder.
    truth: a CSV file with the true poses, as for `imc-kit score`. The report then shows the score of the layout's year
        and the true cameras. The mean is over all requested scenes, solved or not.
    thresholds: a JSON file with the metric's distances, as for `imc-kit score`.

    The report names what it cannot show: scenes that an interrupted run did not reach, a deleted or damaged database,
    photos that were moved. Raises `KitError` when the folder is not that of a run, and when the truth or the thresholds
    cannot be read.
    """
    run = Path(run)
    path = run / "report.html" if path is None else Path(path)
    try:
        text = _page(read_run(run, truth, thresholds))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise KitError(f"no report on {run}: its run.json is damaged ({said(error)})") from error
    with atomic.writing(path) as file:
        file.write(text)
    return path


def _page(run: RunFolder) -> str:
    content, input_name = run.content, Path(run.content["input"]).name
    config = content.get("config", {})
    made = " and ".join(config[part]["name"] for part in ("detector", "matcher") if "name" in config.get(part, {}))
    version, cores = content.get("versions", {}).get("imc-kit", ""), content.get("machine", {}).get("cores")
    details = json.dumps({key: content.get(key) for key in ("config", "versions", "machine")}, indent=1)
    body = [
        f"<h1>Report on {e(input_name)}</h1>",
        f'<p class="soft">{e(content["input"])}, layout {e(run.layout)}; {e(made)}; imc-kit {e(version)} on '
        f"{e(str(cores))} cores</p>",
        facts(_facts(run)),
        advice_html([Advice(note, "") for note in run.notes]),
        "<h2>Scenes</h2>",
        _scene_table(run),
        *(f"<h2>{e(title)}</h2>{plot(figure, title, '', said)}" for title, figure, said in _charts(run)),
        "<h2>Scene by scene</h2>",
        *(scene_part(number, scene) for number, scene in enumerate(run.scenes, 1)),
        f"<details><summary><h2>Options, versions and machine</h2></summary><pre>{e(details)}</pre></details>",
    ]
    return page(f"{input_name}: imc-kit report", "".join(body))


def _charts(run: RunFolder) -> list[tuple[str, Any, str]]:
    """The figures that cover all scenes: title, figure, caption."""
    scores = {
        scene.name if len(scene.scored.models) == 1 else f"{scene.name}, model {number + 1}": score
        for scene in run.scenes
        for number, score in sorted(scene.scored.models.items())
    }
    memory = {scene.name: scene.memory for scene in run.scenes if scene.memory}
    seconds = {scene.name: scene.seconds for scene in run.scenes}
    charts = [("Accuracy", draw_accuracy(scores), _ACCURACY[run.layout])] if scores and run.mean is not None else []
    charts.append(("Time by stage", draw_seconds(seconds), ""))
    return [*charts, ("Memory by stage", draw_memory(memory), "")] if memory else charts


def _facts(run: RunFolder) -> dict[str, str]:
    images, registered = (sum(scene.counts[key] for scene in run.scenes) for key in ("images", "registered"))
    requested = len(run.requested)
    where = " in the solved scenes" if requested > len(run.scenes) else ""
    return {
        "scenes solved": f"{len(run.scenes)} of {requested}",
        "images registered": f"{registered} of {images}{where}",
        **({f"mean {measure(run.layout)}": f"{run.mean:.3f}"} if run.mean is not None else {}),
        "time of all scenes": duration(sum(sum(scene.seconds.values()) for scene in run.scenes)),
    }


def _scene_table(run: RunFolder) -> str:
    scored = run.mean is not None
    score = [f"#{measure(run.layout)}"] if scored else []
    head = ["Scene", "#Images", "#Registered", "#Models", "#Points", *score, "#Seconds", "Warnings"]

    def accuracy(name: str) -> list[str]:
        value = run.scores[name].accuracy if name in run.scores else None
        return [number_cell(value, form="{:.3f}")] if scored else []

    rows = []
    for number, scene in enumerate(run.scenes, 1):
        counts, advice = scene.counts, scene.advice
        kind, sign = ("good", "✓") if counts["registered"] == counts["images"] else ("bad", "!")
        said = f"{counts['registered']} <span class={kind}>{sign}</span>"
        link = cell(f'<a class="name" href="#scene-{number}">{e(scene.name)}</a>', scene.name)
        numbers = [number_cell(counts["images"]), number_cell(counts["registered"], said)]
        numbers += [*(number_cell(counts[key]) for key in ("models", "points")), *accuracy(scene.name)]
        numbers.append(number_cell(sum(scene.seconds.values()), form="{:,.1f}"))
        rows.append([link, *numbers, cell(_short_advice(advice), str(len(advice)), "long" if advice else "")])
    unsolved = {name: f'<span class="bad">not solved:</span> {e(reason)}' for name, reason in run.failed.items()}
    unsolved |= dict.fromkeys(run.waiting, '<span class="bad">not solved yet</span>')
    unknown = number_cell(None)
    for name, said in unsolved.items():
        rows.append([cell(name_html(name), name), *[unknown] * 4, *accuracy(name), unknown, cell(said, "99", "long")])
    return f'<div class="wide">{table("Scenes of the run", head, rows)}</div>'


def _short_advice(advice: Sequence[Advice]) -> str:
    """Advice in a table cell: what happened; a click shows the cause and the option."""
    if not advice:
        return '<span class="good">none</span>'
    return "".join(f"<details><summary>{e(one.what)}</summary>{remedy_html(one)}</details>" for one in advice)
