"""What every converter from ATen needs."""
