"""Training on Ray: the driver, the workers, and data loading."""
