"""The engine: it plans, runs and stores cells, and knows no RoPE formula and no benchmark."""
