"""What is registered: servers, tools, agents, keys, rules, budgets, approvals. No HTTP here."""
