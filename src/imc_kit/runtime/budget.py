"""A budget that threads share: work that needs much memory waits until other work has returned its part."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """An amount that threads reserve parts of."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._left = total
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, amount: int) -> Iterator[None]:
        """Wait until this much is left, and reserve it inside the block. A larger amount than all of it means all."""
        amount = min(amount, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()


def physical_memory() -> int:
    """The bytes of memory of this machine; 0 if the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return 0
