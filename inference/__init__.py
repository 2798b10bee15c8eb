"""From a trained network to probabilities, labels, pictures and reports.

Only `settings.py`, `build.py` and `submission.py` know the command line, and only the last a data set's files.
"""
