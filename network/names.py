"""The names of the networks, readable without importing torch (`train.py --help` lists them)."""

ARCHITECTURES: tuple[str, ...] = ("DeepMNV3V3PlusD_m1",)
