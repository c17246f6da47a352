"""Fixtures of all tests."""

import hypothesis
import jax
import pytest

# Nothing here is a race: a test that is slow on a busy machine is no worse.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True, scope="module")
def _forget_what_was_compiled():
    """Thousands of compiled programs in one process exhaust its memory maps (vm.max_map_count),
    and XLA then dies."""
    yield
    jax.clear_caches()
