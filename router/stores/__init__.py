"""Adapters that keep desired state."""
