"""The classes of hostile input that `benchmarks/torture.py` tries on the kit."""
