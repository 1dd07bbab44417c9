"""Entry points for job files, such as a KubeRay RayJob: the command line's arguments, one JSON line as the result."""
