"""Every option of pycolmap by its own dotted name, without listing any of them here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from imc_kit.errors import KitError, unknown_name

Value = bool | int | float | str
T = TypeVar("T")


def with_options(target: T, overrides: Mapping[str, Value], where: str) -> T:
    """`target`, a pycolmap options object, after the overrides, for example `{"mapper.init_min_tri_angle": 8}`.

    Values may be strings, as they come from a command line; each takes the type of the value that it replaces.
    Raises KitError for a name that `target` does not have, with the nearest one, and for a value of the wrong type;
    `where` says in the message which part of the configuration is meant.
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
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        if kind in (int, float):
            return kind(value)
        if hasattr(kind, "__members__"):  # a pybind11 enumeration
            return kind.__members__[str(value)]
        if isinstance(current, str | Path):
            return str(value)
        raise TypeError  # lists and sets
    except (KeyError, TypeError, ValueError):
        choices = (
            f"one of {', '.join(kind.__members__)}" if hasattr(kind, "__members__") else f"of type {kind.__name__}"
        )
        raise KitError(f"{what} must be {choices}, not {value!r}") from None
