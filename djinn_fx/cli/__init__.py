"""The command `djinn`, a file a subcommand."""
