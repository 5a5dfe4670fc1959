"""README, CONTRIBUTING, docs and model cards: links lead somewhere, and every code block runs.

Python runs as it stands. Lines of the shell run in this process: `shift-ser` and its launches with a tiny encoder and
few epochs where they train; of studies and of `pip`, `make` and `python` lines only what they name is looked up. What
cannot run offline is marked in the page, `<!-- skip: next "needs IEMOCAP" -->`.
"""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path
from unittest import SkipTest
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import command_line, speech_batch, tiny_model
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

import shift_ser
from shift_ser.corpora import CORPORA, corpora_table
from shift_ser.model.heads import HEADS
from shift_ser.recipes import find_recipe, find_study
from shift_ser.training.cross_validation import CrossValidation
from shift_ser.training.protocols import PROTOCOLS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", ROOT / "benchmarks" / "README.md"]
PAGES += [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DEMO_CARD, *CARDS = sorted((ROOT / "model_cards").glob("*.md"), key=lambda card: "demo" not in card.stem)
TINY = ["--num_train_epochs", "1", "--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def folder(finished, encoder, small_corpus, tmp_path_factory):
    """What the pages' commands expect to find: runs, an encoder, recordings of one's own, corpora."""
    root, rng, rows = tmp_path_factory.mktemp("docs"), np.random.default_rng(0), []
    shutil.copytree(finished[0].output_dir, root / "runs" / "demo")
    (root / "encoder").symlink_to(encoder)
    (root / "IEMOCAP_full_release").symlink_to(small_corpus)
    shutil.copytree(small_corpus, root / "corpora" / "demo")
    for place in ("recordings", "call_centre"):
        (root / place).mkdir()
    for number in range(24):
        sound, who, label = rng.normal(0, 0.1, 3200), number % 4, number // 4 % 3
        sf.write(root / "recordings" / f"{number}.wav", sound, 8000)
        sf.write(root / "call_centre" / f"agent{who}_{('ang', 'sad')[label % 2]}_{number}.wav", sound, 16000)
        rows.append(
            {
                "path": f"recordings/{number}.wav",
                "emotion": ("angry", "bored", "content")[label],
                "who": f"speaker{who}",
            }
        )
    pd.DataFrame(rows).to_csv(root / "speech.csv", index=False)
    sf.write(root / "dialog.wav", rng.normal(0, 0.1, 48000), 16000)
    (root / "turns.rttm").write_text("SPEAKER dialog 1 0.5 1.5 <NA> <NA> anna <NA> <NA>\n")
    sf.write(root / "speech.wav", rng.normal(0, 0.1, 8000), 8000)
    return root


def shell(example):
    """Run each command of a block."""
    for line in example.parsed.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            run(words)


def run(words):
    """Run one command line, or look up what it names."""
    launched = {"shift_ser.cli", "examples/run_ser.py"} & set(words)
    if launched:
        after = words[words.index(*launched) + 1 :]
        words = ["shift-ser", *(after if "shift_ser.cli" in launched else ["train", *after])]
    if words[:2] == ["shift-ser", "study"]:
        assert find_study(words[2]).is_file(), words
    elif words[0] == "shift-ser":
        told = command_line(*words[1:], *smaller(words))
        assert told.exit_code == 0, (words, told.output)
    elif words[:2] == ["python", "-m"] and words[2] != "pip":
        assert importlib.util.find_spec(words[2]), words
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), words
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.M), words
    else:
        assert words[:2] == ["pip", "install"], words
        section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
        extras = re.findall(r"^(\w+) = \[", section.partition("\n[")[0], flags=re.M)
        for named in re.findall(r"\[(.*?)\]", " ".join(words)):
            assert set(named.split(",")) <= set(extras), words


def smaller(words):
    """Flags that make a training short, and let it use the tiny encoder."""
    if words[1] == "demo":
        return ["--num_utterances", "40", "--output_dir", "runs/shown", "--folds", "1", *TINY]
    if words[1] == "adapt":
        return ["--encoder", "encoder", "--num_units", "5", "--folds", "1", *TINY]
    if words[1] != "train":
        return []
    flags = [*TINY, "--encoder", "encoder", "--cache_dir", "frames", "--seed", "42"]
    recipe = "" if words[2].startswith("--") else find_recipe(words[2]).read_text()
    flags += ["--warmup_epochs", "0"] if "schedule:" in recipe or "--schedule" in words else []
    flags += [] if words[2] == "demo" or {"--folds", "--final"} & set(words) else ["--folds", "1"]
    flags += [] if "--corpus" in words else ["--corpus", "IEMOCAP_full_release"]
    if words[2] != "demo" and "--output_dir" not in words:  # a page may run a recipe twice, in its folder
        shutil.rmtree(Path("runs", words[2]), ignore_errors=True)
    return flags


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks for it
@pytest.mark.parametrize(
    "page",
    [*PAGES, DEMO_CARD, *(pytest.param(card, marks=pytest.mark.slow) for card in CARDS)],  # each card trains
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_block_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(CrossValidation, "_plot", lambda *_, **__: None)  # figures take as long as all the rest
    parsers = [PythonCodeBlockParser(), CodeBlockParser("bash", shell), SkipParser()]
    with patch.dict(HEADS), patch.dict(CORPORA), patch.dict(PROTOCOLS):  # a page may add to them
        for example in Sybil(parsers).parse(page).examples():
            try:
                example.evaluate()
            except SkipTest as skipped:
                assert str(skipped).startswith("needs "), skipped


def test_the_readme_is_short_and_stands_alone():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]+)\)", text)), "broken on a package index"


@pytest.mark.parametrize("page", [*PAGES, DEMO_CARD, *CARDS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. (?:auto)?\w+:: shift_ser\.(\w+)$", text, flags=re.M)
    assert sorted(named) == sorted({*shift_ser.__all__} - {"__version__"})


def test_the_head_of_the_page_on_extending_is_one(capsys):
    with patch.dict(HEADS):
        next(iter(Sybil([PythonCodeBlockParser()]).parse(ROOT / "docs" / "extend.md").examples())).evaluate()
        padded = tiny_model("shiftgated")(*speech_batch((4000, 2500))).logits
    assert capsys.readouterr().out == "[0, 1]\n" and padded.shape == (2, 4)


def test_the_table_of_corpora_is_that_of_the_readers():
    assert (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8").endswith(f"\n\n{corpora_table()}\n")
