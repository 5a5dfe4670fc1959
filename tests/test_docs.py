"""README and docs: their links lead somewhere, their commands exist, their Python runs."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import speech_batch, tiny_model

from shift_ser.cli import cli
from shift_ser.corpora import corpora_table
from shift_ser.model import heads
from shift_ser.recipes import find_recipe, find_study

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def test_the_table_of_corpora_is_that_of_the_readers():
    assert (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8").endswith(f"\n\n{corpora_table()}\n")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    for command, word in re.findall(r"shift-ser (?!loads|alone)([a-z]+) ?([\w/.]*)", text):
        assert command in cli.commands, command
        if command == "train" and word.isidentifier() and word.islower():
            assert find_recipe(word).is_file()
        if command == "study" and word.isidentifier() and word.islower():
            assert find_study(word).is_file()


def test_the_python_of_the_readme_runs(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0].output_dir / "fold1", "runs/demo/fold1")
    sf.write("speech.wav", np.random.default_rng(0).normal(0, 0.1, 8000), 8000)
    (program,) = blocks(ROOT / "README.md", "python")
    exec(program, {})
    assert capsys.readouterr().out.startswith("speech.wav ")


def test_the_head_of_the_page_on_extending_is_one(capsys):
    known = dict(heads.HEADS)
    (program,) = blocks(ROOT / "docs" / "extend.md", "python")
    try:
        exec(program, {})
        padded = tiny_model("shiftgated")(*speech_batch((4000, 2500))).logits
    finally:
        heads.HEADS.pop("gated", None)
    assert capsys.readouterr().out == "[0, 1]\n" and padded.shape == (2, 4) and known == heads.HEADS
