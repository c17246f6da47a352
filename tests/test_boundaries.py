"""The house's walls: libraries know neither each other nor the programs, and stay light."""

import ast
import subprocess
import sys
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
