"""Data sets: declarations (no heavy imports), and what turns them into samples."""
