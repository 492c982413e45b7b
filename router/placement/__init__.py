"""Pure: what should be loaded where, and why."""
