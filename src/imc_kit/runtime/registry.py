"""Detectors, matchers and global descriptors by name: the kit's own, other packages', and those in notebook cells."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module, metadata
from pkgutil import iter_modules
from threading import RLock
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from imc_kit.errors import KitError, require, unknown_name
from imc_kit.runtime import versions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamedConfig:
    """A configuration class that is chosen by name. Raises `KitError` for an invalid value."""

    role: ClassVar[str]
    """Its role in messages, for example "detector"."""
    name: ClassVar[str]
    """Its name in the registry and on the command line."""
    sources: ClassVar[tuple[Any, ...]] = ()
    """`versions.of_module` of the class and of its base classes, when they were defined: an edit shows at once, and
    again when the edited module is imported."""

    def __init_subclass__(cls) -> None:
        cls.sources = (*cls.sources, versions.of_module(cls.__module__))

    def __post_init__(self) -> None:
        """Check the options that are one of several words."""
        for option in fields(self):
            if get_origin(option.type) is Literal:
                words = get_args(option.type)
                self._require(getattr(self, option.name) in words, option.name, f"one of {', '.join(words)}")

    def _require(self, valid: bool, option: str, wanted: str) -> None:
        """Raise `KitError`, with the option, its valid values and its value, unless `valid`."""
        require(valid, f"{option} of {self.role} {self.name!r}", wanted, getattr(self, option))


Config = TypeVar("Config", bound=type[NamedConfig])


class Registry(Mapping[str, Config]):
    """Configuration classes by `name`, in alphabetical order. The first look-up imports the modules that register them.

    These are all modules of the kit's package, and the modules that installed packages name in the entry-point group. A
    class registers itself when its module is imported, so a new class needs one file. Modules named `…_numba` hold
    compiled loops and register nothing; they are skipped, because numba takes about a second to load. Thread-safe.
    """

    def __init__(self, kind: str, package: str, group: str | None = None) -> None:
        """kind: an entry's name in messages, for example "detector". package: for example "imc_kit.detectors".

        group: the entry-point group (default: the package's name).
        """
        self.kind, self.package, self.group = kind, package, group or package
        self._known: dict[str, Config] = {}
        self._loaded = False
        self._lock = RLock()

    def register(self, config: Config) -> Config:
        """Decorator: adds a configuration class.

        The same class may be registered again, for example by running a notebook cell twice: the last one counts.
        Raises `KitError` when another class has its name.
        """
        other = self._known.get(config.name)
        if other is not None and _identity(other) != _identity(config):
            owners = f"{_identity(other)} and {_identity(config)}"
            raise KitError(f"{self.kind} {config.name!r} is registered twice, by {owners}: rename one of them")
        self._known[config.name] = config  # no lock: a thread that waits for this module may hold it
        return config

    def __getitem__(self, name: str) -> Config:
        """The configuration class, in whatever case. Raises `KitError` with the nearest name if there is none."""
        known = self._all()
        if name not in known and name.lower() not in known:
            raise unknown_name(self.kind, name, known)
        return known.get(name) or known[name.lower()]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, Config]:
        with self._lock:
            if not self._loaded:
                self._loaded = True  # a module that looks up a name while it is imported must not start over
                for module in iter_modules(import_module(self.package).__path__):
                    if not module.name.endswith("_numba"):
                        import_module(f"{self.package}.{module.name}")
                for entry in metadata.entry_points(group=self.group):
                    try:
                        entry.load()
                    except Exception as error:  # another package's error must not lose the kit's own entries
                        log.warning("cannot load the %s %r of %s: %s", self.kind, entry.name, entry.value, error)
            return dict(sorted(self._known.copy().items()))


def _identity(config: type[NamedConfig]) -> str:
    return f"{config.__module__}.{config.__qualname__}"
