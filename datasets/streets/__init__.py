"""Drawn streets with exact labels, optical flow and visibility. `datasets/specs/streets.py` declares the data set."""
