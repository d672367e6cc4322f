"""Tables and thresholds that are incomplete, out of order or hostile."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imc_kit import metric
from imc_kit.data.submission import NO_POSE
from imc_kit.errors import KitError
from posed_tables import table


def test_missing_is_nan_and_order_is_nothing(random: np.random.Generator, tmp_path: Path):
    truth = random.normal(size=(10, 3))
    true = table(truth, random)
    submission = table(truth + 0.1 * random.normal(size=truth.shape), random)
    nan, lacking = submission.copy(), submission.drop(index=[2, 7])
    nan.loc[[2, 7], ["rotation_matrix", "translation_vector"]] = NO_POSE
    shuffled = lacking.sample(frac=1, random_state=3)
    shuffled.to_csv(tmp_path / "shuffled.csv", index=False)
    scores = [metric.score(true, other) for other in (nan, lacking, shuffled, tmp_path / "shuffled.csv")]
    assert len({score.mean for score in scores}) == 1
    assert {score.scenes["a"].registered for score in scores} == {8}
    assert 0 < scores[0].mean < metric.score(true, submission).mean


def test_unknown_rows_are_ignored(random: np.random.Generator, caplog: pytest.LogCaptureFixture):
    true = table(random.normal(size=(6, 3)), random)
    extra = table(random.normal(size=(3, 3)), random, "b", "b")
    assert metric.score(true, pd.concat([true, extra])).mean == 1
    assert caplog.record_tuples == [
        (
            "imc_kit.metric.tables",
            logging.WARNING,
            "3 rows of the submission are not in the truth, such as b, b, test/b/images/0.png",
        )
    ]


def test_nothing_submitted(random: np.random.Generator):
    true = table(random.normal(size=(6, 3)), random)
    assert metric.score(true, true.iloc[:0]).mean == 0


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.drop(columns="scene"), "lacks the column scene"),
        (lambda t: pd.concat([t, t.iloc[[1]]]), r"row 6, a, a, test/a/images/1\.png, a second time"),
        (lambda t: t.replace(t.iloc[2, 3], "1;2;3"), r"row 3 \(a, a, test/a/images/2\.png\): a rotation is 9 numbers"),
        (lambda t: t.replace(t.iloc[2, 4], "1;2;3;4"), r"row 3 .*a translation is 3 numbers"),
        (lambda t: t.replace(t.iloc[2, 4], "1;2;x"), r"row 3 .*not '1;2;x'"),
        (lambda t: t.replace(t.iloc[4, 3], ""), "row 5 .*a rotation is 9 numbers"),
    ],
)
def test_hostile_tables(random: np.random.Generator, tmp_path: Path, as_file: bool, spoil, message: str):
    good = table(random.normal(size=(5, 3)), random)
    bad = spoil(good)
    if as_file:
        bad.to_csv(tmp_path / "bad.csv", index=False)
        bad, message = tmp_path / "bad.csv", f"bad.csv.*{message}"
    for score in (metric.score, metric.score_2023):
        with pytest.raises(KitError, match=message):
            score(good, bad)
        with pytest.raises(KitError, match=message):
            score(bad, good)


def test_hostile_truth(random: np.random.Generator, tmp_path: Path):
    good = table(random.normal(size=(5, 3)), random)
    with pytest.raises(KitError, match="the truth has no rows"):
        metric.score(good.iloc[:0], good)
    nan = good.copy()
    nan.loc[3, ["rotation_matrix", "translation_vector"]] = NO_POSE
    with pytest.raises(KitError, match=r"the truth has no finite pose for a, a, test/a/images/3\.png"):
        metric.score(nan, good)
    with pytest.raises(KitError, match="no file"):
        metric.score(tmp_path / "none.csv", good)


@pytest.mark.parametrize(("content", "message"), [(None, "no file"), ("{", "cannot read"), ("[1]", "an object")])
def test_thresholds_that_are_none(tmp_path: Path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(KitError, match=message) as error:
        metric.read_thresholds(tmp_path / "t.json")
    assert "t.json" in str(error.value)
