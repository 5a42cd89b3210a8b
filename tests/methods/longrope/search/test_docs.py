"""What docs/search.md says of the embedded model stands in the committed rows of benchmarks/search.py."""

import json
import re
from pathlib import Path

import run_bench

DOCS = Path(run_bench.__file__).parent / "docs"
ROWS = [row for row in json.loads((DOCS / "search" / "benchmark.json").read_text()) if "standard_error" in row]
TEXT = (DOCS / "search.md").read_text(encoding="utf-8")


def test_every_number_of_the_table_is_a_searchs_result():
    said = re.findall(
        r"^\| (\d+) \| (\d+) \| `(\w+)` \| (\d+) \| ([\d.]+) ± ([\d.]+) \| ([\d.]+) ± ([\d.]+) \|$", TEXT, re.M
    )
    assert said == [
        (
            str(row["target_length"]), str(row["seed"]), row["algorithm"], f"{row['forward_equivalents']:.0f}",
            f"{row['held_out_loss']:.3f}", f"{row['standard_error']:.3f}",
            f"{row['yarn_loss']:.3f}", f"{row['yarn_standard_error']:.3f}",
        )
        for row in ROWS
    ]  # fmt: skip


def test_the_fast_search_ends_no_worse_than_the_published_one_and_below_yarn():
    fast = {(row["target_length"], row["seed"]): row for row in ROWS if row["algorithm"] == "fast"}
    assert fast
    for place, row in fast.items():
        assert row["held_out_loss"] < row["yarn_loss"]
        for other in ROWS:
            if (other["target_length"], other["seed"]) == place:
                assert row["held_out_loss"] <= other["held_out_loss"]
                assert row["yarn_loss"] == other["yarn_loss"]
