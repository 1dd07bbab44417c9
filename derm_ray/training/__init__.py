"""Training: the recipe, the plain torch loop, and the run on Ray Train."""
