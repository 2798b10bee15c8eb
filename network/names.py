"""The names of the networks, readable without importing torch (`train.py --help` lists them)."""

ARCHITECTURES: tuple[str, ...] = (
    "DeepWV3Plus",
    "DeepSRNX50V3PlusD_m1",
    "DeepSRNX101V3PlusD_m1",
    "DeepR18V3PlusD_m1",
    "DeepR50V3PlusD_m1",
    "DeepR101V3PlusD_m1",
    "DeepMNV3V3PlusD_m1",
    "DeepEffLite0V3PlusD_m1",
    "DeepEffLite1V3PlusD_m1",
    "DeepEffLite2V3PlusD_m1",
)
