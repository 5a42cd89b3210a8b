"""LongBench and LongBench v2 as their authors run and score them."""
