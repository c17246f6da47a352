"""Until SPT is built, its package promises nothing."""

import spt_jax


def test_it_exports_nothing():
    assert [name for name in vars(spt_jax) if not name.startswith("__")] == []
