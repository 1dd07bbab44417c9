"""Submits commands to a cluster as Ray Jobs, and follows them. Importing this package does not load Ray."""
