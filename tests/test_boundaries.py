"""The house's walls: libraries know neither each other nor the programs, and stay light."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = ("attacks_jax", "cmag_jax", "spt_jax")
LIGHT = {"jax", "flax", "optax", "dm_pix", "numpy"}
# What a program may use and a library may not, even through what it imports.
HEAVY = {
    "tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "tyro", "tqdm", "PIL", "torch",
    "foolbox", "jinja2", "pandas",
}  # fmt: skip


def imported(file: Path) -> set[str]:
    """Top-level names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_imports_itself_jax_s_stack_and_the_standard_library_only(library):
    files = list((ROOT / library).rglob("*.py"))
    assert files
    allowed = LIGHT | {library} | set(sys.stdlib_module_names)
    for file in files:
        assert imported(file) <= allowed, f"{file} imports {imported(file) - allowed}"


def rooms() -> set[str]:
    """The files and folders at the top of `experiments`."""
    top = (ROOT / "experiments").iterdir()
    return {p.stem for p in top if p.suffix == ".py" or (p / "__init__.py").exists()} - {"__init__"}


def arrows() -> set[tuple[str, str]]:
    """(room, another room that it imports), wherever in the file."""
    found = set()
    for file in (ROOT / "experiments").rglob("*.py"):
        room = file.relative_to(ROOT / "experiments").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "experiments":
                names = [alias.name for alias in node.names]
                others = node.module.split(".")[1:2] or names
                found |= {(room, other) for other in others if other != room}
    return {(room, other) for room, other in found if room != "__init__"}


def floors() -> list[set[str]]:
    """The drawing in CONTRIBUTING.md, from the top."""
    drawing = (ROOT / "CONTRIBUTING.md").read_text().split("```mermaid")[1].split("```")[0]
    return [set(label.split()) for label in re.findall(r'"(.+)"', drawing)]


def test_the_drawing_has_every_room_once():
    drawn = [room for floor in floors() for room in floor]
    assert sorted(drawn) == sorted(rooms())
    assert len(drawn) <= 16


def test_a_room_imports_only_from_floors_below_its_own():
    level = {room: i for i, floor in enumerate(floors()) for room in floor}
    assert arrows()
    upward = {(a, b) for a, b in arrows() if level[a] >= level[b]}
    assert not upward
    assert len(arrows()) <= 60


def test_importing_the_programs_starts_no_backend_and_sets_no_flags():
    modules = sorted(
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in (ROOT / "experiments").rglob("*.py")
        if "peers" not in file.parts  # they import torch
    )
    code = (
        "import importlib, os; before = dict(os.environ);"
        f"[importlib.import_module(name) for name in {modules!r}];"
        "from jax._src import xla_bridge;"
        "names = ('XLA_FLAGS', 'JAX_DEFAULT_MATMUL_PRECISION');"
        "print(xla_bridge.backends_are_initialized());"
        "print(all(os.environ.get(name) == before.get(name) for name in names))"
    )
    run = [sys.executable, "-c", code]
    printed = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.split("\n")[:2] == ["False", "True"]


def test_the_version_is_one_and_dir_shows_public_names_alone():
    import attacks_jax
    import cmag_jax
    import spt_jax

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for library in (attacks_jax, cmag_jax, spt_jax):
        assert library.__version__ == version
    modules = (cmag_jax.cmag, cmag_jax.magnet, cmag_jax.defense_gan, cmag_jax.feature_squeezing)
    for module in (attacks_jax, cmag_jax, spt_jax, *modules):
        shown = set(dir(module))
        assert shown == set(module.__all__) and all(hasattr(module, name) for name in shown)
        assert not shown & {"np", "jax", "jnp", "train", "look", "partial", "Any", "ready"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_importing_a_library_loads_nothing_heavy_and_sets_no_flags(library):
    code = (
        f"import os, sys; before = dict(os.environ); import {library};"
        f"loaded = {sorted(HEAVY | set(LIBRARIES) | {'experiments'})!r};"
        f"print([m for m in loaded if m in sys.modules and m != {library!r}]);"
        "print(os.environ.get('XLA_FLAGS') == before.get('XLA_FLAGS'))"
    )
    run = [sys.executable, "-c", code]
    printed = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.split("\n")[:2] == ["[]", "True"]


@pytest.mark.parametrize("folder", [*LIBRARIES, "experiments"])
def test_a_file_holds_one_idea(folder):
    """400 lines are two ideas."""
    for file in (ROOT / folder).rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 400, file


@pytest.mark.parametrize("folder", LIBRARIES)
def test_what_is_public_is_documented(folder):
    for file in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(file.read_text())
        assert ast.get_docstring(tree), file
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                small = file.name in ("_checks.py", "_base.py")
                assert ast.get_docstring(node) or small, f"{file}: {node.name}"
