"""vLLM as a backend: methods that are a list of RoPE factors, suites that generate."""
