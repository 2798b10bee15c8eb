"""Defaults of inference that flags and Python share. Imports nothing heavy."""

from pathlib import Path

SNAPSHOT = str(Path(__file__).parent.parent / "pretrained_models" / "camvid_light.safetensors")

MAX_MEMORY = 4.0  # GiB for an image's pixels and probabilities
OVERLAP = 1 / 3  # share of a tile that its neighbour also covers
AS_IN_TRAINING = "--inference_mode pooling --single_scale --no_flip"  # with these, eval.py scores as train.py does
