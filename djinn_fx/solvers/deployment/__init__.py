"""Which model lives on which device of which server: problems, plans with bounds, and what requests make of one."""
