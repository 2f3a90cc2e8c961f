"""A plan as files that other systems deploy: Ray Serve, Kubernetes."""
