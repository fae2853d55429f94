"""What the trace keeps of calls: decisions, refusals, outcomes."""
