"""Functions as pytrees, so that `jit` compiles again only when something they reach has changed.

Weights that are bound with `jax.tree_util.Partial(apply, weights)` are arguments of the compiled
program: they may change without a new compilation. For everything else that a function reaches,
`_callable_key` detects changes.

The three libraries do not import each other. Each has a copy of this file, and a test checks that
the copies are equal.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from cmag_jax._callable_key import CallableKey, key_of

ARRAY_LIKE = (
    *(jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic),
    *(bool, int, float, complex),
)
PLAIN = "plain"  # marks a pinned Partial that binds arrays only
MOST_REMEMBERED = 64  # inspected structures in the cache


def as_partial(function: Any, name: str = "function") -> Partial:
    """Returns the function as a pytree whose leaves are the arrays bound to it, such as weights.

    Apply `pinned` before you pass it to `jit`.

    Raises:
      ValueError: `function` can't be called. The message contains `name`.
    """
    if not callable(function):
        raise ValueError(f"expected {name} to be a function, got {function!r}")
    return function if isinstance(function, Partial) else Partial(function)


def pinned(tree: Any) -> Any:
    """Returns the pytree with every `Partial` keyed by what it reaches now.

    Bound arguments that are not arrays, such as activation functions among a module's weights,
    become part of the key. A pinned tree that has not changed is returned as it is.
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
    """Whether a PyTreeDef contains a Partial. Cached, because every query calls this."""
    node = structure.node_data()
    is_one = node is not None and issubclass(node[0], Partial)
    return is_one or any(map(_has_partials, structure.children()))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, ARRAY_LIKE)


@dataclasses.dataclass(frozen=True, eq=False)
class _Mixed:
    """A function with bound arrays and other bound values. The arrays are its first argument."""

    function: Callable
    structure: Any  # a PyTreeDef of (args, keywords)
    static: tuple[tuple[int, Any], ...]  # (index among the leaves, a value that is not an array)

    def __call__(self, arrays: list, *args: Any, **keywords: Any) -> Any:
        rest, static = iter(arrays), dict(self.static)
        places = range(len(arrays) + len(static))
        leaves = [static[place] if place in static else next(rest) for place in places]
        bound, named = jax.tree.unflatten(self.structure, leaves)
        return self.function(*bound, *args, **named, **keywords)
