"""The package as it is installed: what a wheel holds, what an import costs, what must not be imported."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

MAPPED = ("passes", "costmodels")
#: Libraries djinn-fx can use or integrate with, and must do without.
OPTIONAL = (
    "transformers",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "torch_tensorrt",
    "lightning",
    "pytorch_lightning",
    "ray",
    "highspy",
    "ortools",
    "lz4",
    "zstandard",
    "kubernetes",
    "kopf",
    "prometheus_client",
)
HEAVY = ("torch", "numpy", "pydantic", "rich", "yaml", "platformdirs", "filelock", "safetensors")
GROUND = ("djinn_fx", "djinn_fx.errors", "djinn_fx.reasons", "djinn_fx.units", "djinn_fx.settings.table")
TORCH_FREE_ROOMS = ("hardware", "solvers")


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a new process, which finds the checkout in its working directory."""
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def imported_by(module: str, watched: tuple[str, ...], cwd: Path) -> list[str]:
    done = python(f"import sys, {module}; print(*(name for name in {watched!r} if name in sys.modules))", cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def module_names(folder: Path, package: str) -> list[str]:
    """The dotted name of every module in a source folder."""
    names = []
    for file in sorted(folder.rglob("*.py")):
        parts = [package, *file.relative_to(folder).with_suffix("").parts]
        names.append(".".join(parts).removesuffix(".__init__"))
    return names


class TestImport:
    def test_importing_the_package_is_cheap(self, repo: Path) -> None:
        assert imported_by("djinn_fx", HEAVY, repo) == []

    def test_what_only_some_settings_need_is_not_imported_to_compile_a_graph(self, repo: Path) -> None:
        rare = (
            "solvers.placement",
            "solvers.packing",
            "solvers.scheduling",
            "passes.placing.spread",
            "runtime.devices.make",
        )
        assert imported_by("djinn_fx.compiling.graph", tuple(f"djinn_fx.{name}" for name in rare), repo) == []

    def test_the_ground_and_the_solving_rooms_never_import_torch(self, repo: Path) -> None:
        names = list(GROUND)
        for room in TORCH_FREE_ROOMS:
            names += module_names(repo / "djinn_fx" / room, f"djinn_fx.{room}")
        assert imported_by(", ".join(names), ("torch",), repo) == []

    def test_everything_imports_without_any_optional_library(self, repo: Path) -> None:
        names = [
            name
            for folder, package in ((repo / "djinn_fx", "djinn_fx"), *((repo / m, f"djinn_fx.{m}") for m in MAPPED))
            for name in module_names(folder, package)
            if not name.endswith("__main__")
        ]
        code = f"""
import importlib, sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {OPTIONAL!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for name in {sorted(set(names))!r}:
    importlib.import_module(name)
"""
        done = python(code, repo)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("name", MAPPED)
    def test_a_mapped_package_has_one_name_only(self, repo: Path, name: str) -> None:
        done = python(f"import {name}", repo)
        assert f"ImportError: import this package as djinn_fx.{name}" in done.stderr

    @pytest.mark.parametrize("name", MAPPED)
    def test_the_checkout_has_a_relative_symlink_to_a_mapped_package(self, repo: Path, name: str) -> None:
        link = repo / "djinn_fx" / name
        assert link.is_symlink()
        assert os.readlink(link) == f"../{name}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the checkout, so that nothing is left behind in it."""
    root = Path(__file__).parent.parent
    copy = tmp_path_factory.mktemp("source") / "djinn-fx"
    copy.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("djinn_fx", *MAPPED):
        shutil.copytree(root / name, copy / name, symlinks=True, ignore=unwanted)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    built = python(f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})", copy)
    assert built.returncode == 0, built.stderr
    (path,) = out.glob("*.whl")
    return path


class TestWheel:
    def test_it_holds_every_module_once_and_as_a_file(self, wheel: Path, repo: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            files = [info.filename for info in archive.infolist() if info.filename.endswith(".py")]
            assert all(archive.read(name) or name.endswith("__init__.py") for name in files)
        assert not [name for name, count in Counter(files).items() if count > 1]
        expected = {f"djinn_fx/{file.relative_to(repo / 'djinn_fx')}" for file in (repo / "djinn_fx").rglob("*.py")}
        for name in MAPPED:
            expected |= {f"djinn_fx/{name}/{file.relative_to(repo / name)}" for file in (repo / name).rglob("*.py")}
        assert set(files) == expected

    def test_it_holds_the_data_files(self, wheel: Path, repo: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            held = set(archive.namelist())
        data = {f"djinn_fx/costmodels/data/{file.name}" for file in (repo / "costmodels" / "data").glob("*.*")}
        forms = repo / "djinn_fx" / "explain" / "forms"
        data |= {
            file.relative_to(repo).as_posix()
            for file in forms.rglob("*")
            if file.suffix in (".json", ".j2", ".css", ".js")
        }
        assert {"djinn_fx/py.typed", *data} <= held

    def test_torch_and_the_shell_find_their_entry_points(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            (path,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
            text = archive.read(path).decode()
        declared = configparser.ConfigParser()
        declared.read_string(text)
        assert dict(declared["torch_dynamo_backends"]) == {"djinn": "djinn_fx.backend:djinn"}
        assert dict(declared["console_scripts"]) == {"djinn": "djinn_fx.cli.main:main"}

    def test_its_version_is_the_packages(self, wheel: Path) -> None:
        import djinn_fx

        assert wheel.name.split("-")[1] == djinn_fx.__version__

    def test_the_runtime_needs_no_extra(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            (path,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
            lines = archive.read(path).decode().splitlines()
        required = {
            line.split(": ")[1] for line in lines if line.startswith("Requires-Dist") and "extra ==" not in line
        }
        assert {name.split("<")[0].split(">")[0] for name in required} == {
            "torch",
            "numpy",
            "pydantic",
            "rich",
            "pyyaml",
            "filelock",
            "platformdirs",
            "safetensors",
            "jinja2",
        }
