"""Sinks: each record of the log, as it was hashed, to whoever collects logs."""
