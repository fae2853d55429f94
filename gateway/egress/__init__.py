"""Whatever leaves: which addresses may be used, and a guarded request to one."""
