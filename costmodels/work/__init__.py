"""What operators do: operations, bytes and launches, by rules that are data where they can be."""
