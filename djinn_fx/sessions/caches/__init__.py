"""What a Transformers model keeps of a session, as rows and states in pages."""
