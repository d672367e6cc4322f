"""The cost of every detector, matcher and global descriptor on this machine: seconds, memory, and how much it finds.

    python benchmarks/features.py [IMAGE IMAGE] [--long-side 1024] [--keypoints 2048] [--repeats 3] [--out FILE]
    python benchmarks/features.py --truth ROOT --scenes SCENE … [--detectors NAME …] [--keypoints 2048]

The second form tells how many matches are right on real pairs instead (see precision.py); it has no times.
The images are two photos of the same thing; default: two views of the rendered plaza. Every row has its own process
with one thread, so a crash or a lack of time costs one row. A network whose weight file is not found is timed with
random weights. The row says so, because its result is meaningless.
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

from imc_kit.config import CHEAP
from imc_kit.data import images
from imc_kit.data.images import Photo
from imc_kit.data.masks import vegetation
from imc_kit.detectors import DETECTORS, extract
from imc_kit.detectors.none import NoDetectorConfig
from imc_kit.errors import KitError
from imc_kit.matchers import MATCHERS, PhotoMatcherConfig, View
from imc_kit.matchers.lightglue import LightGlueConfig
from imc_kit.matchers.nearest import NearestConfig
from imc_kit.retrieval import DESCRIPTORS, AggregateConfig, NetworkDescriptorConfig
from imc_kit.runtime.executors import set_torch_threads
from imc_kit.runtime.meter import Meter
from imc_kit.synthetic import plaza
from imc_kit.types import Features
from imc_kit.viewgraph import lowres
from precision import table as precision_table
from precision import views
from untrained import random_where_missing

PACKAGES = ("numpy", "numba", "opencv-python-headless", "opencv-python", "torch", "kornia", "timm")
VARIANTS = ("model", "descriptor")
"""Options for which every value gets a row."""
KINDS = ("sift", "superpoint", "orb")
"""Matchers that accept nearly all descriptors are timed with these: 128 numbers, 256 numbers, 256 bits."""
SCENE = 50
"""Number of images for VLAD, which learns its vocabulary once for all images of a scene."""
LOW_RESOLUTION = CHEAP.detector
"""The detector of low-resolution matching."""
SLOW = {"dedode G": "two minutes and 5 GB for each image", "roma, 864 pixels": "it needs romatch and a GPU"}
"""What is not timed, with the reason."""
LEAST_SECONDS = 0.2
"""A call is repeated until this time has passed, because processor time is counted in milliseconds."""
SECONDS = 15.0
"""A row is not repeated after this time."""
REMARKS = f"""\
s: seconds of one core, the median of the runs after the first, without reading images and loading networks. It is
processor time, so other work on the machine hardly matters. MB: peak memory that the row added to its process, weights
included. random weights: the weight file is missing, so a network of the same shape was timed and its result is not
shown. LightGlue with random weights never stops early and drops no keypoints, so with real weights it is faster. vlad:
of SIFT, in a scene of {SCENE} images, vocabulary included. low-resolution matching: SIFT, at most
{LOW_RESOLUTION.max_keypoints} keypoints of an image with {LOW_RESOLUTION.long_side} pixels on its longer side."""


@dataclass(frozen=True)
class Row:
    """One thing to time."""

    label: str
    prepare: Callable[[], Callable[[], Any]]
    """Prepares the row and returns the call to time."""
    said: Callable[[Any], str] = lambda _: ""
    """The result of the call in words."""
    share: int = 1
    """The number of images or pairs that the call processes."""
    kind: str | None = None
    """The kind of features that the call returns, if it does."""
    random: bool = False
    """Whether the call works on features of random weights."""


@dataclass(frozen=True)
class Cost:
    """The cost of a row: seconds, bytes, the result of the call, and whether weights were random."""

    seconds: float
    memory: int
    found: Any
    random: bool


Known = dict[str, tuple[list[Features], bool]]
"""The features of both images by kind, and whether they come from random weights."""


def main() -> None:
    arguments = _arguments()
    if arguments.truth:
        set_torch_threads(1)
        _say_precision(arguments)
        return
    for library in ("torch", "kornia.feature", "timm"):  # imported now, so that they do not count as memory of a row
        importlib.import_module(library)
    cv2.setNumThreads(1)  # before processes are forked, because a pool of threads does not survive a fork
    set_torch_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        paths = arguments.images or _plaza(scratch, arguments.long_side)
        photos = [images.load(path, arguments.long_side) for path in paths]
        text = [f"- {name}: {value}" for name, value in _facts(arguments, paths, photos).items()]
        print(*text, sep="\n")
        known: Known = {}
        for heading, unit, found, rows in (
            ("Detectors", "s per image", "keypoints", _detectors(photos, arguments)),
            ("Matchers", "s per pair", "matches", _matchers(paths, known)),
            ("Global descriptors", "s per image", "", _descriptors(paths, known)),
            ("Masks and low-resolution matching", "s", "", _looks(paths)),
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
    parser = argparse.ArgumentParser(description="The cost of every detector, matcher and global descriptor.")
    parser.add_argument("images", type=Path, nargs="*", help="two photos; default: two views of the rendered plaza")
    parser.add_argument("--long-side", type=int, default=1024, help="of images for detectors, in pixels; default: 1024")
    parser.add_argument("--keypoints", type=int, default=2048, help="maximum per image; default: 2048")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each row after the first; default: 3")
    parser.add_argument("--limit", type=int, default=180, help="seconds after which a row is left out; default: 180")
    parser.add_argument("--truth", type=Path, help="real scenes with truth.csv: tell how many matches are right")
    parser.add_argument("--scenes", nargs="+", default=[], help="with --truth: scenes of photos of one size each")
    parser.add_argument("--detectors", nargs="+", choices=[*DETECTORS], help="with --truth: only these; default: all")
    parser.add_argument("--out", type=Path, help="also save the tables in this file")
    arguments = parser.parse_args()
    if len(arguments.images) not in (0, 2):
        parser.error("give two images, or none")
    if bool(arguments.truth) != bool(arguments.scenes) or (arguments.truth and arguments.images):
        parser.error("give --truth together with --scenes, and without images")
    return arguments


def _say_precision(arguments: argparse.Namespace) -> None:
    chosen = [view for name in arguments.scenes for view in views(arguments.truth, name, arguments.long_side)]
    names = arguments.detectors or DETECTORS
    text = [line for line in precision_table(chosen, names, arguments.keypoints, arguments.long_side) if _say(line)]
    if arguments.out:
        arguments.out.write_text("\n".join(text) + "\n", "utf-8")


def _plaza(folder: Path, long_side: int) -> list[Path]:
    camera = plaza.Camera.centred((long_side, long_side * 3 // 4))
    views = plaza.render_scene(plaza.plaza(), camera, plaza.orbit(24)[:2])
    paths = [folder / f"plaza{number}.png" for number in range(len(views))]
    for path, view in zip(paths, views, strict=True):
        cv2.imwrite(str(path), view[..., ::-1])
    return paths


# The calls to time.


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
        if isinstance(config, PhotoMatcherConfig):
            photos = [images.load(path, config.long_side) for path in paths]
            views = [View(photo, Features.empty(photo.size, 0)) for photo in photos]

            def prepare(config=config, views=views) -> Callable[[], Any]:
                matcher = config.create()
                return lambda: matcher.match(*views)

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
    detector, matcher = LOW_RESOLUTION.create(), NearestConfig(ratio=0.8).create()
    photos = [images.load(path, LOW_RESOLUTION.long_side) for path in paths]
    pair = extract(detector, photos)
    yield Row("vegetation mask, per image", lambda: lambda: vegetation(photos[0].pixels))
    yield Row("low-resolution matching: detection, per image", lambda: lambda: extract(detector, photos[:1]))
    yield Row(
        "low-resolution matching: matching, per pair", lambda: lambda: lowres.pair_overlap(*pair, matcher.match(*pair))
    )


def _variants(config_class: type) -> list[tuple[str, dict[str, Any]]]:
    """A label and options for each variant of a network."""
    hints = typing.get_type_hints(config_class)
    for option in VARIANTS:
        if option in hints:
            return [(f"{config_class.name} {value}", {option: value}) for value in typing.get_args(hints[option])]
    return [(config_class.name, {})]


# Timing.


def _apart(job: Callable[[], Any], limit: int) -> Any:
    """Run `job` in its own process. Raises `KitError` if it fails, crashes or needs more than `limit` seconds."""
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
    """Write random weight files now, so that this is not measured."""
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


# Output.


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
    """Numbers of keypoints, as in 2048 or 1200 / 1300."""
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
