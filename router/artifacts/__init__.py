"""Files of a version: fetched, verified and laid out for Triton."""
