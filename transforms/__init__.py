"""Augmentation: `joint` on image and labels, `photometric` on the image alone. Knows no data set and no epoch."""
