"""Collect the warnings that the kit logs, so that they can be told again: in run.json, in the report, on a rerun."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Collector(logging.Handler):
    def __init__(self, without: str) -> None:
        super().__init__(logging.WARNING)
        self.without, self.messages = without, list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.messages and not (self.without and record.name.startswith(self.without)):
            self.messages.append(message)


@contextmanager
def collecting(without: str = "") -> Iterator[list[str]]:
    """The warnings and errors that are logged until the block ends, in any thread, each once.

    without: leave out those of modules whose names begin like this.
    """
    logger, collector = logging.getLogger("imc_kit"), _Collector(without)
    logger.addHandler(collector)
    try:
        yield collector.messages
    finally:
        logger.removeHandler(collector)
