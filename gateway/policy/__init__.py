"""Where policy is composed, served and decided: OPA and the one bundle it runs."""
