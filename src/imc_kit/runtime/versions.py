"""What results depend on besides options: the content of files, and the code of classes."""

import dis
import hashlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any


def of_file(path: Path) -> Any:
    """A hash of a file's content, or those of the files in a folder by name; the path if there is nothing to read."""
    with suppress(OSError):
        if path.is_dir():
            return {entry.name: of_file(entry) for entry in path.iterdir() if entry.is_file()}
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns, status.st_ino)
    return str(path)


@cache  # read once per process unless the file changes
def _digest(path: Path, *_signature: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_module(name: str) -> list[Any]:
    """Hashes of the source of an imported module, and of all modules beside it in its package.

    None for a notebook or script (`of_code` takes their code), and for compiled modules.
    """
    module: Any = sys.modules.get(name)
    path = Path(getattr(module, "__file__", None) or "")
    if name == "__main__" or path.suffix != ".py":
        return []
    return [of_file(source) for source in (sorted(path.parent.glob("*.py")) if module.__package__ else [path])]


def of_code(thing: Any) -> str:
    """A hash of the code of a class or function: the source of its package, or in a notebook or script, its bytecode
    and that of the classes and functions that it uses."""
    return hashlib.sha256("\n".join(_parts(thing, set())).encode()).hexdigest()


def _parts(value: Any, seen: set[Any]) -> Iterator[str]:
    """The code and constants of a value and of what it uses, as text that is the same in every process."""
    value = inspect.unwrap(getattr(value, "fget", None) or getattr(value, "__func__", value))
    if inspect.ismodule(value):
        yield str(of_module(value.__name__))
    elif isinstance(value, CodeType):
        yield value.co_code.hex()
        for constant in (*value.co_names, *value.co_consts):
            yield from _parts(constant, seen)
    elif isinstance(value, type) or inspect.isfunction(value):
        if value.__module__ != "__main__":
            yield str(of_module(value.__module__))
        elif value not in seen:
            seen.add(value)
            for name, used in _used(value):
                yield name
                yield from _parts(used, seen)
    elif isinstance(value, set | frozenset):
        yield str(sorted(map(repr, value)))
    elif " at 0x" not in (text := repr(value)):
        yield text


def _used(value: Any) -> Iterator[tuple[str, Any]]:
    """The members and bases of a class, or the code of a function and the global values that it reads, by name."""
    if isinstance(value, type):
        yield from ((base.__name__, base) for base in value.__bases__)
        members = vars(value)
        yield from ((name, members[name]) for name in sorted(members) if name == "__init__" or name[:2] != "__")
    else:
        yield "", value.__code__
        yield from (
            (name, value.__globals__[name]) for name in sorted(_read(value.__code__) & value.__globals__.keys())
        )


def _read(code: CodeType) -> set[str]:
    """The names of the global values that code reads."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*map(_read, inner))
