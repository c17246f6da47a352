"""Fixtures of all tests."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _forget_what_was_compiled():
    """Thousands of compiled programs in one process exhaust its memory maps (vm.max_map_count),
    and XLA then dies."""
    yield
    jax.clear_caches()
