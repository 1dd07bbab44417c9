"""The paper's tables and figures again, on any manifest."""
