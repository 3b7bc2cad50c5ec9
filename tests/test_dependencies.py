"""What is imported is declared in pyproject.toml, in the right extra; the base install is light;
requirements.lock holds it all, exactly."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = {
    canonicalize_name(r.name): r
    for r in map(
        Requirement,
        re.findall(
            r"^[^#\s][^\\\n]*",
            "".join((ROOT / f"requirements{part}.lock").read_text() for part in ("", "-torch")),
            re.MULTILINE,
        ),
    )
}
FIRST_PARTY = {
    "nesf",
    "nesf_io",
    "nesf_cli",
    "nesf_build",
    "nesf_icsg3d",
    "nesf_design",
    "nesf_studies",
    "benchmarks",
    "robustness",
    "scripts",
    "workflow",
    "conftest",
    *(p.stem for p in (ROOT / "scripts").glob("*.py")),
}
WITH_TORCH = {"triton"}  # a CUDA build of torch brings it; without it nothing is compiled
# Folder, extras that it may import from anywhere, and extras that the named modules may import
# beyond these.
AREAS: list[tuple[str, set[str], dict[str, str]]] = [
    (
        "nesf",
        set(),
        {
            "data/files.py": "ase",
            "export.py": "ase",
            "featurizer.py": "sklearn",
        },
    ),
    ("nesf_io", set(), {"parsers.py": "ase", "readers.py": "ase"}),
    ("nesf_cli", set(), {"doctor.py": "completion"}),
    ("nesf_build", set(), {"materials_project.py": "materials-project"}),
    ("nesf_icsg3d", set(), {"segmentation.py": "icsg3d"}),
    ("nesf_design", {"design"}, {}),
    ("nesf_studies", {"book"}, {}),
    ("notebooks", {"book"}, {}),
    ("benchmarks", {"dev"}, {}),
    ("robustness", {"dev"}, {}),
    ("scripts", {"dev"}, {}),
    ("tests", {"dev"}, {}),
]
# imported when a command or method asks for them
NEED_EXTRAS = {"nesf.__main__", "nesf.featurizer", "nesf_icsg3d.segmentation"}
# declared in an extra, but dependencies of base packages as well
OF_BASE_TOO = {"requests", "monty", "packaging", "setuptools"}
CHILD = """
import importlib, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
for name in sys.argv[2].split(","):
    importlib.import_module(name)
"""


def declared(lines: list[str]) -> set[str]:
    """Names of the distributions in a list of requirements; `nesf[a,b]` stands for those extras."""
    names = set()
    for requirement in map(Requirement, lines):
        if requirement.name == "nesf":
            names |= {name for extra in requirement.extras for name in declared(EXTRAS[extra])}
        else:
            names.add(canonicalize_name(requirement.name))
    return names


BASE = declared(PROJECT["dependencies"])


def library_files() -> list[Path]:
    return [path for name in ("nesf", "nesf_io") for path in (ROOT / name).rglob("*.py")]


def imported(path: Path) -> Iterator[str]:
    """Top-level names of the third-party modules that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module]
        yield from (
            {module.partition(".")[0] for module in modules}
            - set(sys.stdlib_module_names)
            - FIRST_PARTY
        )


@pytest.mark.parametrize(
    ("folder", "extras", "beyond"), AREAS, ids=[folder for folder, *_ in AREAS]
)
def test_every_import_is_declared(folder: str, extras: set[str], beyond: dict[str, str]) -> None:
    distributions = packages_distributions()
    for path in sorted((ROOT / folder).rglob("*.py")):
        extra = beyond.get(path.relative_to(ROOT / folder).as_posix())
        allowed = BASE | {
            name for e in {*extras, *filter(None, [extra])} for name in declared(EXTRAS[e])
        }
        for module in imported(path):
            names = {canonicalize_name(name) for name in distributions.get(module, [])}
            assert module in WITH_TORCH or names & allowed, (
                f"{path.relative_to(ROOT)} imports {module}, which none of its dependencies declares"
            )


def test_base_holds_what_the_library_imports_and_no_more() -> None:
    distributions = packages_distributions()
    modules = {module for path in library_files() for module in imported(path)}
    used = {canonicalize_name(name) for module in modules for name in distributions.get(module, [])}
    assert BASE - used == set()


def test_the_library_is_imported_without_the_extras() -> None:
    extras = set().union(*map(declared, EXTRAS.values())) - BASE - OF_BASE_TOO
    hidden = {
        module
        for module, names in packages_distributions().items()
        if {canonicalize_name(n) for n in names} & extras
    }
    assert {"ase", "skimage", "sklearn", "umap", "mp_api"} <= hidden
    files = [path.relative_to(ROOT).with_suffix("") for path in library_files()]
    modules = {".".join(file.parts).removesuffix(".__init__") for file in files} - NEED_EXTRAS
    command = [sys.executable, "-c", CHILD, ",".join(sorted(hidden)), ",".join(sorted(modules))]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_lock_is_exact_and_portable() -> None:
    assert str(LOCK["torch"].specifier) == "==2.13.0"
    for requirement in LOCK.values():
        (version,) = requirement.specifier
        assert (
            version.operator == "==" and "+" not in version.version and requirement.url is None
        ), requirement
    # all of it but torch, whose build is the user's choice, and chgnet, which needs it, is checked against hashes
    entries = re.split(r"^(?=[^#\s])", (ROOT / "requirements.lock").read_text(), flags=re.M)[1:]
    assert len(entries) == len(LOCK) - 2 > 200
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.split()[0]
    assert "-r requirements.lock" in str(
        yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    )


def test_lock_holds_what_the_package_asks_for() -> None:
    requirements = [
        Requirement(text) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for text in lines
    ]
    for requirement in requirements:
        if requirement.name != "nesf":
            (pinned,) = LOCK[canonicalize_name(requirement.name)].specifier
            assert requirement.specifier.contains(pinned.version), requirement
