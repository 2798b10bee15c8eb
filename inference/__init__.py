"""From a trained network to probabilities, labels, pictures and reports.

Only `build.py` and `submission.py` read the command line's settings, and only the latter a data set's files. Elsewhere
an error may name a flag, as the way out.
"""
