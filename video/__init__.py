"""Grow a training set along video: estimate motion between frames and propagate images and labels along it."""
