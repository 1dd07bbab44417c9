"""Names of the HTTP contract that replicas and Serve's proxy both know."""

REQUEST_ID = "request-id"
"""Header of every answer of ours; the access log has the same id."""
MODEL_DIGEST = "x-model-digest"
"""Header of every answer that a model gave."""
SCORING = ("/v1/score", "/v1/score-batch")
"""Paths that need the model."""
