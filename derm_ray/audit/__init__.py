"""Audit of a data set: duplicates, leaks between splits, unusable images and likely label errors."""
