"""TCP ports with a fixed number, by Ray's defaults and derm_ray's; docs/security.md has the full list."""

DASHBOARD = 8265
PORTS = {
    6379: "Ray's head",
    8000: "the endpoint",
    DASHBOARD: "Ray's dashboard and jobs",
    10001: "Ray's client server",
    44217: "metrics of the autoscaler",
    44227: "metrics of the dashboard",
    52365: "agent",
}
"""Port -> what listens there."""
