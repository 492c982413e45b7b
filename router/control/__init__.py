"""The loop that reads, decides and acts."""
