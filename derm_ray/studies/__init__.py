"""Whole experiments made of the other packages."""
