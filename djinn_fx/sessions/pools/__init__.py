"""Pages of fixed size in device memory, host memory and on disk, and the copies between them."""
