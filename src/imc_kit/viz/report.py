"""The report of a run: one HTML file that needs no network, no server and no other file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from imc_kit.data import atomic
from imc_kit.viz.advice import Advice
from imc_kit.viz.page import cell, e, number_cell, page, plot, table
from imc_kit.viz.report_scene import advice_html, name_html, remedy_html, scene_part
from imc_kit.viz.run_folder import RunFolder, measure, read_run
from imc_kit.viz.scores import draw_accuracy, draw_memory, draw_seconds

_DISTANCES = "The share of cameras within each distance of the truth."
_MEAN = f"{_DISTANCES} The mAA is the mean over the thresholds."
_ACCURACY = {
    "2023": f"{_DISTANCES} The mAA beside a name is their mean, as in 2024; that of 2023, in the table, is of relative "
    "poses of pairs of images.",
    "2024": _MEAN,
    "2025": f"{_DISTANCES} Each line is a true scene, with the model that it was given. The mAA beside it is as in "
    "2024; the score of 2025, in the table, is the harmonic mean of a dataset's mAA and clustering.",
    "folder": _MEAN,
}
"""Said of the figure, by the layout."""


def write_report(
    run: Path | str,
    path: Path | str | None = None,
    *,
    truth: Path | str | None = None,
    thresholds: Path | str | None = None,
) -> Path:
    """Write the report of a run as one HTML file; returns where.

    run: the folder that `solve` wrote: run.json, submission.csv and scenes/NAME (of a run that was interrupted also
        quick/NAME) with result.json, models, database.
    path: the file to write; report.html in that folder when left out.
    truth: a CSV file with the true poses, as for `imc-kit score`; the score of the layout's year and the true cameras
        are then shown. The mean is over the scenes that were asked for, whether they were solved or not.
    thresholds: a JSON file with the metric's distances, as for `imc-kit score`.

    What is missing (scenes that an interrupted run has not come to, a database that was deleted or is damaged,
    photographs that were moved) is left out, and said. Raises `KitError` when no scene was solved or failed, or when
    the truth or the thresholds cannot be read.
    """
    run = Path(run)
    path = run / "report.html" if path is None else Path(path)
    text = _page(read_run(run, truth, thresholds))
    with atomic.writing(path) as file:
        file.write(text)
    return path


def _page(run: RunFolder) -> str:
    content, mean = run.content, run.mean
    charts = [("Time by stage", draw_seconds({scene.name: scene.seconds for scene in run.scenes}), "")]
    known = {
        scene.name if len(scene.aligned) == 1 else f"{scene.name}, model {number + 1}": score
        for scene in run.scenes
        for number, score in sorted(scene.aligned.items())
    }
    if known and mean is not None:
        charts.insert(0, ("Accuracy", draw_accuracy(known), _ACCURACY[run.layout]))
    memory = {scene.name: scene.memory for scene in run.scenes if scene.memory}
    if memory:
        charts.append(("Memory by stage", draw_memory(memory), ""))
    config, name = content.get("config", {}), Path(content["input"]).name
    details = json.dumps({key: content.get(key) for key in ("config", "versions", "machine")}, indent=1)
    made = " and ".join(config[part]["name"] for part in ("detector", "matcher") if "name" in config.get(part, {}))
    version, cores = content.get("versions", {}).get("imc-kit", ""), content.get("machine", {}).get("cores")
    body = "".join(
        [
            f"<h1>What happened in {e(name)}</h1>",
            f'<p class="soft">{e(content["input"])}, layout {e(run.layout)}; {e(made)}; imc-kit {e(version)} on '
            f"{e(str(cores))} cores</p>",
            '<dl class="facts">',
            *(f"<div><dt>{e(term)}</dt><dd>{e(value)}</dd></div>" for term, value in _facts(run, mean).items()),
            "</dl>",
            advice_html([Advice(note, "", "") for note in run.notes]),
            "<h2>Scenes</h2>",
            _scene_table(run),
            *(f"<h2>{e(title)}</h2>{plot(figure, title, '', said)}" for title, figure, said in charts),
            "<h2>Scene by scene</h2>",
            *(scene_part(number, scene) for number, scene in enumerate(run.scenes, 1)),
            "<h2>How it was made</h2><details><summary>Configuration and versions</summary>"
            f"<pre>{e(details)}</pre></details>",
        ]
    )
    return page(f"{name}: imc-kit report", body)


def _facts(run: RunFolder, mean: float | None) -> dict[str, str]:
    count = sum(scene.counts["images"] for scene in run.scenes)
    registered = sum(scene.counts["registered"] for scene in run.scenes)
    where = " in the scenes solved" if run.count > len(run.scenes) else ""
    return {
        "scenes solved": f"{len(run.scenes)} of {run.count}",
        "images registered": f"{registered} of {count}{where}",
        **({f"mean {measure(run.layout)}": f"{mean:.3f}"} if mean is not None else {}),
        "time of all scenes": _duration(sum(sum(scene.seconds.values()) for scene in run.scenes)),
    }


def _scene_table(run: RunFolder) -> str:
    accuracies = {name: scored.accuracy for name, scored in run.scores.items()}
    with_accuracy = run.mean is not None
    score = [f"#{measure(run.layout)}"] if with_accuracy else []
    head = ["Scene", "#Images", "#Registered", "#Models", "#Points", *score, "#Seconds", "Warnings"]

    def accuracy(name: str) -> list[str]:
        return [number_cell(accuracies.get(name), form="{:.3f}")] if with_accuracy else []

    rows = []
    for number, scene in enumerate(run.scenes, 1):
        counts, advice = scene.counts, scene.advice
        complete = counts["registered"] == counts["images"]
        said = f"{counts['registered']} <span class={'good' if complete else 'bad'}>{'✓' if complete else '!'}</span>"
        rows.append(
            [
                cell(f'<a class="name" href="#scene-{number}">{e(scene.name)}</a>', scene.name),
                number_cell(counts["images"]),
                number_cell(counts["registered"], said),
                number_cell(counts["models"]),
                number_cell(counts["points"]),
                *accuracy(scene.name),
                number_cell(sum(scene.seconds.values()), form="{:,.1f}"),
                cell(_short_advice(advice), str(len(advice)), "long" if advice else ""),
            ]
        )
    unsolved = {name: f'<span class="bad">not solved:</span> {e(reason)}' for name, reason in run.failed.items()}
    unsolved |= dict.fromkeys(run.waiting, '<span class="bad">not solved yet</span>')
    for name, said in unsolved.items():
        unknown = [number_cell(None)] * 4
        rows.append(
            [cell(name_html(name), name), *unknown, *accuracy(name), number_cell(None), cell(said, "99", "long")]
        )
    return f'<div class="wide">{table("Scenes of the run", head, rows)}</div>'


def _short_advice(advice: Sequence[Advice]) -> str:
    """For a cell of a table: what happened, and folded away the cause and the option."""
    if not advice:
        return '<span class="good">none</span>'
    return "".join(f"<details><summary>{e(one.what)}</summary>{remedy_html(one)}</details>" for one in advice)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
