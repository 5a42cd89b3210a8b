"""LongRoPE and LongRoPE2."""
