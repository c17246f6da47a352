"""`map_batches`: one batch size, every row once, what was computed is kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.runtime.batching import map_batches, map_images


@given(st.integers(1, 30), st.integers(1, 12))
def test_every_row_is_there_once_and_in_order(count, size):
    sizes = []

    def function(rows):
        sizes.append(len(rows))
        return {"rows": rows, "by query": np.stack([rows, rows + 1])}

    found = map_batches(function, count, size, axes={"by query": 1})
    assert set(sizes) == {size}
    np.testing.assert_array_equal(found["rows"], np.arange(count))
    np.testing.assert_array_equal(found["by query"], [np.arange(count), np.arange(count) + 1])


def test_kept_batches_are_not_computed_again(tmp_path):
    calls, seen = [], []

    def function(rows):
        calls.append(rows)
        return {"rows": rows}

    def run(**options):
        return map_batches(
            function, 10, 4, file=lambda start: tmp_path / f"{start}.npz", **options
        )["rows"]

    run(on_batch=seen.append)
    assert len(calls) == 3 and seen == [4, 4, 2]
    (tmp_path / "4.npz").unlink()
    np.testing.assert_array_equal(run(), np.arange(10))
    assert len(calls) == 4 and calls[-1].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("count", [1, 5, 8, 9])
def test_images_are_mapped_in_batches_of_one_size(count):
    images = np.arange(count * 4, dtype=np.float32).reshape(count, 2, 2)
    sizes = set()

    def double(batch):
        sizes.add(len(batch))
        return 2 * batch

    np.testing.assert_array_equal(map_images(double, images, 4), 2 * images)
    assert sizes == {min(4, count)}
