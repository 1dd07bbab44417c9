"""Finds what would make a run fail, slow or unsafe, and how to fix it."""
