"""The paper's tables and metrics again, on any manifest."""
