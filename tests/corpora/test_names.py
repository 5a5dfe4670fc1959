import importlib

import numpy as np
import pytest
import soundfile as sf

from shift_ser.corpora import CORPORA, check_corpus, corpus_info, find_corpus, load_corpus
from shift_ser.training.protocols import plan_folds

# Paths as real copies have them, each with the label and the speaker that it tells.
LAYOUTS = {
    "emo-db": {
        "wav/03a01Wa.wav": ("anger", "03"),
        "wav/16b10Tb.wav": ("sadness", "16"),
        "wav/08a02Na.wav": ("neutral", "08"),
    },
    "ravdess": {
        "Actor_12/03-01-05-01-02-01-12.wav": ("angry", "12"),
        "Actor_01/03-01-02-01-01-01-01.wav": ("calm", "01"),
        "Actor_02/03-01-01-01-01-02-02.wav": ("neutral", "02"),
    },
    "crema-d": {
        "AudioWAV/1087_IWL_ANG_XX.wav": ("anger", "1087"),
        "AudioWAV/1001_DFA_SAD_HI.wav": ("sad", "1001"),
        "AudioWAV/1040_ITH_SAD_X.wav": ("sad", "1040"),
    },
    "tess": {
        "OAF_Fear/OAF_lid_fear.wav": ("fear", "oa"),
        "YAF_pleasant_surprised/YAF_back_ps.wav": ("surprise", "ya"),
        "OAF_neutral/OA_bite_neutral.wav": ("neutral", "oa"),
    },
    "savee": {
        "AudioData/DC/a01.wav": ("anger", "dc"),
        "AudioData/KL/sa15.wav": ("sadness", "kl"),
        "AudioData/JE/su02.wav": ("surprise", "je"),
        "AudioData/DC/n30.wav": ("neutral", "dc"),
        "AudioData/KL/a01.wav": ("anger", "kl"),
    },
    "esd": {
        "0011/Angry/train/0011_000351.wav": ("angry", "0011"),
        "0001/Surprise/0001_001401.wav": ("surprise", "0001"),
        "0020/Neutral/0020_000001.wav": ("neutral", "0020"),
    },
    "emovo": {
        "f2/gio-f2-b2.wav": ("joy", "f2"),
        "m1/tri-m1-l4.wav": ("sadness", "m1"),
        "m3/neu-m3-d1.wav": ("neutral", "m3"),
    },
    "cafe": {
        "Peur/Fort/12-P-2-5.wav": ("fear", "12"),
        "Neutre/01-N-1-1.wav": ("neutral", "01"),
        "03-T-1-6.wav": ("sadness", "03"),
    },
    "emov-db": {
        "jenie_Amused/amused_57-84_0057.wav": ("amused", "jenie"),
        "sam/Disgust/disgust_1-28_0001.wav": ("disgusted", "sam"),
        "bea_Sleepy/sleepiness_1-28_0001.wav": ("sleepy", "bea"),
    },
    "shemo": {
        "female/F01A01.wav": ("anger", "f01"),
        "male/M12W03.wav": ("surprise", "m12"),
        "male/M12N03.wav": ("neutral", "m12"),
    },
    "urdu": {
        "Angry/SM1_F19_A019.wav": ("angry", "sm1"),
        "Sad/SF2_F3_S03.wav": ("sad", "sf2"),
        "Sad/SF3_F3_S03.wav": ("sad", "sf3"),
    },
    "subesco": {
        "F_10_FAHMEE_S_6_FEAR_5.wav": ("fear", "f_10"),
        "M_02_MAHFUJ_S_1_HAPPY_1.wav": ("happy", "m_02"),
        "M_03_SMSUJON_S_10_SAD_2.wav": ("sad", "m_03"),
    },
    "aesdd": {
        "anger/a03 (3).wav": ("anger", "3"),
        "sadness/s11 (12).wav": ("sadness", "12"),
        "fear/f01 (1).wav": ("fear", "1"),
    },
    "enterface": {
        "subject 1/anger/sentence 1/s1_an_1.wav": ("anger", "1"),
        "subject 11/fear/sentence 2/s12_fe_2.wav": ("fear", "11"),
        "subject 12/fear/sentence 2/s12_fe_2.wav": ("fear", "12"),
        "subject 16/surprise/sentence 3/s16_su_3avi.wav": ("surprise", "16"),
        "subject 3/happiness/sentence 5/s_3_ha_5.wav": ("happiness", "3"),
    },
    "jl-corpus": {
        "male2_concerned_6b_1.wav": ("concerned", "male2"),
        "female1_happy_1a_2.wav": ("happy", "female1"),
        "female2_angry_14b_2.wav": ("angry", "female2"),
    },
}
# Corpora with a table: its path and text, the recordings, and the label, speaker, and another column of each row read.
TABLES = {
    "msp-podcast": (
        "Labels/labels_concensus.csv",
        "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
        "MSP-PODCAST_0001_0008.wav,N,4.6,3.2,5.0,127,Female,Development\n"
        "MSP-PODCAST_0002_0033.wav,C,4.0,2.0,5.0,Unknown,Unknown,Test1\n"
        "MSP-PODCAST_0003_0001.wav,X,4.0,2.0,5.0,9,Male,Train\n"
        "MSP-PODCAST_0004_0001.wav,A,4.0,2.0,5.0,9,Male,Train\n"
        "MSP-PODCAST_0005_0001.wav,A,4.0,2.0,5.0,10,Male,Test2\n",
        [f"Audios/MSP-PODCAST_{name}.wav" for name in ("0001_0008", "0002_0033", "0004_0001")],
        {("neutral", "127", "validation"), ("contempt", "Unknown", "test"), ("anger", "9", "train")},
        "split",
    ),
    "msp-improv": (
        "Evaluation.txt",
        "UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:3.2; V:2.8; D:3.0 ; N:4.1;\n"
        "w1; Neutral; Neutral; A:3.000000; V:3.000000; D:3.000000; N:5.000000;\n\n"
        "UTD-IMPROV-S02H-M02-S-MF07.avi; H; A:3.2; V:nan; D:3.0 ; N:4.1;\n"
        "UTD-IMPROV-S02H-M02-S-MF08.avi; X; A:3.2; V:4.0; D:3.0 ; N:4.1;\n",
        ["session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav", "session2/S02H/S/MSP-IMPROV-S02H-M02-S-MF07.wav"],
        {("neutral", "F01", 2.8), ("happiness", "M02", None)},
        "valence",
    ),
    "emozionalmente": (
        "metadata/samples.csv",
        "id,file_name,actor,emotion_expressed,sentence\n1,a.wav,12,joy,Ciao.\n2,b.wav,13,neutrality,Sono le due.\n",
        ["audio/a.wav", "audio/b.wav"],
        {("joy", "12", "Ciao."), ("neutrality", "13", "Sono le due.")},
        "transcript",
    ),
}
WOMEN = {"08", "16", "12", "02", "oa", "ya", "f2", "jenie", "bea", "f01", "sf2", "sf3", "f_10", "female1", "female2"}


@pytest.fixture
def tree(tmp_path):
    def make(name):
        rng = np.random.default_rng(0)
        for path in LAYOUTS[name]:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            rate = importlib.import_module(f"shift_ser.corpora.{name.replace('-', '_')}").GRAMMAR.rate or 44100
            sf.write(tmp_path / path, 0.1 * rng.standard_normal(2400), rate)
            (tmp_path / path).with_name(f"._{path.rpartition('/')[2]}").touch()
        return tmp_path

    return make


def test_every_reader_of_names_has_a_layout():
    assert {*LAYOUTS, *TABLES, "meld", "iemocap", "synthetic"} == set(CORPORA)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_tree_in_the_real_layout_is_found_and_read(tree, name):
    root = tree(name)
    assert find_corpus(root) is CORPORA[name]
    assert [entry.name for entry in CORPORA.values() if entry.is_here(root)] == [name]
    dataset = load_corpus(root)
    names = dataset.features["label"].names
    found = {row["audio"]["path"].removeprefix(f"{root}/"): (names[row["label"]], row["speaker"]) for row in dataset}
    assert found == LAYOUTS[name]
    assert len(set(dataset["utterance"])) == len(dataset) == len(LAYOUTS[name])
    info = corpus_info(dataset)
    assert info == CORPORA[name].info and info.description == f"{info.title}: {', '.join(names)}."
    if "sex" in dataset.column_names:
        assert dataset["sex"] == ["female" if speaker in WOMEN else "male" for speaker in dataset["speaker"]]
    plans = plan_folds(dataset, protocol="authors", fold_unit="speaker")
    assert len(plans) == len(set(dataset["speaker"]))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_check_counts_against_the_published_corpus(tree, name):
    root = tree(name)
    report = check_corpus(name, root)
    assert report.ok and report.labels.total() == len(LAYOUTS[name])
    grammar = importlib.import_module(f"shift_ser.corpora.{name.replace('-', '_')}").GRAMMAR
    differs = "the counts are not the published ones (see the table)"
    assert report.notes == [differs if grammar.total else "the published counts are not known"]
    assert str(grammar.total) in str(report)
    assert not grammar.published or sum(grammar.published.values()) == grammar.total
    first = root / next(iter(LAYOUTS[name]))
    sf.write(first, np.zeros(960), 96000)
    (root / "unheard of.wav").write_bytes(b"")
    last = root / list(LAYOUTS[name])[-1]
    last.write_bytes(b"no audio")
    report = check_corpus(name, root)
    assert not report.ok and any("not audio" in problem for problem in report.problems)
    assert not grammar.rate or any(
        f"1 recording(s) are not at the published {grammar.rate} Hz" in note for note in report.notes
    )
    assert any("unheard of" in name for name in report.passed_over)


def test_subsets_of_ravdess(tree):
    root = tree("ravdess")
    sf.write(root / "Actor_01" / "03-02-03-01-01-01-01.wav", np.zeros(480), 48000)
    assert len(load_corpus(root)) == 3
    assert load_corpus(root, subset="song").features["label"].names == [
        "neutral",
        "calm",
        "happy",
        "sad",
        "angry",
        "fearful",
    ]
    merged = load_corpus(root, subset="speech_calm_as_neutral")
    assert [merged.features["label"].int2str(value) for value in merged["label"]] == ["neutral", "neutral", "angry"]
    assert corpus_info(merged).name == "ravdess" and "calm" not in corpus_info(merged).description
    assert len(load_corpus(root, subset="speech_without_calm")) == 2
    with pytest.raises(ValueError, match=r"subset of ravdess must be one of .*'speech', .*got 'opera'"):
        load_corpus(root, subset="opera")


def test_a_folder_without_such_names_is_refused(tmp_path):
    for read in (CORPORA["emo-db"].read, CORPORA["emo-db"].check):
        with pytest.raises(FileNotFoundError, match=r"root must hold EMO-DB, .* has no recording named as in it"):
            read(tmp_path)


@pytest.fixture
def listed(tmp_path):
    def make(name):
        table, text, recordings, *_ = TABLES[name]
        for path in (table, *recordings):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / table).write_text(text)
        for path in recordings:
            sf.write(tmp_path / path, np.zeros(1600), 16000)
        return tmp_path

    return make


@pytest.mark.parametrize("name", TABLES)
def test_a_corpus_with_a_table_is_found_and_read(listed, name):
    root = listed(name)
    *_, expected, column = TABLES[name]
    assert [entry.name for entry in CORPORA.values() if entry.is_here(root)] == [name]
    dataset = load_corpus(root)
    labels = dataset.features["label"].int2str(dataset["label"])
    assert set(zip(labels, dataset["speaker"], dataset[column], strict=True)) == expected
    assert all(row["audio"]["array"].shape == (1600,) for row in dataset)
    assert corpus_info(dataset) == CORPORA[name].info
    report = check_corpus(None, root)
    assert report.ok and report.labels.total() == len(expected)
    missing = root / TABLES[name][2][0]
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of {len(expected)} recordings are missing: .*{missing.stem}"):
        load_corpus(root)
    assert "1 recording(s) missing" in check_corpus(name, root).problems[0]


def test_a_table_without_a_column_is_told(listed):
    root = listed("emozionalmente")
    path = root / TABLES["emozionalmente"][0]
    path.write_text(path.read_text().replace("actor", "who"))
    with pytest.raises(ValueError, match=r"samples\.csv must have the column 'actor', it has id, file_name, who"):
        load_corpus(root)


def test_esd_by_language(tree):
    root = tree("esd")
    assert load_corpus(root, subset="english")["speaker"] == ["0011", "0020"]
    assert load_corpus(root, subset="mandarin")["speaker"] == ["0001"]


def test_the_sex_of_crema_d_s_actors(tree):
    root = tree("crema-d")
    assert "sex" not in load_corpus(root).column_names
    (root / "VideoDemographics.csv").write_text("ActorID,Age,Sex\n1001,51,Male\n1087,62,Male\n1040,42,Female\n")
    assert load_corpus(root)["sex"] == ["male", "female", "male"]
