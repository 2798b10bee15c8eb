"""From a trained network to probabilities, labels, pictures and reports.

Only `build.py` and `submission.py` know the command line, and only the latter a data set's files.
"""
