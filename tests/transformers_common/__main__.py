"""Fetch the source distribution of the transformers that is installed, and run its common model tests over our models.

    python tests/transformers_common          # or: make check-transformers
    python tests/transformers_common -k cnn   # words are pytest's

The distribution goes to `build/`. Of its tests it holds the common ones; two mix-ins that they import and that concern
text generation and exporters are not in it, and stand empty.
"""

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MISSING = {"exporters/test_export.py": "ExportTesterMixin", "generation/test_utils.py": "GenerationTesterMixin"}


def fetch(name: str) -> Path:
    """The unpacked source distribution of a release, `transformers-1.2.3`; fetched if it is not there."""
    folder = ROOT / "build" / name
    if not folder.is_dir():
        place = ["--dest", str(ROOT / "build"), name.replace("-", "==")]
        options = ["--no-binary", ":all:", "--no-deps", "--no-build-isolation"]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options, *place], check=True)
        with tarfile.open(ROOT / "build" / f"{name}.tar.gz") as archive:
            archive.extractall(ROOT / "build", filter="data")
    for path, mixin in MISSING.items():
        target = folder / "tests" / path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"class {mixin}:\n    pass\n")
    return folder


if __name__ == "__main__":
    fetch(f"transformers-{version('transformers')}")
    options = [
        "-q",
        "-n",
        "0",
        "-o",
        "addopts=",
        "-o",
        "filterwarnings=default",
        "-p",
        "no:warnings",
        "-p",
        "no:cacheprovider",
    ]
    sys.exit(pytest.main([*options, str(Path(__file__).with_name("common.py")), *sys.argv[1:]]))
