"""What is known to be wrong with a corpus is read around, and told by its check."""

import numpy as np
import pytest
import soundfile as sf
from conftest import command_line
from media_files import media
from test_names import LAYOUTS, TABLES, listed, tree  # noqa: F401 (fixtures)

from shift_ser.corpora import CORPORA, check_corpus, corpora_table, load_corpus
from shift_ser.corpora.votes import read_votes
from shift_ser.training.protocols import plan_folds
from shift_ser.training.targets import Targets

FOLDERS = {"train": "train/train_splits", "dev": "dev/dev_splits_complete", "test": "test/output_repeated_splits_test"}
MELD = {  # part: dialog, utterance, speaker, emotion
    "train": [
        (0, 0, "Joey", "joy"),
        (0, 1, "Chandler", "neutral"),
        (125, 3, "Ross", "anger"),
        (309, 0, "Ross", "fear"),
    ],
    "dev": [(0, 0, "Monica", "sadness"), (1, 0, "Joey", "neutral"), (110, 7, "Phoebe", "disgust")],
    "test": [(0, 0, "Joey", "surprise"), (38, 4, "Rachel", "anger"), (220, 0, "Rachel", "anger")],
}


@pytest.fixture(scope="module")
def clip() -> bytes:
    return media("mp4", "aac", 16000, "mpeg4", seconds=0.3)


@pytest.fixture
def meld(tmp_path, clip):
    for part, rows in MELD.items():
        (tmp_path / FOLDERS[part]).mkdir(parents=True)
        lines = ["Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"]
        for number, (dialog, utterance, speaker, emotion) in enumerate(rows, 1):
            text = (
                f'{number},"Oh, my.",{speaker},{emotion},neutral,{dialog},{utterance},1,1,"00:00:01,000","00:00:02,000"'
            )
            lines.append(text)
            if (part, dialog) != ("dev", 110):
                (tmp_path / FOLDERS[part] / f"dia{dialog}_utt{utterance}.mp4").write_bytes(clip)
        table = tmp_path / ("train/" if part == "train" else "") / f"{part}_sent_emo.csv"
        table.write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / FOLDERS["test"] / "final_videos_testdia0_utt0.mp4").write_bytes(clip)
    return tmp_path


def test_meld_is_read_by_its_own_parts_without_the_clips_known_to_be_bad(meld):
    assert [entry.name for entry in CORPORA.values() if entry.is_here(meld)] == ["meld"]
    dataset = load_corpus(meld)
    expected = {("train/dia0_utt0", "Joey"), ("train/dia0_utt1", "Chandler"), ("validation/dia0_utt0", "Monica")}
    expected |= {("validation/dia1_utt0", "Joey"), ("test/dia0_utt0", "Joey")}
    found = {(row["utterance"].replace("dev/", "validation/"), row["speaker"]) for row in dataset}
    assert found == expected and set(dataset["split"]) == {"train", "validation", "test"}
    assert dataset[0]["audio"]["array"].ndim == 1 and dataset[0]["transcript"] == "Oh, my."
    with pytest.raises(ValueError, match="speaker 'Joey' is in both train and"):
        plan_folds(dataset, protocol="given")
    (plan,) = plan_folds(dataset, protocol="given", allow_shared_speakers=True)
    assert len(plan.train) == 2 and len(plan.test) == 1 and "speakers shared" in plan.test_group
    report = check_corpus("meld", meld)
    assert report.ok and sum(report.passed_over.values()) == 5
    assert "1 a clip of 305 s (test dia38_utt4)" in str(report) and "13703" in str(report)
    (meld / FOLDERS["train"] / "dia0_utt0.mp4").write_bytes(b"no video at all")
    assert "1 recording(s) not audio" in check_corpus("meld", meld).problems[0]


def test_enterface_s_videos_are_read_and_its_odd_files_go_to_the_right_person(tmp_path, clip):
    paths = ["subject 11/anger/sentence 1/s12_an_1.avi", "subject 12/anger/sentence 1/s12_an_1.avi"]
    paths += ["subject 3/fear/sentence 1/s_3_fe_1.avi", "subject 16/surprise/sentence 3/s16_su_3avi.avi"]
    paths += ["subject 6/sadness/s6_sa.avi"]
    content = media("avi", "pcm_s16le", 16000, "mpeg4", seconds=0.3)
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(content)
    dataset = load_corpus(tmp_path)
    assert sorted(dataset["speaker"]) == ["11", "12", "16", "3"] and len(set(dataset["utterance"])) == 4
    assert len(dataset[0]["audio"]["array"]) == pytest.approx(4800, abs=100)
    report = check_corpus(None, tmp_path)
    assert report.ok and report.passed_over["unsegmented sessions of subject 6 (no folder `sentence`)"] == 1


def votes_of(dataset):
    return {name: read_votes(votes) for name, votes in zip(dataset["utterance"], dataset["votes"], strict=True)}


def test_the_raters_of_msp_improv_vote_once_each(listed):  # noqa: F811
    root = listed("msp-improv")
    path = root / TABLES["msp-improv"][0]
    said = ("w1; Neutral; Sad", "w2; Angry; ", "w2; Happy; ", "w3; Other; Bored")
    raters = "".join(f"{words}; A:3; V:3; D:3; N:5;\n" for words in said)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], raters, *lines[2:]]))
    votes = votes_of(load_corpus(root))
    assert votes.pop("MSP-IMPROV-S01A-F01-P-FM01") == pytest.approx({"neutral": 1 / 3, "anger": 1 / 3, "other": 1 / 3})
    assert list(votes.values()) == [{}]  # nobody's votes stand below the other turn
    with pytest.raises(ValueError, match=r"votes must name one of .* in every row, 1 of 2 do not"):
        Targets(load_corpus(root), problem_type="soft_label_classification")
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("UTD-")))
    assert "votes" not in load_corpus(root).column_names


def test_the_raters_of_msp_podcast_vote_where_their_table_is(listed):  # noqa: F811
    root = listed("msp-podcast")
    assert "votes" not in load_corpus(root).column_names
    rows = [("0001_0008", "Neutral"), ("0001_0008", "Sad"), ("0001_0008", "N"), ("0001_0008", "Other-bored")]
    rows += [("0002_0033", "Contempt"), ("0004_0001", "Angry"), ("0004_0001", "Angry")]
    text = "".join(f"MSP-PODCAST_{name}.wav,w{number},{emotion},\n" for number, (name, emotion) in enumerate(rows))
    (root / "Labels" / "labels_detailed.csv").write_text(f"FileName,Worker,EmoClass_Major,EmoClass_Second\n{text}")
    dataset = load_corpus(root)
    assert votes_of(dataset) == {
        "MSP-PODCAST_0001_0008": {"neutral": 0.5, "sadness": 0.25, "other-bored": 0.25},
        "MSP-PODCAST_0002_0033": {"contempt": 1}, "MSP-PODCAST_0004_0001": {"anger": 1},
    }  # fmt: skip
    targets = Targets(dataset, problem_type="soft_label_classification")
    said = targets.of("MSP-PODCAST_0001_0008")
    assert dict(zip(targets.labels, said.round(4), strict=True))["sadness"] == pytest.approx(1 / 3, abs=1e-4)


def test_crema_d_as_it_was_heard(tree):  # noqa: F811
    root = tree("crema-d")
    with pytest.raises(FileNotFoundError, match=r"subset 'perceived' needs .*summaryTable\.csv"):
        load_corpus(root, subset="perceived")
    (root / "processedResults").mkdir()
    (root / "processedResults" / "summaryTable.csv").write_text(
        '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"\n'
        '"1","1087_IWL_ANG_XX","D","61","A","63","A","71"\n"2","1001_DFA_SAD_HI","N","50","S","63","S","71"\n'
        '"3","1040_ITH_SAD_X","N:S","50:48","S","63","S","71"\n'
    )
    heard = load_corpus(root, subset="perceived")
    labels = heard.features["label"].int2str(heard["label"])
    assert dict(zip(heard["utterance"], labels, strict=True)) == {
        "1087_IWL_ANG_XX": "disgust",
        "1001_DFA_SAD_HI": "neutral",
    }
    votes = ["localid,pos,clipNum,clipName,queryType,respEmo,dispEmo"]
    votes += [f"{number},1,7,1087_IWL_ANG_XX,1,{emotion},A" for number, emotion in enumerate("DDA")]
    votes += ["9,1,7,1087_IWL_ANG_XX,2,F,A", "9,2,8,1001_DFA_SAD_HI,1,N,S"]
    (root / "finishedResponses.csv").write_text("\n".join(votes))
    heard = load_corpus(root, subset="perceived")
    assert votes_of(heard) == {
        "1087_IWL_ANG_XX": pytest.approx({"anger": 1 / 3, "disgust": 2 / 3}),
        "1001_DFA_SAD_HI": {"neutral": 1},
    }
    joined = load_corpus(root, subset="perceived", labels={"upset": ["disgust"]})
    assert votes_of(joined)["1087_IWL_ANG_XX"] == pytest.approx({"anger": 1 / 3, "upset": 2 / 3})
    assert len(load_corpus(root)) == 3  # the intended labels


def esd_tables(root):
    (root / "0001" / "0001.txt").write_bytes("0001_001401\t打远一看\t惊喜\n".encode("gb18030"))
    (root / "0011" / "0011.txt").write_text("0011_000351\tClear.\tHappy\n", encoding="utf-16")


def crema_d_silence(root):
    sf.write(root / "AudioWAV" / "1076_MTI_SAD_XX.wav", np.zeros(16000), 16000)


def tess_rate(root):
    sf.write(root / "OAF_Fear" / "OAF_food_fear.wav", np.zeros(96000), 96000)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("tess", tess_rate, ["OAF_food_fear is at 96 kHz, the one such file of the published corpus"]),
        ("crema-d", crema_d_silence, ["1076_MTI_SAD_XX has no signal in any copy"]),
        (
            "esd",
            esd_tables,
            ["1 table(s) name the emotions in Chinese (0001.txt)", "1 recording(s) lie in the folder of"],
        ),
    ],
)
def test_the_check_tells_what_is_known_of_names(name, damage, told, tree):  # noqa: F811
    root = tree(name)
    before = check_corpus(name, root).notes
    damage(root)
    notes = check_corpus(name, root).notes
    for words in told:
        assert any(words in note for note in notes) and not any(words in note for note in before)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("msp-podcast", ["spelt labels_concensus.csv", "1 recording(s) of unknown speakers", "not read: 1 of test2"]),
        (
            "msp-improv",
            [
                "1 label line(s) have NaN",
                "1 turn(s) list a rater more than once: the first",
                "1 label line(s) are not",
            ],
        ),
    ],
)
def test_the_check_tells_what_is_known_of_tables(name, told, listed):  # noqa: F811
    root = listed(name)
    if name == "msp-improv":
        path = root / TABLES[name][0]
        path.write_text(path.read_text().replace("w1; N", "w1; A; A:3; V:3; D:3; N:5;\nw1; N") + "\nUTD-what; N;\n")
    report = check_corpus(name, root)
    assert report.ok and all(any(words in note for note in report.notes) for words in told), report.notes


def test_the_command_takes_the_name_of_a_corpus(tree):  # noqa: F811
    root = tree("tess")
    assert command_line("check", "tess", root).output == command_line("check", root).output
    told = command_line("check", "tes", root)
    assert told.exit_code == 2 and "NAME 'tes' is no known corpus; did you mean 'tess'?" in told.output
    wrong = command_line("check", "savee", root)
    assert wrong.exit_code == 1 and "root must hold SAVEE" in wrong.output
    assert set(LAYOUTS) < set(CORPORA) and "| MELD | `meld` | 13703 |" in corpora_table()
