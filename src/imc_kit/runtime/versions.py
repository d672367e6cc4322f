"""What results depend on besides options: the content of files, and the code of classes."""

import dis
import hashlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from types import CodeType
from typing import Any

KIT = [found.version for found in metadata.distributions(name="imc-kit")]
"""The kit's version, if it is installed."""


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


def of_code(value: Any) -> str:
    """A hash of the code of a class or function: the source of its package, or in a notebook or script, its bytecode
    and that of all that it uses."""
    return hashlib.sha256("\n".join(_parts(value, set())).encode()).hexdigest()


def _parts(value: Any, seen: set[Any]) -> Iterator[str]:
    """The code and constants of a value and of what it uses, as text that is the same in every process."""
    value = inspect.unwrap(getattr(value, "fget", None) or getattr(value, "__func__", value))
    used: list[Any] = []
    if isinstance(value, CodeType):
        used = [value.co_code.hex(), *value.co_names, *value.co_consts]
    elif inspect.ismodule(value) or isinstance(value, type) or inspect.isfunction(value):
        module = getattr(value, "__module__", None) or value.__name__
        if module != "__main__":
            yield str(of_module(module))
        elif value not in seen:
            seen.add(value)
            names = getattr(value, "__globals__", None) or vars(value)
            code, bases = getattr(value, "__code__", None), getattr(value, "__bases__", ())
            read = _read(code) if code else {name for name in names if name[:2] != "__" or callable(names[name])}
            used = [code, *bases]
            used += [part for name in sorted(read & names.keys()) for part in (name, names[name])]
    elif " at 0x" not in (text := repr(sorted(map(repr, value)) if isinstance(value, set | frozenset) else value)):
        yield text
    for one in used:
        yield from _parts(one, seen)


def _read(code: CodeType) -> set[str]:
    """The names of the global values that code reads."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(_read(inner) for inner in code.co_consts if isinstance(inner, CodeType)))
