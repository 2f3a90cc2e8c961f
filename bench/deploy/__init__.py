"""Plans of which model lives on which device, beside other rules for it."""
