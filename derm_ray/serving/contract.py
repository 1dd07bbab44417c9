"""Names of the HTTP API that replicas and Serve's proxy share."""

REQUEST_ID = "request-id"
"""Header of every response; the access log has the same id."""
MODEL_DIGEST = "x-model-digest"
"""Header of every response of a model."""
SCORING = ("/v1/score", "/v1/score-batch")
"""Paths that need the model."""
