"""How files of each format become Triton model folders; one module for each."""
