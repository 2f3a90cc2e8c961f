"""Find the model that a user's file defines, and inputs to call it with."""
