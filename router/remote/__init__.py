"""Guarded ways to stores outside this process; registries and artifacts share them."""
