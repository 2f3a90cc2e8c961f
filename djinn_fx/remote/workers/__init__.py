"""Workers on Ray: an instance of it, an actor for each worker, and the client that calls them."""
