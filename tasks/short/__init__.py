"""Short-context suites: any task of EleutherAI's lm-evaluation-harness, and the lists that papers quote."""
