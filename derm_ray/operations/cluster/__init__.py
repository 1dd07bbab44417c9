"""Checking cluster files before a cluster sees them: KubeRay, Kubernetes, Ray Serve, Ray's launcher."""
