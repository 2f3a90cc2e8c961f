"""Which model lives on which device: from workflows and traffic to a plan, its simulation and its files."""
