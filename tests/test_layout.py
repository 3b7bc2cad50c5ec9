"""The layout that CONTRIBUTING draws is that of the tree: every module stands in it, and imports
only from lines above its own."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "nesf_io",
    "nesf",
    "nesf_build",
    "nesf_icsg3d",
    "nesf_design",
    "nesf_studies",
    "nesf_cli",
)
DOOR = "nesf.__main__"  # of torchrun: hands over to the command line
# at 100 columns; 400 and 60 at 150
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS = 540, 90, 8


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    files = {
        path: path.relative_to(ROOT).with_suffix("").parts
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    return {".".join(parts).removesuffix(".__init__"): path for path, parts in files.items()}


def imported(path: Path) -> set[str]:
    """Modules of our packages that a module imports anywhere in it, but for the sake of types
    alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_types = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"
    ]
    skipped = {id(inner) for node in only_types for inner in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}"
                if f"{node.module}.{alias.name}" in modules()
                else node.module
                for alias in node.names
            }
    # of the root only the version
    return {name for name in found if name.partition(".")[0] in PACKAGES} - {"nesf"}


def layout() -> list[str]:
    """Parts in the order of CONTRIBUTING: a module (`nesf.config`) or a package of several
    (`nesf.data`)."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.split("<!-- layout -->")[1].split("<!-- end of layout -->")[0]
    found, package = [], ""
    for indent, name in re.findall(r"^( *)([\w./]+) ", block, re.MULTILINE):
        package = package if indent else name.strip("/")
        if indent and package in PACKAGES:
            found.append(f"{package}.{name.removesuffix('.py').strip('/')}")
    return [name for name in found if not name.endswith(("__init__", ".schema"))]


def part_of(module: str, parts: list[str]) -> str:
    return next((part for part in parts if module == part or module.startswith(f"{part}.")), module)


def test_every_module_stands_in_the_layout_and_imports_only_from_above() -> None:
    parts = layout()
    assert len(set(parts)) == len(parts) > 30
    known = {part_of(name, parts) for name in modules() if name not in PACKAGES}
    assert known == set(parts)
    upwards = [
        f"{name} -> {target}"
        for name, path in modules().items()
        if name not in (*PACKAGES, DOOR)
        for target in imported(path)
        if target not in PACKAGES
        and parts.index(part_of(target, parts)) > parts.index(part_of(name, parts))
    ]
    assert not upwards


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: imported(path) & set(modules()) - {name} for name, path in modules().items()}
    while leaves := [name for name, targets in graph.items() if not targets & set(graph)]:
        for name in leaves:
            del graph[name]
    assert not graph


def test_the_library_never_imports_the_other_packages() -> None:
    found = [
        name
        for name, path in modules().items()
        if name.startswith(("nesf.", "nesf_io."))
        and name != DOOR
        and any(t.startswith(PACKAGES[2:]) for t in imported(path))
    ]
    assert not found


def test_the_library_stays_small() -> None:
    library = [path for name, path in modules().items() if name.startswith("nesf.")]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in library) < 10_000


@pytest.mark.parametrize("name", sorted(modules()))
def test_modules_and_functions_stay_small(name: str) -> None:
    text = modules()[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            a = node.args
            parameters = [
                x
                for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg)
                if x and x.arg not in ("self", "cls", "ctx")
            ]
            assert node.end_lineno and node.end_lineno - node.lineno < MOST_LINES_OF_A_FUNCTION, (
                node.name
            )
            assert len(parameters) <= MOST_PARAMETERS, node.name


def test_importing_the_package_loads_no_torch_and_the_names_resolve() -> None:
    code = "import sys, nesf; assert not {'torch', 'pymatgen', 'pandas'} & set(sys.modules); [getattr(nesf, name) for name in nesf.__all__]"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
