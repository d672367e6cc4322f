"""What the tests of comparisons share: a browser."""

from pages import browser

__all__ = ["browser"]
