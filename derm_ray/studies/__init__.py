"""Whole experiments made of the other rooms."""
