"""Limits for the sizes of modules, classes and packages, so that each can be read at once; and unique names."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from statistics import median

import reconciler

PACKAGE = Path(reconciler.__file__).parent
MODULES = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
LINES_MAX = 400  # of one module
LINES_MEDIAN = 120
METHODS_MAX = 25  # of one class
MODULES_MAX = 20  # of one package


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_no_module_is_long() -> None:
    assert [path for path in MODULES if lines_of(path) > LINES_MAX] == []
    assert median(map(lines_of, MODULES)) <= LINES_MEDIAN


def test_no_class_has_many_methods() -> None:
    nodes = [node for path in MODULES for node in ast.walk(ast.parse(path.read_text()))]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    assert len(classes) > 100
    assert [node.name for node in classes if methods_of(node) > METHODS_MAX] == []


def methods_of(node: ast.ClassDef) -> int:
    return sum(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for one in node.body)


def test_no_package_has_many_modules() -> None:
    """The command line has one module for each command."""
    sizes = {path.parent.relative_to(PACKAGE): 0 for path in MODULES}
    for path in MODULES:
        sizes[path.parent.relative_to(PACKAGE)] += 1
    assert {name for name, count in sizes.items() if count > MODULES_MAX} <= {Path("cli")}


def test_no_two_public_classes_share_a_name() -> None:
    names = Counter(
        node.name
        for path in MODULES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []
