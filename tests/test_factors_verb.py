"""`run_bench.py factors`: what a method does to a model's RoPE."""

import json
import math

import pytest

import run_bench


def factors(capsys, *argv: str) -> dict:
    assert run_bench.main(["factors", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def published(data_dir):
    return json.loads((data_dir / "factors" / "longrope2_llama3_8b_128k.json").read_text())


def test_the_published_list_of_longrope2_for_llama3_8b(published, capsys):
    given = factors(
        capsys, "longrope2", "--model", "llama3-8b", "--seq-len", "131072", "--set", "factors=llama3-8b-128k"
    )
    assert given["rescale_factors"] == pytest.approx(published["long_factor"], rel=1e-12)
    assert given["theoretical_critical_pair"] == 35
    assert given["extension_ratio"] == 16
    for i, (frequency, wavelength) in enumerate(zip(given["inv_freq"], given["wavelength"], strict=True)):
        original = 5e5 ** (-2 * i / 128)
        assert frequency == pytest.approx(original / published["long_factor"][i], rel=1e-12)
        assert wavelength == pytest.approx(2 * math.pi / frequency, rel=1e-12)


def test_the_same_from_a_file_and_from_a_config_json(published, data_dir, tmp_path, capsys):
    file = data_dir / "factors" / "longrope2_llama3_8b_128k.json"
    (tmp_path / "config.json").write_text(
        json.dumps({"head_dim": 128, "rope_theta": 5e5, "max_position_embeddings": 8192, "num_attention_heads": 32})
    )
    given = factors(
        capsys, "longrope2", "--model", str(tmp_path / "config.json"), "--seq-len", "8193", "--set", f"factors={file}"
    )
    assert given["rescale_factors"] == pytest.approx(published["long_factor"], rel=1e-12)


def test_inside_the_window_longrope2_changes_nothing(capsys):
    given = factors(capsys, "longrope2", "--model", "llama3-8b", "--seq-len", "8192", "--set", "factors=llama3-8b-128k")
    assert set(given["rescale_factors"]) == {1.0}
    assert given["attention_factor"] == 1


def test_the_closed_form_gives_the_first_33_published_values(published, capsys):
    given = factors(
        capsys, "longrope2_closed_form", "--model", "llama3-8b", "--seq-len", "131072",
        "--set", "critical_pair=33", "--set", f"top_factor={21.81 / 16}",
    )  # fmt: skip
    assert given["rescale_factors"][:33] == pytest.approx(published["long_factor"][:33], rel=1e-8)


def test_a_table_for_people(capsys):
    assert run_bench.main(["factors", "yarn", "--model", "tiny-llama", "--seq-len", "4096"]) == 0
    printed = capsys.readouterr().out
    assert "yarn at 4096 tokens" in printed
    assert "critical pair" in printed
