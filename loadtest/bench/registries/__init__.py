"""How soon a move in a registry of a thousand models is live, and what it costs to watch it."""
