"""Lesion pairs: manifests, splits, importers, and images as the models see them."""
