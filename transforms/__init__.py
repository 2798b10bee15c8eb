"""Augmentation of image and labels. Knows no data set and no epoch."""
