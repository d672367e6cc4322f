"""A registry of configuration classes, of a package on disk and of an installed package's entry points."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from imc_kit.errors import KitError
from imc_kit.runtime.registry import Registry


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Of a package `zoo` with one module, beside which a distribution names two entry points, one of them broken."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo/__init__.py").write_text(
        "from imc_kit.runtime.registry import Registry\nANIMALS = Registry('animal', 'zoo')\n"
    )
    (tmp_path / "zoo/cat.py").write_text("from zoo import ANIMALS\n@ANIMALS.register\nclass Cat:\n    name = 'cat'\n")
    (tmp_path / "outside.py").write_text("from zoo import ANIMALS\n@ANIMALS.register\nclass Dog:\n    name = 'dog'\n")
    (tmp_path / "outside-1.0.dist-info").mkdir()
    (tmp_path / "outside-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (tmp_path / "outside-1.0.dist-info/entry_points.txt").write_text("[zoo]\ndog = outside\nyeti = not_there:Yeti\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("zoo", "zoo.cat", "outside"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    from zoo import ANIMALS  # type: ignore[import-not-found]

    assert isinstance(ANIMALS, Registry)
    return ANIMALS


def test_modules_and_entry_points_are_found(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    assert sorted(registry) == ["cat", "dog"]
    assert len(registry) == 2
    assert "dog" in registry
    assert registry["dog"].__module__ == "outside"
    assert "cannot load the animal 'yeti' of not_there:Yeti" in caplog.text


def test_an_unknown_name_is_refused_with_the_nearest(registry: Registry) -> None:
    with pytest.raises(KitError, match="unknown animal 'cta': did you mean 'cat'"):
        registry["cta"]


def test_a_class_may_be_defined_again_but_a_name_has_one_owner(registry: Registry) -> None:
    def define(module: str) -> type:
        return type("Mouse", (), {"name": "mouse", "__module__": module})

    registry.register(define("notebook"))
    again = registry.register(define("notebook"))
    assert registry["mouse"] is again
    with pytest.raises(KitError, match=r"'mouse' is registered twice, by notebook\.Mouse and another\.Mouse"):
        registry.register(define("another"))
