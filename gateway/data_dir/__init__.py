"""A data directory: made, opened, backed up, and moved to PostgreSQL."""
