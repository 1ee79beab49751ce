"""The model of a step on many accelerators."""

from pathlib import Path

import pytest

from benchmarks import accelerators
from benchmarks import render

DOCS = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_model_of_a_step_is_that_of_paper_and_pencil():
    # 1e9 FLOPs forward, 3e9 with backward, 8 examples, 1e12 a second: 24 ms,
    # 16 of which are the backward pass. 4 MB over 1 GB/s: 7 ms on 8, and 6
    # messages of 1 ms. Passes: 2 shards, 6 times 4 MB, at 48 GB/s: 1 ms.
    network = accelerators.Network(1e6, 1e9, 4)
    machine = accelerators.Machine(1e9, 1e12, 48e9, 1e-3)
    plain, ours = accelerators.model_step(network, 8, machine, num_shards=2)
    assert plain == pytest.approx(24e-3)
    assert ours == pytest.approx((24 + 1 + 2 * (7 + 6) + 2 * 6) * 1e-3)
    # Nothing is hidden: 13 ms more.
    machine = accelerators.Machine(1e9, 1e12, 48e9, 1e-3, overlap=0.0)
    plain, _ = accelerators.model_step(network, 8, machine, num_shards=2)
    assert plain == pytest.approx(37e-3)


def test_docs_show_the_table_of_the_model():
    table = render.as_markdown(accelerators.model_table())
    assert table in DOCS.read_text(encoding="utf-8")
