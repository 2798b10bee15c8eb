"""What SDC networks are called, without what they are made of."""

PREDICTION, RECONSTRUCTION = "prediction", "reconstruction"
SDC_MODES = (RECONSTRUCTION, PREDICTION)


def arch_name(mode: str) -> str:
    """The name in checkpoints of a network for this mode, one of SDC_MODES."""
    return f"SDCNet_{mode}"
