"""What every detector, matcher and global descriptor costs on this machine: seconds, memory, and how much it finds.

    python benchmarks/features.py [IMAGE IMAGE] [--long-side 1024] [--keypoints 2048] [--repeats 3] [--out FILE]

The images are two photographs of the same thing; two views of the rendered plaza when left out. Every row has a process
of its own, with one thread, so that a crash or a lack of time costs one row. A network whose weight file is not found
is timed with random weights, and the row says so: what it finds means nothing then.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import math
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
from threadpoolctl import threadpool_limits
from untrained import random_where_missing

from imc_kit.config import CHEAP
from imc_kit.data import images
from imc_kit.data.images import Photo
from imc_kit.data.masks import MaskConfig, vegetation
from imc_kit.detectors import DETECTORS, NoDetectorConfig, extract
from imc_kit.errors import KitError
from imc_kit.matchers import MATCHERS, DetectorFreeConfig, LightGlueConfig, NearestConfig
from imc_kit.retrieval import DESCRIPTORS, AggregateConfig, NetworkDescriptorConfig
from imc_kit.runtime.executors import set_torch_threads
from imc_kit.runtime.meter import Meter
from imc_kit.synthetic import plaza
from imc_kit.types import Features
from imc_kit.viewgraph import lowres

PACKAGES = ("numpy", "numba", "opencv-python-headless", "opencv-python", "torch", "kornia", "timm")
VARIANTS = ("model", "descriptor")
"""Options each of whose values has a row."""
KINDS = ("sift", "superpoint", "orb")
"""Descriptors with which matchers that take nearly all are timed: 128 numbers, 256 numbers, 256 bits."""
SCENE = 50
"""Images of the scene in which VLAD and Fisher vectors are timed, which make their vocabulary once for all of them."""
OVERVIEW = CHEAP.detector
"""What the pipeline's overview is made of."""
SLOW = {"dedode G": "two minutes an image, and 5 GB"}
"""What is not timed, and why."""
LEAST_SECONDS = 0.2
"""A run is repeated until it took so long: the processor's time is counted in milliseconds."""
SECONDS = 15.0
"""A row that took so long is not repeated further."""
REMARKS = f"""\
s: seconds of one core, the median of the runs after the first, without reading images and loading networks; other work
on the machine hardly adds to them. MB: what the row added to its process at the peak, weights included. random weights:
the weight file was not here, so a network of the same shape was timed, and what it found is not shown. LightGlue with
random weights never stops early and drops no keypoints: with its own it is faster. vlad, fisher: of SIFT, in a scene of
{SCENE} images, vocabulary included. overview: SIFT, at most {OVERVIEW.max_keypoints} keypoints of an image with
{OVERVIEW.long_side} pixels on its longer side."""


@dataclass(frozen=True)
class Row:
    """One thing to time."""

    label: str
    prepare: Callable[[], Callable[[], Any]]
    """Makes it ready, and gives what is to be called."""
    said: Callable[[Any], str] = lambda _: ""
    """What was found, in words, of what the call gave."""
    share: int = 1
    """The call does the work of so many images or pairs."""
    kind: str | None = None
    """Of the features that the call gives."""
    random: bool = False
    """What it works on comes from random weights."""


@dataclass(frozen=True)
class Cost:
    """What a row took: seconds, bytes, what the call gave, and whether weights were random."""

    seconds: float
    memory: int
    found: Any
    random: bool


Known = dict[str, tuple[list[Features], bool]]
"""Features of both images by their kind, and whether random weights gave them."""


def main() -> None:
    arguments = _arguments()
    for library in ("torch", "kornia.feature", "timm"):  # now, so that they do not count as a row's memory
        importlib.import_module(library)
    cv2.setNumThreads(1)  # and before processes are forked, which do not survive a pool of threads
    set_torch_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        paths = arguments.images or _plaza(scratch, arguments.long_side)
        photos = [images.load(path, arguments.long_side) for path in paths]
        text = [f"- {name}: {value}" for name, value in _facts(arguments, paths, photos).items()]
        print(*text, sep="\n")
        known: Known = {}
        for heading, unit, found, rows in (
            ("Detectors", "s an image", "keypoints", _detectors(photos, arguments)),
            ("Matchers", "s a pair", "matches", _matchers(paths, known)),
            ("Global descriptors", "s an image", "", _descriptors(paths, known)),
            ("Masks and overview", "s", "", _looks(paths)),
        ):
            text += _say("", f"| {heading} | {unit} | MB | {found} |", "|---|--:|--:|---|")
            for row in rows:
                try:
                    if row.label in SLOW:
                        raise KitError(SLOW[row.label])
                    _apart(lambda row=row: _write_missing(row, scratch), arguments.limit)
                    cost = _apart(lambda row=row: _measure(row, scratch, arguments.repeats), arguments.limit)
                except KitError as error:
                    text += _say(f"| {row.label} | | | left out: {error} |")
                    continue
                if row.kind is not None:
                    known.setdefault(row.kind, (cost.found, cost.random))
                text += _say(_line(row, cost))
    text += _say("", REMARKS)
    if arguments.out:
        arguments.out.write_text("\n".join(text) + "\n", "utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What every detector, matcher and global descriptor costs here.")
    parser.add_argument("images", type=Path, nargs="*", help="two photographs; default: two views of the plaza")
    parser.add_argument("--long-side", type=int, default=1024, help="of images for detectors; default: 1024")
    parser.add_argument("--keypoints", type=int, default=2048, help="the most of an image; default: 2048")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each row after its first; default: 3")
    parser.add_argument("--limit", type=int, default=180, help="seconds after which a row is left out; default: 180")
    parser.add_argument("--out", type=Path, help="also save the tables in this file")
    arguments = parser.parse_args()
    if len(arguments.images) not in (0, 2):
        parser.error("give two images, or none")
    return arguments


def _plaza(folder: Path, long_side: int) -> list[Path]:
    camera = plaza.Camera.centred((long_side, long_side * 3 // 4))
    views = plaza.render_scene(plaza.plaza(), camera, plaza.orbit(24)[:2])
    paths = [folder / f"plaza{number}.png" for number in range(len(views))]
    for path, view in zip(paths, views, strict=True):
        cv2.imwrite(str(path), view[..., ::-1])
    return paths


# What is timed.


def _detectors(photos: Sequence[Photo], arguments: argparse.Namespace) -> Iterator[Row]:
    for config_class in DETECTORS.values():
        if config_class is NoDetectorConfig:
            continue
        for label, variant in _variants(config_class):
            config = config_class(long_side=arguments.long_side, max_keypoints=arguments.keypoints, **variant)

            def prepare(config=config) -> Callable[[], list[Features]]:
                detector = config.create()
                return lambda: [extract(detector, [photo])[0] for photo in photos]

            yield Row(label, prepare, _counts, len(photos), config.kind)


def _matchers(paths: Sequence[Path], known: Known) -> Iterator[Row]:
    for config in (config_class() for config_class in MATCHERS.values()):
        if isinstance(config, DetectorFreeConfig):
            photos = [images.load(path, config.long_side) for path in paths]

            def prepare(config=config, photos=photos) -> Callable[[], Any]:
                matcher = config.create()
                return lambda: matcher.match_images(*photos)

            yield Row(f"{config.name}, {config.long_side} pixels", prepare, lambda found: str(len(found.first)))
            continue
        for kind, (features, random) in known.items():
            if config.accepts(kind) and (isinstance(config, LightGlueConfig) or kind in KINDS):

                def prepare(config=config, kind=kind, features=features) -> Callable[[], Any]:
                    matcher = config.create(kind)
                    return lambda: matcher.match(*features)

                label = f"{config.name}, {kind}, {_counts(features)} keypoints"
                yield Row(label, prepare, lambda found: str(len(found.indices)), random=random)


def _descriptors(paths: Sequence[Path], known: Known) -> Iterator[Row]:
    for config_class in DESCRIPTORS.values():
        for label, variant in _variants(config_class):
            config = config_class(**variant)
            if isinstance(config, NetworkDescriptorConfig):
                pixels = [images.load(path, config.long_side).pixels for path in paths]

                def prepare(config=config, pixels=pixels) -> Callable[[], Any]:
                    network = config.create()
                    return lambda: network.describe(pixels)

                yield Row(f"{label}, {config.side} pixels", prepare, share=len(pixels))
            elif isinstance(config, AggregateConfig):
                features = dict(enumerate(known["sift"][0]))

                def prepare(config=config, features=features) -> Callable[[], Any]:
                    aggregate, scene = config.create(), [str(number) for number in range(SCENE)]
                    return lambda: aggregate.describe(scene, lambda name: features[int(name) % len(features)])

                yield Row(label, prepare, share=SCENE)


def _looks(paths: Sequence[Path]) -> Iterator[Row]:
    masks, detector, matcher = MaskConfig(vegetation=True), OVERVIEW.create(), NearestConfig(ratio=0.8).create()
    photos = [images.load(path, OVERVIEW.long_side) for path in paths]
    pair = extract(detector, photos)
    yield Row("vegetation, an image", lambda: lambda: vegetation(photos[0].pixels, masks))
    yield Row("overview, an image", lambda: lambda: extract(detector, photos[:1]))
    yield Row("overview, a pair", lambda: lambda: lowres.pair_overlap(*pair, matcher.match(*pair)))


def _variants(config_class: type) -> list[tuple[str, dict[str, Any]]]:
    """A label and options for each network that there is."""
    hints = typing.get_type_hints(config_class)
    for option in VARIANTS:
        if option in hints:
            return [(f"{config_class.name} {value}", {option: value}) for value in typing.get_args(hints[option])]
    return [(config_class.name, {})]


# How it is timed.


def _apart(job: Callable[[], Any], limit: int) -> Any:
    """What `job` gives in a process of its own. Raises `KitError` when it fails, crashes or takes more seconds."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_send, args=(job, sender, limit))
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        late = process.exitcode == -signal.SIGXCPU
        raise KitError(f"not done in {limit} s" if late else f"ended with exit status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if isinstance(answer, KitError):
        raise answer
    return answer


def _send(job: Callable[[], Any], sender: Connection, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    try:
        sender.send(job())
    except KitError as error:
        sender.send(KitError(str(error)))


def _write_missing(row: Row, scratch: Path) -> None:
    """Weight files that are missing, so that making them is not measured."""
    with random_where_missing(scratch):
        row.prepare()


def _measure(row: Row, scratch: Path, repeats: int) -> Cost:
    meter, seconds = Meter(), []
    with meter("before"):
        pass
    with meter("row"), random_where_missing(scratch) as random:
        call = row.prepare()
        while len(seconds) <= repeats and sum(seconds) < SECONDS:
            started, count = time.process_time(), 0
            while not count or time.process_time() - started < LEAST_SECONDS:
                found = call()
                count += 1
            seconds.append((time.process_time() - started) / count)
    median = statistics.median(seconds[1:] or seconds) / row.share
    memory = meter.memory["row"] - meter.memory["before"] if meter.memory else 0
    return Cost(median, memory, found, bool(random) or row.random)


# What is said.


def _facts(arguments: argparse.Namespace, paths: Sequence[Path], photos: Sequence[Photo]) -> dict[str, str]:
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    shapes = [" × ".join(map(str, photo.pixels.shape[1::-1])) for photo in photos]
    return {
        "CPU": f"one core of {(names or [platform.machine()])[0]}, which has {os.cpu_count()}",
        "load of the machine before": f"{os.getloadavg()[0]:.1f}",
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
        "images": ", ".join(f"{path.name} ({shape})" for path, shape in zip(paths, shapes, strict=True)),
        "keypoints": f"at most {arguments.keypoints} of an image",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _counts(features: Sequence[Features]) -> str:
    """Of keypoints: 2048, or 1200 / 1300."""
    return " / ".join(map(str, dict.fromkeys(map(len, features))))


def _line(row: Row, cost: Cost) -> str:
    found = "random weights" if cost.random else row.said(cost.found)
    return f"| {row.label} | {_seconds(cost.seconds)} | {cost.memory / 1e6:.0f} | {found} |"


def _seconds(seconds: float) -> str:
    """With two significant digits."""
    return f"{seconds:.{max(0, 1 - math.floor(math.log10(seconds)))}f}"


def _say(*lines: str) -> list[str]:
    print(*lines, sep="\n", flush=True)
    return list(lines)


if __name__ == "__main__":
    try:
        with threadpool_limits(1):
            main()
    except KitError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")
