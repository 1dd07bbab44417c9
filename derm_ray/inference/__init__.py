"""From preprocessed pairs to predictions."""
