"""What release builds of the data plane are told about what is hot in it (profile-guided optimization)."""
