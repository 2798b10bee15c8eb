"""Grow a training set along video: motion between frames, and images and labels carried along it."""
