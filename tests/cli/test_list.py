"""`imc-kit list`: the names that `imc-kit compare` takes, and that each of them works."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from imc_kit.cli.main import main
from imc_kit.config import PRESETS, feature_pipeline, pipeline_names
from imc_kit.detectors import DETECTORS
from imc_kit.errors import KitError
from imc_kit.matchers import MATCHERS
from imc_kit.runtime import weights


@pytest.mark.slow
def test_every_pair_can_be_created_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are created with any weights, whatever the files are."""
    import torch

    names = pipeline_names()
    monkeypatch.setattr(weights, "find", lambda name, explicit=None: Path(name))
    for name, module in list(sys.modules.items()):
        if name.startswith(("imc_kit.detectors", "imc_kit.matchers")):
            for function, stub in (("read_state", lambda path: {}), ("fill", lambda network, *_: network.eval())):
                if hasattr(module, function):
                    monkeypatch.setattr(module, function, stub)
    for fill in ("uniform_", "normal_"):  # the values do not matter
        monkeypatch.setattr(torch.Tensor, fill, lambda tensor, *_, **__: tensor)
    for one in (*DETECTORS.values(), *MATCHERS.values()):
        monkeypatch.setattr(one, "create", cache(one.create))
    for detector in DETECTORS:
        for matcher in MATCHERS:
            if matcher == "roma" and find_spec("romatch") is None:  # it is no requirement of the kit
                continue
            pipeline = feature_pipeline(f"{detector}+{matcher}")
            if f"{detector}+{matcher}" in names:
                pipeline.check()
            else:
                with pytest.raises(KitError, match="cannot match"):
                    pipeline.check()
    assert {"orb+nearest", "sift+adalam", "xfeat+lightglue", "none+loftr"} <= set(names)


def test_the_list_says_what_each_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights, "places", lambda: [tmp_path])
    for name in ("aliked-n16.pth", "aliked_lightglue.pth"):
        (tmp_path / name).touch()
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:-1]
    told: dict[str, Any] = {name: said.strip() for name, _, said in (line.partition(" ") for line in lines)}
    assert list(told) == [*PRESETS, *pipeline_names()]
    assert (told["sift"], told["orb+nearest"], told["aliked"]) == ("none needed", "none needed", "here")
    assert told["aliked+lightglue"] == "here"
    assert told["baseline"] == "missing: imc-kit weights get dinov2_vits14_pretrain.pth"
    assert told["none+loftr"] == "missing: imc-kit weights get loftr_outdoor.ckpt"


def test_the_help_of_compare_names_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "`imc-kit list`" in capsys.readouterr().out
