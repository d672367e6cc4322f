"""What COLMAP is doing, from logs as it writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from imc_kit.colmap.watching import state


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "starting"),
        ("global_mapper.cc:553] === Running rotation averaging ===\n", "rotation averaging"),
        ("=== Running rotation averaging ===\n=== Running global positioning ===\n", "global positioning"),
        ("incremental_pipeline.cc:405] Registering image #12 (num_reg_frames=5)\n", "6 images registered"),
        ("=" * 50_000 + "=== Bundle adjustment ===", "bundle adjustment"),
    ],
)
def test_the_last_step_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "colmap.log").write_text(text)
    assert state(tmp_path / "colmap.log") == said


def test_no_log_is_a_start(tmp_path: Path) -> None:
    assert state(tmp_path / "none.log") == "starting"
