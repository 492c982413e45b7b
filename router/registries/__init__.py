"""Adapters that read registries of models."""
