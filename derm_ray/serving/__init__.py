"""The online endpoint: one lesion in, a prediction out."""
