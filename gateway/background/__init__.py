"""What runs beside the calls: housekeeping, and what gateways on one database do for each other."""
