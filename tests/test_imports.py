"""What may import what: importing the package starts nothing, and vLLM and Ray stay in their rooms."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / "v2flow_engine"
PLUGINS = ROOT / "plugins"
SOURCES = sorted([*ENGINE.rglob("*.py"), *PLUGINS.rglob("*.py")])
HOMES = {
    "vllm": (ENGINE / "generation", PLUGINS),
    "ray": (ENGINE / "offline", ENGINE / "serving"),
}
# A folder imports from its own rank or below. Files beside the folders (config, ...) serve them all.
RANKS = {
    "models": 0,
    "flow": 1,
    "decoding": 2,
    "generation": 3,
    "offline": 4,
    "serving": 4,
    "training": 4,
    "evaluation": 4,
    "converting": 5,
    "tokenizing": 5,
    "planning": 5,
}
IMPORT_ALL = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(loaded & {"vllm", "ray"})))
"""


def relative(path: Path) -> str:
    """A path as the repository names it."""
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    """A source file, parsed."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(nodes_of: Callable[[ast.AST], Iterator[ast.AST]]) -> Iterator[tuple[Path, int, str]]:
    """(file, line, dotted module name) of every import statement among the chosen nodes of all sources."""
    for path in SOURCES:
        for node in nodes_of(tree_of(path)):
            if isinstance(node, ast.Import):
                yield from ((path, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                yield path, node.lineno, node.module


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below that are executed on import: no function bodies, no `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from run_at_import(child)


def modules() -> list[str]:
    """Dotted names of the engine's modules, and of the plugin's package."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ENGINE.rglob("*.py")]
    return [name.removesuffix(".__init__") for name in sorted(names)] + ["v2flow_vllm"]


def test_importing_everything_loads_neither_vllm_nor_ray() -> None:
    command = [sys.executable, "-c", IMPORT_ALL, json.dumps(modules())]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []


def test_importing_the_package_alone_does_not_load_torch() -> None:
    code = "import sys, v2flow_engine, v2flow_engine.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_vllm_and_ray_stay_in_their_rooms() -> None:
    found = []
    assert HOMES.keys() <= {name.partition(".")[0] for _, _, name in imports(ast.walk)}
    for path, line, name in imports(ast.walk):
        homes = HOMES.get(name.partition(".")[0])
        if homes is not None and not any(home in path.parents for home in homes):
            found.append(f"{relative(path)}:{line} imports {name}")
    assert found == []


def test_vllm_and_ray_are_imported_lazily() -> None:
    """The plugin's models subclass vLLM's, and vLLM imports them by name: there only `__init__.py` has to be lazy."""
    found = [
        f"{relative(path)}:{line} imports {name} on import"
        for path, line, name in imports(run_at_import)
        if (ENGINE in path.parents or path.name == "__init__.py") and name.partition(".")[0] in HOMES
    ]
    assert found == []


def test_imports_point_one_way() -> None:
    found = []
    for path, line, name in imports(ast.walk):
        own, other = path.relative_to(ROOT).parts[1], name.split(".")
        if own not in RANKS or other[0] != "v2flow_engine" or len(other) == 1:
            continue
        if other[1] in ("cli", "info") or RANKS.get(other[1], 0) > RANKS[own]:
            found.append(f"{relative(path)}:{line} imports {name}")
    assert found == []


def test_every_folder_of_modules_is_a_package() -> None:
    """A folder without `__init__.py` would be missing from a regular install."""
    folders = {path.parent for path in SOURCES}
    missing = [relative(folder) for folder in folders if not (folder / "__init__.py").is_file()]
    assert missing == []
    assert not (PLUGINS / "__init__.py").exists()
