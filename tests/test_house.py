"""The house's own rules: no circle of imports, no folder or file too large, no engine known by its name."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from djinn_fx.engines.registry import ENGINES
from djinn_fx.settings.engines import TRAITS
from djinn_fx.settings.table import ENGINE_NAMES

#: Python files a folder of the product may hold, besides its ``__init__``; operator converters are one idea.
MOST_FILES, MOST_ROOT, MOST_LINES = 12, 10, 400
CONVERTERS = ("djinn_fx/engines/onnx/converters",)
PRODUCT = ("djinn_fx", "passes", "costmodels")


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """By module: those that it imports, at its top or inside functions."""
    grimp = pytest.importorskip("grimp")  # comes with import-linter
    graph = grimp.build_graph("djinn_fx", exclude_type_checking_imports=False, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one module."""
    order: list[str] = []
    seen: set[str] = set()
    for start in sorted(imports):
        if start not in seen:
            walk(start, imports, seen, order)
    importers: dict[str, set[str]] = {module: set() for module in imports}
    for module, imported in imports.items():
        for one in imported:
            importers[one].add(module)
    seen, found = set(), []
    for start in reversed(order):
        if start not in seen:
            component: list[str] = []
            walk(start, importers, seen, component)
            if len(component) > 1:
                found.append(set(component))
    return found


def walk(start: str, edges: dict[str, set[str]], seen: set[str], order: list[str]) -> None:
    """Depth first; a module enters ``order`` when all that follows from it has."""
    seen.add(start)
    stack = [(start, iter(sorted(edges[start])))]
    while stack:
        module, following = stack[-1]
        for one in following:
            if one not in seen:
                seen.add(one)
                stack.append((one, iter(sorted(edges[one]))))
                break
        else:
            stack.pop()
            order.append(module)


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [{"b", "c"}]


def test_no_module_imports_itself_by_way_of_others(imports: dict[str, set[str]]) -> None:
    assert len(imports) > 300
    assert circles(imports) == []


def test_no_folder_holds_more_than_a_dozen_files(repo: Path) -> None:
    folders = Counter(path.parent.relative_to(repo).as_posix() for path in files(repo) if path.name != "__init__.py")
    assert folders.pop("djinn_fx") <= MOST_ROOT
    assert {name: count for name, count in folders.items() if count > MOST_FILES and name not in CONVERTERS} == {}


def test_no_file_is_longer_than_a_reader_bears(repo: Path) -> None:
    lengths = {path.relative_to(repo).as_posix(): len(path.read_text("utf-8").splitlines()) for path in files(repo)}
    assert {name: count for name, count in lengths.items() if count > MOST_LINES} == {}


def files(repo: Path) -> list[Path]:
    """The product's Python files, each once: djinn_fx/passes and djinn_fx/costmodels are symbolic links."""
    found = [path for room in PRODUCT for path in (repo / room).rglob("*.py")]
    mapped = {repo / "djinn_fx" / room for room in PRODUCT}
    return [path for path in found if mapped.isdisjoint(path.parents)]


# -- engines -----------------------------------------------------------------------------------------------------------

#: Where engines may be named: where they are listed, and in what only one or two of them use.
AT_HOME = re.compile(
    r"djinn_fx/(settings/|engines/(registry|eager)\.py|engines/(onnx|onnxruntime|openvino|packed|inductor|tensorrt)/)"
)
#: Words that are an engine's name and mean something else: torch's own compiler, TensorRT's library.
OTHERS = {("djinn_fx/compiling/training/partition.py", "inductor"), ("djinn_fx/cli/build.py", "tensorrt")}


def literals(path: Path) -> set[str]:
    """The texts in a file's code, docstrings aside."""
    tree = ast.parse(path.read_text("utf-8"))
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in told)
    return {node.value for node in constants if isinstance(node.value, str)}


def test_no_engine_is_named_outside_its_home(repo: Path) -> None:
    found = {
        (name, text)
        for path in files(repo)
        if not AT_HOME.match(name := path.relative_to(repo).as_posix())
        for text in literals(path) & set(TRAITS)
    }
    assert found <= OTHERS


#: What an engine may import of the folders beside its own.
SHARED = {"bound", "lowering", "onnx", "ranges"}
ALSO = {"packed": {"inductor"}}


def test_engines_know_nothing_of_each_other(imports: dict[str, set[str]]) -> None:
    def folder(module: str) -> str:
        parts = module.split(".")
        return parts[2] if module.startswith("djinn_fx.engines.") and len(parts) > 3 else ""

    for engine in ("inductor", "onnxruntime", "openvino", "packed", "tensorrt"):
        own = [module for module in imports if folder(module) == engine]
        assert own, engine
        others = {folder(one) for module in own for one in imports[module]} - {"", engine}
        assert others <= SHARED | ALSO.get(engine, set()), engine


def test_every_engine_has_traits() -> None:
    assert set(ENGINES) == set(TRAITS) == set(ENGINE_NAMES)


def test_nobody_asks_an_engine_or_a_runner_by_getattr(repo: Path) -> None:
    asked = re.compile(r"engine|run\b|runner|entrant|loaded|reference")
    found = []
    for room in ("dispatch", "guard", "saved", "compiling", "runtime"):
        for path in sorted((repo / "djinn_fx" / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr" and len(node.args) == 3:
                    subject = ast.unparse(node.args[0])
                    found += [f"{path.name}: {ast.unparse(node)}"] if asked.search(subject) else []
    assert found == []


# -- the map -----------------------------------------------------------------------------------------------------------


def test_the_map_leads_to_files_that_are_there(repo: Path) -> None:
    page = (repo / "docs" / "architecture.md").read_text("utf-8")
    part = page.split("## I want to change")[1].split("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ")]
    paths = [path for row in rows[2:] for path in re.findall(r"`([\w/.]+/[\w.]+)`", row.split("|")[2])]
    assert len(rows) - 2 >= 25
    assert len(paths) >= len(rows) - 2
    assert [path for path in paths if not (repo / path).exists()] == []
