"""Search for a recipe: Ray Tune over a space of settings, each trial a run of Ray Train."""
