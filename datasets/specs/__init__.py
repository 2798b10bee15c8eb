"""Declarations of data sets, one file each. Nothing heavy is imported, so that flags and demos can read them."""
