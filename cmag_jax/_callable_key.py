"""Keys for callables that tell `jit` whether the callable has changed since its compilation.

`jit` compares functions by identity. A function that closes over a network keeps its
identity when the network's weights change, and the compiled program would use the old weights. So
a key compares a callable's code and everything that the code reaches: closures, defaults, the
globals it names, and the attributes of these objects. JAX arrays are immutable and are compared by
identity. NumPy arrays are compared by their contents. If a callable reaches something that can't
be inspected, its key equals no other key, and `jit` traces it again at each call.

The three libraries do not import each other. Each has a copy of this file, and a test checks that
the copies are equal.
"""

import builtins
import dataclasses
import functools
import hashlib
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import jax
import numpy as np

# Packages whose functions depend on their arguments only, and whose objects can be inspected.
TRUSTED = {
    *sys.stdlib_module_names,
    *("jax", "jaxlib", "numpy", "ml_dtypes", "flax", "optax", "chex", "dm_pix", "equinox"),
    *("attacks_jax", "cmag_jax", "spt_jax"),
}
# Packages whose objects are immutable, except objects that wrap a function.
IMMUTABLE_PACKAGES = ("jax", "jaxlib", "numpy", "ml_dtypes", "builtins")
# With these names a function can reach objects that its code does not name.
DYNAMIC = {"eval", "exec", "globals", "locals", "vars", "getattr", "__import__", "import_module"}
IMMUTABLE = (
    *(bool, int, str, bytes, type(None), type(Ellipsis), range, types.CodeType),
    jax.tree_util.PyTreeDef,
)
ARRAYS = ("ArrayImpl", "PRNGKeyArray")  # the immutable kinds of jax.Array
MOST_REACHED = 100_000  # objects; inspecting more takes longer than tracing
MOST_REMEMBERED = 64  # inspected callables in the cache
MISSING = object()


class CallableKey:
    """A callable that equals another if both have the same code and reach the same objects."""

    def __init__(self, function: Callable) -> None:
        self.function = function
        self._look = _Look()
        try:
            self._look.at(function)
            self._reached = tuple(self._look.found)
        except (_Unknown, RecursionError):
            self._look.checks = [lambda: False]
            self._reached = (_Same(object()),)  # equals no other key
        self._hash = hash(self._reached)

    def holds(self) -> bool:
        """Whether a second inspection would find the same."""
        return self._look.holds()

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self.function(*args, **keywords)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, CallableKey) and self._reached == other._reached

    def __repr__(self) -> str:
        return repr(self.function)


_remembered: dict[int, CallableKey] = {}  # id(function) -> its key, which keeps it alive


def key_of(function: Callable) -> CallableKey:
    """Returns the callable's key, from the cache if nothing has changed.

    A full inspection takes as long as running a small network. The checks take a tenth of that.
    """
    function = function.function if isinstance(function, CallableKey) else function
    last = _remembered.get(id(function))
    if last is not None and last.holds():
        return last
    fresh = CallableKey(function)
    if len(_remembered) >= MOST_REMEMBERED:
        _remembered.pop(next(iter(_remembered)), None)
    _remembered[id(function)] = fresh
    return fresh


class _Same:
    """Compares an object by identity, and keeps it alive."""

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __hash__(self) -> int:
        return id(self.thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing


class _Unknown(Exception):
    """An object can't be inspected."""


class _Look:
    """A walk through everything that a callable reaches.

    Two walks have equal `found` exactly if they met the same objects. `holds` is true as long as
    a new walk would find the same.
    """

    def __init__(self) -> None:
        self.found: list = []
        # What `holds` checks: (mapping, key, value), (container, its length), other checks.
        self.entries: list[tuple[Any, Any, Any]] = []
        self.lengths: list[tuple[Any, int]] = []
        self.checks: list[Callable[[], bool]] = []
        self._met: dict[int, tuple[int, Any]] = {}  # id -> (its number, the object to keep alive)

    def holds(self) -> bool:
        for mapping, key, value in self.entries:
            if mapping.get(key, MISSING) is not value:
                return False
        for container, length in self.lengths:
            if len(container) != length:
                return False
        return all(check() for check in self.checks)

    def at(self, thing: Any) -> None:
        if isinstance(thing, jax.core.Tracer) or len(self.found) > MOST_REACHED:
            raise _Unknown
        if type(thing) in IMMUTABLE:
            self.found.append((type(thing), thing))
        elif isinstance(thing, float | complex):
            self.found.append((type(thing), repr(thing)))  # repr: -0.0 differs from 0.0
        elif isinstance(thing, np.ndarray | np.generic):
            contents = _contents(thing)
            self.found.append(contents)
            self.checks.append(lambda: _contents(thing) == contents)
        elif isinstance(thing, jax.Array):
            if type(thing).__name__ not in ARRAYS:
                raise _Unknown
            self.found.append(_Same(thing))
        elif id(thing) in self._met:
            self.found.append(("met before", self._met[id(thing)][0]))
        else:
            self._met[id(thing)] = len(self._met), thing
            self._into(thing)

    def _into(self, thing: Any) -> None:
        if isinstance(thing, CallableKey):
            self.at(thing.function)
        elif isinstance(thing, types.FunctionType):
            self._function(thing)
        elif isinstance(thing, types.MethodType):
            self._all(thing.__func__, thing.__self__)
        elif isinstance(thing, functools.partial):
            self._all(thing.func, thing.args, thing.keywords)
        elif isinstance(thing, staticmethod | classmethod):
            self.at(thing.__func__)
        elif isinstance(thing, property):
            self._all(thing.fget)
        elif isinstance(thing, type):
            self._class(thing)
        elif isinstance(thing, weakref.ReferenceType):
            self._same(thing, thing())
        elif isinstance(thing, types.ModuleType | Enum):
            self.found.append(_Same(thing))
        elif isinstance(thing, dict | types.MappingProxyType):
            self._kind(thing)
            self._mapping(thing)
        elif isinstance(thing, list | tuple):
            self._kind(thing)
            self._sequence(thing)
        elif isinstance(thing, set | frozenset):
            if not all(type(element) in IMMUTABLE for element in thing):
                raise _Unknown
            elements = frozenset(thing)
            self.found.append((type(thing), elements))
            self.checks.append(lambda: thing == elements)
        else:
            self._object(thing)

    def _all(self, *things: Any) -> None:
        for thing in things:
            self.at(thing)

    def _same(self, read: Callable[[], Any], thing: Any) -> None:
        """Visits an object, and checks later that `read` still returns it."""
        self.checks.append(lambda: read() is thing)
        self.at(thing)

    def _entry(self, mapping: Any, key: Any) -> None:
        """Visits the value of a mapping at a key, and checks later that it is the same."""
        self.entries.append((mapping, key, mapping[key]))
        self.at(mapping[key])

    def _kind(self, container: Any) -> None:
        self.found.append(len(container))
        self.at(type(container))

    def _sequence(self, sequence: list | tuple) -> None:
        items = tuple(sequence)
        if isinstance(sequence, list):
            self.checks.append(
                lambda: (
                    len(sequence) == len(items)
                    and all(a is b for a, b in zip(sequence, items, strict=True))
                )
            )
        self._all(*items)

    def _mapping(self, mapping: Any) -> None:
        self.lengths.append((mapping, len(mapping)))
        for key in tuple(mapping):
            self.at(key)
            self._entry(mapping, key)

    def _function(self, function: types.FunctionType) -> None:
        self.at(function.__code__)
        for cell in function.__closure__ or ():
            self._same(functools.partial(_inside, cell), _inside(cell))
        if _is_trusted(function.__module__):
            return
        self._all(function.__defaults__, function.__kwdefaults__)
        for name in sorted(vars(function).keys() - {"__signature__"}):  # no effect on a call
            self._entry(vars(function), name)
        self.lengths.append((vars(function), len(vars(function))))
        names = set(_names(function.__code__))
        if names & DYNAMIC:
            raise _Unknown
        for name in sorted(names):
            if name in function.__globals__:
                self._named(function.__globals__, name, names)
            elif hasattr(builtins, name):
                self.entries.append((function.__globals__, name, MISSING))
            elif name in sys.modules:  # imported inside the function
                self._named(sys.modules, name, names)

    def _named(self, scope: dict[str, Any], name: str, names: set[str]) -> None:
        """Visits a global. For a module, visits only the attributes that the code may name."""
        thing = scope[name]
        known = id(thing) in self._met
        self.found.append(name)
        self._entry(scope, name)
        if isinstance(thing, types.ModuleType) and not known and not _is_trusted(thing.__name__):
            for inner in sorted(names & vars(thing).keys()):
                self._named(vars(thing), inner, names)

    def _class(self, kind: type) -> None:
        self.found.append(_Same(kind))
        for base in kind.__mro__:
            if not _is_trusted(base.__module__):
                for name, value in vars(base).items():
                    if _is_member(name, value):
                        self._entry(vars(base), name)

    def _object(self, thing: Any) -> None:
        package = (type(thing).__module__ or "").split(".")[0]
        if package == "builtins" and not (callable(thing) or type(thing) is object):
            raise _Unknown  # an iterator, for example
        if package in IMMUTABLE_PACKAGES:
            self.found.append(_Same(thing))
            owner = getattr(thing, "__self__", None)  # the object of a builtin method
            rules = [f for f in getattr(thing, "__dict__", {}).values() if callable(f)]
            self._all(getattr(thing, "__wrapped__", None), *rules)  # jit, custom_vjp
            self.at(None if isinstance(owner, types.ModuleType) else owner)
            return
        self.at(type(thing))
        attributes = dict(_attributes(thing))
        if not attributes and not (hasattr(thing, "__dict__") or hasattr(thing, "__slots__")):
            raise _Unknown
        own = getattr(thing, "__dict__", {})
        self.lengths.append((own, len(own)))
        for name, value in attributes.items():
            self.found.append(name)
            if name in own:
                self._entry(own, name)
            else:
                self._same(functools.partial(getattr, thing, name, MISSING), value)


def _inside(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return None


def _contents(array: Any) -> tuple:
    array = np.asarray(array)
    if array.dtype.hasobject:
        raise _Unknown
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
    return array.dtype.str, array.shape, digest


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yields the names and values of an object's attributes; for a Linen module, its options."""
    linen = any(base.__module__.startswith("flax.linen") for base in type(thing).__mro__)
    if linen and dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            if field.name not in ("parent", "name"):
                yield field.name, getattr(thing, field.name, None)
        return
    yield from getattr(thing, "__dict__", {}).items()
    for base in type(thing).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                name = f"_{base.__name__.lstrip('_')}{name}"
            if name not in ("__dict__", "__weakref__") and hasattr(thing, name):
                yield name, getattr(thing, name)


def _is_member(name: str, value: Any) -> bool:
    """Whether a class attribute may be called or read. Slot descriptors do not count."""
    slot = isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)
    if slot or name == "_abc_impl":
        return False
    runs = callable(value) or isinstance(value, property | staticmethod | classmethod)
    return runs or not name.startswith("__")


def _names(code: types.CodeType) -> Iterator[str]:
    """Yields the globals and attributes that a function and its inner functions name."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_trusted(module: str | None) -> bool:
    return (module or "").split(".")[0] in TRUSTED
