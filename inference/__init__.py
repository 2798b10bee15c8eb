"""From a trained network to probabilities, labels, pictures and reports.

Only `settings.py`, `build.py` and `submission.py` read the command line's settings, and only the last a data set's
files. Elsewhere an error may name a flag, as the way out.
"""
