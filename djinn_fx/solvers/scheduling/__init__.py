"""When each task runs and each value moves, over devices and the links between them."""
