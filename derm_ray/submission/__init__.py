"""Sending a command to a cluster as a Ray Job, and looking after the jobs there. Importing this loads no Ray."""
