"""What COLMAP is doing, from logs as it writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from imc_kit.colmap.watching import Log
from imc_kit.runtime.progress import Work

LOADED = "database_cache.cc:268]  19 in 0.020s (connected 19, loaded 19)\n"
REGISTERING = "incremental_pipeline.cc:620] Registering image #12 (num_reg_frames=5)\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "starting,"),
        ("global_mapper.cc:553] === Running rotation averaging ===\n", "rotation averaging,"),
        ("=== Running rotation averaging ===\n=== Running global positioning ===\n", "global positioning,"),
        (REGISTERING, "5 images registered,"),
        (LOADED + "x" * 100_000 + REGISTERING, "5 of 19 images"),
        ("=" * 50_000 + "=== Bundle adjustment ===", "bundle adjustment,"),
        ("\udcff=== Bundle adjustment ===", "bundle adjustment,"),
    ],
)
@pytest.mark.parametrize("before", ["", LOADED + REGISTERING + "=== Global bundle adjustment ===\n"])
def test_the_last_step_of_this_job_is_said(tmp_path: Path, before: str, text: str, said: str) -> None:
    path = tmp_path / "colmap.log"
    if before:
        path.write_text(before)
    log, work = Log(path), Work("mapping")
    with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    log.look(work)
    assert str(work).startswith(f"mapping: {said} after 0 s")


def test_without_a_log_nothing_is_said(tmp_path: Path) -> None:
    work = Work("mapping")
    Log(tmp_path / "none.log").look(work)
    assert str(work) == "mapping after 0 s"
