"""How a preset's grid becomes cells."""

import pytest

from harness.config import load_plan
from harness.errors import RequestError

PRESET = """
seq_lens = [256, 512]
n_samples = 9

[model]
name = "tiny-llama"

[[method]]
name = "vanilla"

[[suite]]
name = "needle"
tasks = ["keys1_noise"]
{grid}
"""


def planned(tmp_path, grid):
    path = tmp_path / "preset.toml"
    path.write_text(PRESET.format(grid=grid))
    return {planned.cell.seq_len: planned.cell.n_samples for planned in load_plan(str(path)).cells}


def test_samples_are_given_for_all_lengths_or_for_each_in_the_order_of_the_lengths(tmp_path):
    assert planned(tmp_path, "") == {256: 9, 512: 9}
    assert planned(tmp_path, "n_samples = 5") == {256: 5, 512: 5}
    assert planned(tmp_path, "n_samples = [7, 3]") == {256: 7, 512: 3}
    assert planned(tmp_path, "seq_lens = [1024, 256, 512]\nn_samples = [1, 3, 2]") == {256: 3, 512: 2, 1024: 1}


def test_fewer_samples_at_long_lengths_are_the_first_of_the_same_ones(tmp_path):
    path = tmp_path / "preset.toml"
    path.write_text(PRESET.format(grid="n_samples = [4, 2]"))
    even = tmp_path / "even.toml"
    even.write_text(PRESET.format(grid="n_samples = 4"))
    uneven, whole = load_plan(str(path)).cells, load_plan(str(even)).cells
    assert uneven[0].cell.key == whole[0].cell.key


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ("n_samples = [4]", ["n_samples = [4]", "one number, or one for each"]),
        ("n_samples = [4, 2, 1]", ["n_samples = [4, 2, 1]", "one number, or one for each", "[256, 512]"]),
        ("n_samples = [4, 0]", ["n_samples = (4, 0)", "at least 1"]),
        ("n_samples = []", ["n_samples = ()", "at least 1"]),
        ("n_samples = 1.5", ["n_samples = 1.5", "a whole number or a list"]),
    ],
)
def test_counts_that_fit_no_length_are_refused(tmp_path, grid, words):
    with pytest.raises(RequestError) as error:
        planned(tmp_path, grid)
    assert all(word in str(error.value) for word in words), error.value
