"""Map a large scene in overlapping partitions, on all cores or machines, and join their models (`joining`).

Bundle adjustment of twice as many images takes more than twice as long, so several small models cost less than one.
Each partition's models are kept under a digest of all that they depend on, so that a stopped run resumes.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any
from uuid import uuid4

from imc_kit.colmap.child import LargeScenes, Workplace
from imc_kit.colmap.model_files import read_models
from imc_kit.runtime import deadline, versions
from imc_kit.runtime.executors import Done, fan_out, width
from imc_kit.types import Model


@dataclass(frozen=True)
class MappingJob:
    """A mapping run of a database: a job in `jobs.JOBS` and its arguments."""

    name: str
    what: str
    """In words, for messages."""
    time_limit: float
    """Maximum seconds."""
    arguments: Mapping[str, Any]

    def run(self, at: Workplace, cancelled: Event | None = None, **arguments: Any) -> None:
        at.run(self.name, self.what, self.time_limit, cancelled, **{**self.arguments, **arguments})


class _Stop(Event):
    """Also set when another event is. In another process it is an event that nobody sets: a partition there ends."""

    def __init__(self, other: Event | None = None) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or (self._other is not None and self._other.is_set())

    def __reduce__(self) -> tuple[Any, ...]:
        return _Stop, ()  # not Event: a cluster's scheduler may pickle again what it has unpickled


def map_partitions(
    parts: Sequence[Sequence[str]], job: MappingJob, identity: Any, at: Workplace, large: LargeScenes, cancelled: Event
) -> list[Model]:
    """Map each partition of a scene's images, unless an earlier run did, and join their models.

    parts: the names of each partition's images. job: maps the images of its database. identity: what its result depends
    on, for JSON, such as the digest of the database.

    Returns the models, largest first, with their files in subfolders 0, 1, … of the workplace. Raises `KitError` when a
    partition or the joining fails, or when time runs out.
    """
    large.folder.mkdir(parents=True, exist_ok=True)
    folders = [large.folder / _digest([identity, at.seed, asdict(at.known), part]) for part in parts]
    # Other machines may see this folder only, and must not open one SQLite database: each opens a copy.
    shared = shutil.copyfile(job.arguments["database"], large.folder / f"{_digest([identity])}.db")
    missing = [(folder, part) for folder, part in zip(folders, parts, strict=True) if not folder.is_dir()]
    at_once = max(1, min(len(missing), width(large.executor)))
    place = replace(at, threads=max(1, at.threads // at_once), large=None)
    stop = _Stop(cancelled)
    chunks = [(job, shared, part, folder, place, large.until, stop) for folder, part in missing]
    try:
        fan_out(large.executor, _map_partition, chunks, "mapping", "partition", len(missing))
    finally:
        stop.set()  # if one has failed, the others need not end
    models = [[str(model.folder) for model in read_models(folder)] for folder in folders]
    seconds = min(job.time_limit, deadline.left(large.until))
    known, database = asdict(at.known), job.arguments["database"]
    what = f"joining of {len(parts)} partitions"
    at.run("join", what, seconds, cancelled, database=database, parts=models, known=known)
    return read_models(at.folder)


def _map_partition(
    job: MappingJob, database: Path, part: Sequence[str], folder: Path, at: Workplace, until: float, stop: Event
) -> Done:
    """Map some images of a scene; their models go to `folder`, which exists only when they are complete."""
    unfinished = folder.with_name(f"{folder.name}-{uuid4().hex[:8]}")
    with TemporaryDirectory(prefix="imc-kit-") as local:
        copy = shutil.copyfile(database, Path(local) / "database.db")
        job = replace(job, time_limit=min(job.time_limit, deadline.left(until)))
        at = replace(at, folder=unfinished, log=folder.with_suffix(".log"))
        job.run(at, stop, database=copy, names=part)
    with suppress(OSError):  # another worker was faster
        unfinished.rename(folder)
    return 1, []


def _digest(parts: Any) -> str:
    text = json.dumps([versions.KIT, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
