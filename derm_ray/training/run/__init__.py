"""Training on Ray: the driver's side, the workers' side, and the feed between storage and workers."""
