"""Engines: how a network's forward pass is executed."""
