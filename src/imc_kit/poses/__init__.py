"""From models to one pose per image."""

from imc_kit.poses.place import place

__all__ = ["place"]
