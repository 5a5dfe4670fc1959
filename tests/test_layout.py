"""The house's rules that can be read off the files: who imports whom, what is exported, how long a file is."""

import ast
import sys
from pathlib import Path

import pytest

import shift_ser

PACKAGE = Path(shift_ser.__file__).parent
MODULES = {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}
# The files that travel with a model to the Hub.
TRAVELLING = {
    "temporal_shift", "saved_config", "configuration_shift_ser", "shift_blocks", "spec_augment", "padding_aware",
    "matrix_convolution", "loading", "modeling_shift_ser", "speech_input", "feature_extraction_shift_ser", "pipelines",
}  # fmt: skip
# Everything a module may take from its siblings; what is not named here is a leaf.
DIRECTION = {
    "__init__": {
        "audio", "configuration_shift_ser", "feature_extraction_shift_ser", "modeling_shift_ser", "pipelines",
        "saved_config", "temporal_shift",
    },
    "audio": {"speech_input"},
    "feature_extraction_shift_ser": {"speech_input"},
    "pipelines": {"speech_input"},
    "loading": {"configuration_shift_ser"},
    "configuration_shift_ser": {"saved_config", "temporal_shift"},
    "shift_blocks": {"temporal_shift"},
    "modeling_shift_ser": {
        "configuration_shift_ser", "loading", "matrix_convolution", "padding_aware", "pipelines", "saved_config",
        "shift_blocks", "spec_augment", "speech_input", "temporal_shift",
    },
    "convert_original_checkpoint": {
        "configuration_shift_ser", "feature_extraction_shift_ser", "modeling_shift_ser",
    },
    "iemocap_release": {"audio"},
    "iemocap_doctor": {"audio", "iemocap_release"},
    "iemocap": {"audio", "iemocap_doctor", "iemocap_release"},
    "synthetic_speech": {"espeak"},
    "synthetic_corpus": {"espeak", "iemocap_release", "synthetic_speech"},
    "folds": {"speech_input"},
    "calibration": {"report"},
    "uncertainty": {"summary"},
    "comparison": {"report", "uncertainty"},
    "arguments": {"configuration_shift_ser", "folds", "optimization"},
    "trainer": {"arguments", "batching", "optimization"},
    "frame_cache": {"frame_store", "matrix_convolution", "recordings"},
    "corpus": {
        "arguments", "audio", "feature_extraction_shift_ser", "frame_cache", "frame_store", "iemocap", "recordings",
    },
    "fold_run": {
        "arguments", "calibration", "checkpoints", "corpus", "data_collator", "folds", "metrics", "modeling_shift_ser",
        "report", "summary", "trainer",
    },
    "model_card": {"arguments", "model_card_text", "report", "summary"},
    "hub": {"arguments", "model_card", "report"},
    "inference": {"pipelines"},
    "score_file": {"inference"},
    "export_readme": {"feature_extraction_shift_ser", "modeling_shift_ser"},
    "export": {"export_readme", "feature_extraction_shift_ser", "modeling_shift_ser"},
    "training": set(MODULES) - {"__init__", "hub", "training"},
    "study_grid": {"arguments", "configuration_shift_ser", "iemocap_release", "temporal_shift", "training"},
    "study_table": {"comparison", "report", "study_grid", "summary", "uncertainty"},
    "study_figures": {"report", "study_grid"},
    "study": {
        "arguments", "data_collator", "memory", "mingling", "modeling_shift_ser", "report", "study_figures",
        "study_grid", "study_table", "training",
    },
}  # fmt: skip
STANDARD_AND = {"torch", "transformers", "huggingface_hub", "numpy"}


def parse(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(name: str) -> tuple[set[str], set[str]]:
    """Siblings, and top-level names of everything else, that a module imports anywhere in it."""
    siblings, others = set(), set()
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module, f"{name}: only `from .name import x` travels"
            siblings.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split(".")[0])
    return siblings, others


def optional_imports(name: str) -> set[str]:
    """soundfile and soxr, if a module tries to import them: loading remote code asks for all other imports."""
    tried = [node for block in parse(name).body if isinstance(block, ast.Try) for node in block.body]
    names = {alias.name for node in tried if isinstance(node, ast.Import) for alias in node.names}
    return names & {"soundfile", "soxr"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_in_one_direction(name):
    siblings, others = imports(name)
    assert "shift_ser" not in others, "absolute imports break remote code"
    assert siblings <= DIRECTION.get(name, set())


def test_direction_has_no_way_back():
    done = set()
    while len(done) < len(MODULES):
        ready = {name for name in MODULES if name not in done and imports(name)[0] <= done}
        assert ready, f"a circle among {sorted(set(MODULES) - done)}"
        done |= ready


@pytest.mark.parametrize("name", sorted(TRAVELLING))
def test_what_travels_to_the_hub_needs_little(name):
    siblings, others = imports(name)
    assert siblings <= TRAVELLING
    assert others - set(sys.stdlib_module_names) - optional_imports(name) <= STANDARD_AND
    for node in parse(name).body:
        doc = ast.get_docstring(node) if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else None
        assert "\nimport " not in f"\n{doc}" and "\nfrom ." not in f"\n{doc}"


def test_the_modeling_file_imports_each_sibling_itself():
    reached = set().union(*(imports(name)[0] for name in imports("modeling_shift_ser")[0]))
    assert reached <= imports("modeling_shift_ser")[0]


@pytest.mark.parametrize("name", MODULES)
def test_files_are_short_and_say_what_they_are(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) < 300
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
    assert calls(tree) == sum(calls(node) for node in tree.body if getattr(node, "name", "") == "main")


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
    ]
    assert all(hasattr(shift_ser, name) for name in shift_ser.__all__)
