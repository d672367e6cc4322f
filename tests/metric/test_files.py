"""Scores of the competition's own files: their year, their distances, and files that are not what they seem."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from imc_kit import metric
from imc_kit.data.tables import POSE_COLUMNS, format_pose
from imc_kit.errors import KitError
from imc_kit.metric.files import edition_of, find_thresholds, find_truth
from imc_kit.synthetic.plaza import orbit

POSES = [format_pose(pose) for pose in orbit(5)]


def table(*keys: dict[str, str]) -> pd.DataFrame:
    """Five images for each key, whose image column is a pattern with {}."""
    rows = [
        {name: value.format(number) for name, value in key.items()} | dict(zip(POSE_COLUMNS, pose, strict=True))
        for key in keys
        for number, pose in enumerate(POSES)
    ]
    return pd.DataFrame(rows)


def of_2023(dataset: str = "heritage", scene: str = "wall") -> dict[str, str]:
    return {"image_path": f"{dataset}/{scene}/images/{{}}.png", "dataset": dataset, "scene": scene}


def of_2024(scene: str) -> dict[str, str]:
    return {"image_path": f"test/{scene}/images/{{}}.png", "dataset": scene, "scene": scene}


LABELS_2024 = {"image_name": "{}.png", "dataset": "pond", "scene": "pond"}
OF_2025 = {"dataset": "imc2023_haiper", "scene": "fountain", "image": "fountain_{}.png"}
PLAIN = {"image_path": "IMG_{}.jpg", "dataset": "holiday", "scene": "holiday"}


@pytest.mark.parametrize(
    ("key", "year"),
    [(of_2023(), "2023"), (of_2024("pond"), "2024"), (LABELS_2024, "2024"), (OF_2025, "2025"), (PLAIN, "2024")],
)
def test_the_year_is_known_by_the_columns(tmp_path: Path, key: dict[str, str], year: str) -> None:
    assert edition_of(table(key)) == year
    table(key).to_csv(tmp_path / "truth.csv", index=False)
    (tmp_path / "train_thresholds.csv").write_text(
        "dataset,scene,thresholds\nimc2023_haiper,fountain,0.0;0.0;0.001;0.025;0.05;0.1\n"
    )
    if year != "2025":
        (tmp_path / "train_thresholds.csv").unlink()
    found = metric.score_files(tmp_path / "truth.csv", tmp_path / "truth.csv")
    assert found.edition == year
    assert found.result.mean == 1
    assert f"score of {year}" in str(found)
    assert found.to_json()["mean"] == 1


def test_where_thresholds_and_truth_are(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    truth = tmp_path / "train" / "train_labels.csv"
    table(of_2024("pond")).to_csv(truth, index=False)
    assert find_thresholds(truth) is None
    (tmp_path / "thresholds.json").write_text('{"pond": [0, 1]}')
    assert find_thresholds(truth) == tmp_path / "thresholds.json"
    (tmp_path / "train" / "train_thresholds.csv").write_text("")
    assert find_thresholds(truth) == tmp_path / "train" / "train_thresholds.csv"
    row = {"image_path": "test/pond/images/3.png"}
    assert find_truth(tmp_path, [row]) == truth
    with pytest.raises(KitError, match=r"truth\.csv"):
        find_truth(tmp_path, [{"image_path": "test/pond/images/9.png"}])


def test_default_distances_are_those_of_2024(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "truth.csv"
    table(of_2024("pond"), of_2024("transp_obj_glass_cup")).to_csv(path, index=False)
    scenes = metric.score_files(path, path).result.scenes
    assert scenes["pond"].thresholds == metric.THRESHOLDS
    assert scenes["transp_obj_glass_cup"].thresholds == metric.TRANSPARENT_THRESHOLDS
    assert caplog.text == ""
    table(of_2024("pond"), of_2024("attic")).to_csv(path, index=False)
    metric.score_files(path, path)
    assert "no distances are given for attic: 2024's are used, which are in metres" in caplog.text


def test_some_scenes_and_scenes_without_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table(of_2024("pond"), of_2024("church")).to_csv(tmp_path / "truth.csv", index=False)
    table(of_2024("pond")).to_csv(tmp_path / "answer.csv", index=False)
    (tmp_path / "thresholds.json").write_text('{"pond": [0, 1], "church": [1], "lizard": [2]}')
    files = tmp_path / "truth.csv", tmp_path / "answer.csv"
    assert metric.score_files(*files).result.mean == pytest.approx(0.25)  # nothing is closer than 0
    assert "the submission has no row of church/church" in caplog.text
    caplog.clear()
    only = metric.score_files(*files, scenes=["pond"])
    assert only.result.mean == pytest.approx(0.5)
    assert caplog.text == ""
    with pytest.raises(KitError, match="unknown scene 'pnod': did you mean 'pond'"):
        metric.score_files(*files, scenes=["pnod"])


def test_swapped_files_are_refused(tmp_path: Path) -> None:
    """A submission is known by its name, by 2025's image_id, and by clusters with numbers."""
    truth, answer = tmp_path / "truth.csv", tmp_path / "answer.csv"
    table(OF_2025).to_csv(truth, index=False)
    for submitted in (table(OF_2025).assign(image_id="x"), table(OF_2025 | {"scene": "cluster2"})):
        submitted.to_csv(answer, index=False)
        with pytest.raises(KitError, match=r"answer\.csv looks like a submission .* give the truth first"):
            metric.score_files(answer, truth)
    table(of_2024("pond")).to_csv(truth, index=False)
    table(of_2024("pond")).to_csv(tmp_path / "my_submission.csv", index=False)
    with pytest.raises(KitError, match="give the truth first"):
        metric.score_files(tmp_path / "my_submission.csv", truth)
    assert metric.score_files(truth, tmp_path / "my_submission.csv").result.mean == 1
