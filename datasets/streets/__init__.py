"""Drawn streets with exact labels, optical flow and visibility. `datasets/specs/camvid.py` declares the data set."""
