"""Options of COLMAP's jobs: any of pycolmap's by its dotted name, without a list here, and the known cameras."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from imc_kit.errors import KitError, unknown_name

Value = bool | int | float | str
T = TypeVar("T")


@dataclass(frozen=True)
class Known:
    """The ids of the cameras whose intrinsics the user gave, and whether these must stay."""

    ids: tuple[int, ...] = ()
    fixed: bool = False

    @property
    def constant(self) -> tuple[int, ...]:
        """The ids of the cameras that bundle adjustment must not change."""
        return self.ids if self.fixed else ()


NOTHING_KNOWN = Known()


def with_options(target: T, overrides: Mapping[str, Value], where: str) -> T:
    """Set options of a pycolmap options object, for example `{"mapper.init_min_tri_angle": 8}`, and return it.

    Values may be strings, as from a command line: each is converted to the type of the value that it replaces.
    where: the part of the configuration, for messages.

    Raises `KitError` for an unknown name, suggesting the nearest one, and for a value of the wrong type.
    """
    known = dict(_leaves(target.todict()))  # type: ignore[attr-defined]
    for name, value in overrides.items():
        if name not in known:
            raise unknown_name(f"{where} option", name, known)
        *parents, leaf = name.split(".")
        holder: Any = target
        for parent in parents:
            holder = getattr(holder, parent)
        setattr(holder, leaf, _converted(value, known[name], f"{where} option {name!r}"))
    return target


def mapper_options(mapper: str, overrides: Mapping[str, Value], **fixed: Any) -> Any:
    """pycolmap's pipeline options of the `incremental` or `global` mapper. fixed: fields that are set first."""
    import pycolmap

    kind = pycolmap.IncrementalPipelineOptions if mapper == "incremental" else pycolmap.GlobalPipelineOptions
    return with_options(kind(**fixed), overrides, f"{mapper} mapping")


def _leaves(options: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found


def _converted(value: Value, current: Any, what: str) -> Any:
    kind = type(current)
    choices = getattr(kind, "__members__", None)  # of a pybind11 enumeration
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        if kind in (int, float):
            return kind(value)
        if choices is not None:
            return choices[str(value)]
        if isinstance(current, str | Path):
            return str(value)
        raise TypeError  # lists and sets
    except (KeyError, TypeError, ValueError):
        wanted = f"of type {kind.__name__}" if choices is None else f"one of {', '.join(choices)}"
        raise KitError(f"{what} must be {wanted}, not {value!r}") from None
