"""Packaging: metadata, extras, entry points, and the two packages that live beside djinn_fx (passes, costmodels)."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
#: Top-level folders that are packages of djinn_fx. djinn_fx/<name> is a symlink to each, for tools on a bare checkout.
MAPPED = ("passes", "costmodels")


def read_version() -> str:
    """The version in djinn_fx/version.py, read as text: importing it would need the package to be installable."""
    match = re.search(r'^VERSION = "([^"]+)"$', (HERE / "djinn_fx" / "version.py").read_text("utf-8"), re.M)
    if match is None:
        raise RuntimeError('djinn_fx/version.py has no line VERSION = "..."')
    return match[1]


def all_packages() -> list[str]:
    """Every package once: find_packages follows the symlinks, so the mapped names are taken from their real place."""
    followed = [name for mapped in MAPPED for name in (f"djinn_fx.{mapped}", f"djinn_fx.{mapped}.*")]
    packages = find_packages(str(HERE), include=["djinn_fx", "djinn_fx.*"], exclude=followed)
    for mapped in MAPPED:
        packages += [f"djinn_fx.{name}" for name in find_packages(str(HERE), include=[mapped, f"{mapped}.*"])]
    return packages


TRANSFORMERS = ["transformers>=4.56"]
# Bounds of the engines' libraries are what was tried: `make test-oldest` and `make test-newest`. A release that was not
# may have moved what is called. oldest.txt and djinn_fx/engines/onnx/serving/trial.py name the same versions.
ONNX = "onnx>=1.23,<1.24"
# The TensorRT that builds plans without a GPU; data-centre TensorRT ("tensorrt", from NVIDIA's index) is found too.
TENSORRT = [
    "tensorrt-rtx>=1.7.1.116,<1.8; sys_platform == 'linux' and platform_machine == 'x86_64'",
    ONNX,
]
ONNXRUNTIME = ["onnxruntime>=1.31,<1.33; python_version >= '3.11'", ONNX]
OPENVINO = ["openvino>=2026.4,<2026.5", ONNX]
# Runs regions on workers (docs/remote_workers.md): its core alone, no dashboard.
RAY = ["ray>=2.60,<2.61"]
# Codecs for tensors that travel over slow links.
WIRE = ["lz4>=4.3", "zstandard>=0.22"]
# Builds the pages into a site, strictly. (MkDocs still stands at 1.6.1, of 2024.)
DOCS = [f"{name}; python_version >= '3.11'" for name in ("sphinx>=8.2", "myst-parser>=4", "furo>=2024.8")]
TEST = [
    *TRANSFORMERS,
    *TENSORRT,
    *ONNXRUNTIME,
    *OPENVINO,
    *RAY,
    *DOCS,
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "expecttest>=0.2",
    "jsonschema>=4.20",
    "setuptools>=77,<82",  # torch 2.11 has that bound too
]
DEV = [*TEST, "ruff>=0.12", "mypy>=1.15", "import-linter>=2.3", "types-PyYAML"]

setup(
    name="djinn-fx",
    version=read_version(),
    description="A torch.compile backend that compiles each distinct part of a model once and says why",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=all_packages(),
    package_dir={f"djinn_fx.{name}": name for name in MAPPED},
    package_data={
        "djinn_fx": ["py.typed"],
        "djinn_fx.costmodels": ["data/*"],
        "djinn_fx.deploy.telling": ["*.schema.json"],
        "djinn_fx.explain.forms": ["schema.json"],
        "djinn_fx.explain.forms.html": ["page.*"],
    },
    include_package_data=False,
    zip_safe=False,
    install_requires=[
        "torch>=2.11,<2.16",
        "numpy",
        "pydantic>=2",
        "rich",
        "pyyaml",
        "filelock",
        "platformdirs",
        "safetensors",
        "jinja2",  # a dependency of torch's too
    ],
    extras_require={
        "transformers": TRANSFORMERS,
        "test": TEST,
        "dev": DEV,
        "docs": DOCS,
        # What stands beside djinn in benches, and nowhere else: Accelerate's disk offload, and torch.onnx.export.
        "bench": ["accelerate>=1.10", "onnxscript>=0.5", *ONNXRUNTIME, *OPENVINO],
        "tensorrt": TENSORRT,
        "openvino": OPENVINO,
        "onnxruntime": ONNXRUNTIME,
        "ray": RAY,
        # To deploy what `djinn deploy emit --ray-serve` writes: with a web server and its own clients of Google's.
        "serve": ["ray[serve]>=2.60,<2.61"],
        "wire": WIRE,
        # Bounds of placements that need not be contiguous, and proofs of deployments; everything works without.
        "solve": ["highspy>=1.11", "ortools>=9.12"],
    },
    entry_points={
        "torch_dynamo_backends": ["djinn = djinn_fx.backend:djinn"],
        "console_scripts": ["djinn = djinn_fx.cli.main:main"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Software Development :: Compilers",
        "Typing :: Typed",
    ],
)
