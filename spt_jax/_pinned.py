"""Functions as pytrees that `jit` knows by what they reach. The same file stands in each of the
three libraries, which import nothing of each other; a test holds the copies equal.

Weights that are bound with `jax.tree_util.Partial(apply, weights)` are arguments of the compiled
program: they may change without a new compilation. Of everything else a function reaches,
`_callable_key` sees whether it has changed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from spt_jax._callable_key import CallableKey, key_of

ARRAY_LIKE = (
    *(jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic),
    *(bool, int, float, complex),
)
PLAIN = "plain"  # the mark of a pinned Partial to which arrays alone are bound
MOST_REMEMBERED = 64  # structures that were looked at


def as_partial(function: Any, name: str = "function") -> Partial:
    """The function as a pytree: the arrays bound to it (a network's weights, say) are its leaves.
    Before `jit` sees it, it has to be `pinned`.

    Raises:
      ValueError: what can't be called, by its name.
    """
    if not callable(function):
        raise ValueError(f"expected {name} to be a function, got {function!r}")
    return function if isinstance(function, Partial) else Partial(function)


def pinned(tree: Any) -> Any:
    """The pytree with every `Partial` in it known to `jit` by what it reaches now.

    Arguments bound to a Partial that are no arrays (activation functions among a module's weights,
    say) become a part of the key. What is pinned already, and has not changed, is given back.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda node: isinstance(node, Partial))
    fresh = [_pin(leaf) if isinstance(leaf, Partial) else leaf for leaf in leaves]
    same = all(new is old for new, old in zip(fresh, leaves, strict=True))
    return tree if same else jax.tree.unflatten(structure, fresh)


def _pin(partial: Partial) -> Partial:
    key: Any = partial.func
    if PLAIN in vars(partial) and key.holds():
        return partial
    args, keywords = partial.args, partial.keywords
    leaves, structure = jax.tree.flatten((args, keywords))
    if _has_partials(structure):
        args, keywords = pinned((args, keywords))
        leaves, structure = jax.tree.flatten((args, keywords))
    static = tuple((i, leaf) for i, leaf in enumerate(leaves) if not _is_array(leaf))
    if not static:
        found = Partial(key_of(partial.func), *args, **keywords)
        if not _has_partials(structure):
            vars(found)[PLAIN] = True
        return found
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    return Partial(CallableKey(_Mixed(partial.func, structure, static)), arrays)


@functools.lru_cache(maxsize=MOST_REMEMBERED)
def _has_partials(structure: Any) -> bool:
    """Whether there is a Partial in a PyTreeDef: remembered, for a system asks at every query."""
    node = structure.node_data()
    is_one = node is not None and issubclass(node[0], Partial)
    return is_one or any(map(_has_partials, structure.children()))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, ARRAY_LIKE)


@dataclasses.dataclass(frozen=True, eq=False)
class _Mixed:
    """A function to which arrays and other things are bound; the arrays come as an argument."""

    function: Callable
    structure: Any  # a PyTreeDef of (args, keywords)
    static: tuple[tuple[int, Any], ...]  # (place among the leaves, what is no array)

    def __call__(self, arrays: list, *args: Any, **keywords: Any) -> Any:
        rest, static = iter(arrays), dict(self.static)
        places = range(len(arrays) + len(static))
        leaves = [static[place] if place in static else next(rest) for place in places]
        bound, named = jax.tree.unflatten(self.structure, leaves)
        return self.function(*bound, *args, **named, **keywords)
