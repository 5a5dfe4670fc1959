import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import speech_batch
from huggingface_hub import HfApi, ModelCard
from loopback_hub import USER, LoopbackHub
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Trainer, TrainingArguments

from shift_ser.cli.training import same_command
from shift_ser.evaluation.report import summarise
from shift_ser.evaluation.run_folder import (
    CHECKSUMS,
    FOLD_RESULT,
    PLANS,
    PREDICTIONS,
    REPORT,
    SETTINGS,
    VALIDATION_PREDICTIONS,
    read_json,
    write_json,
)
from shift_ser.hub import push as hub_module
from shift_ser.hub.push import HubRepository, PushError, choose_fold, model_files, push_to_hub, stage_upload
from shift_ser.training.arguments import RunArguments
from shift_ser.training.saved_model import ENCODER_SHARD, HEAD_SHARD

# The Hub's client on its own HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
ROOT = Path(__file__).parents[2]
WEIGHTS = {ENCODER_SHARD, HEAD_SHARD}
UPLOADED = {"README.md", "config.json", "confusion.png", "preprocessor_config.json", "results.json", "results.md"}
UPLOADED |= {*WEIGHTS, "model.safetensors.index.json", "handler.py", "requirements.txt"}


@pytest.fixture
def online(monkeypatch, tmp_path):
    """Let this process's Hub client out to the loopback, without waiting between its retries and without a token."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub(online):
    with LoopbackHub() as server:
        yield server


@pytest.fixture
def run_dir(finished, tmp_path):
    """A copy of a finished run."""
    return Path(shutil.copytree(finished[0].output_dir, tmp_path / "run", ignore=shutil.ignore_patterns("hub*")))


def repository(hub, finished, *, token="hf_loopback", **options) -> HubRepository:
    run_args = RunArguments(use_cpu=True, push_to_hub=True, hub_token=token, **options)
    api = HfApi(endpoint=hub.url, token=token)
    return HubRepository(run_args, settings=finished[0].settings, corpus=finished[0].corpus.info, api=api)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("lfs", [(), (".safetensors", ".png")], ids=["plain", "lfs"])
def test_a_push_brings_model_code_card_results_and_figure_in_one_commit(hub, lfs, finished, run_dir):
    hub.lfs = lfs
    before = contents(run_dir)
    url = repository(hub, finished, hub_model_id="org/model").push(run_dir)
    assert url == f"{hub.url}/org/model"
    files = hub.files["org/model"]
    kept = {REPORT, PREDICTIONS, PLANS, SETTINGS}  # they name utterances of the corpus, or lie beside the results
    assert kept < set(before) and set(files) >= UPLOADED
    assert not {*kept, VALIDATION_PREDICTIONS, FOLD_RESULT} & {Path(name).name for name in files}
    code = set(files) - UPLOADED
    assert all(name.endswith(".py") for name in code)
    assert contents(run_dir / "hub") == files
    assert {name: data for name, data in contents(run_dir).items() if not name.startswith("hub/")} == before
    fold = choose_fold(finished[1])[0]["fold"]
    assert all(files[name] == before[f"fold{fold}/{name}"] for name in WEIGHTS)
    assert len(hub.objects) == (3 if lfs else 0)
    assert sum("/commit/" in request for request in hub.requests) == 1
    card = ModelCard(files["README.md"].decode())
    assert 'model="org/model"' in card.text and f"those of fold {fold}**" in card.text
    assert card.data.eval_results[0].metric_value == round(finished[1]["summary"]["test"]["wa"]["mean"], 4)


TOKEN = "hf_" + "aB3dE5fG" * 4
SECRETS = ("alice", "s3cret", TOKEN, "Ses01F_impro01_F000", "patients")


@pytest.mark.parametrize(
    "encoder_path", ["../../home/alice/enc", "~/alice/enc", r"C:\Users\alice\enc", "/home/alice/enc"]
)
def test_nothing_but_what_is_named_is_uploaded_and_nothing_of_this_machine_is_in_it(
    hub, finished, encoder, run_dir, tmp_path, encoder_path
):
    (tmp_path / "outside.txt").write_text("s3cret")
    fold = run_dir / f"fold{choose_fold(finished[1])[0]['fold']}"
    for folder in (run_dir, fold):
        for name in (".env", "notes.txt", "predictions.csv.bak", "secrets.py", "more/alice.txt", "x.safetensors"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(f"s3cret {TOKEN}")
        (folder / "linked.json").symlink_to(tmp_path / "outside.txt")
    (fold / "README.md").write_text("s3cret")
    results = read_json(run_dir / "results.json")
    results["settings"]["encoder"] = encoder_path
    results["settings"]["run_name"] = f"see /home/alice/notes, {TOKEN}"
    results["settings"]["speaker_regex"] = r"/home/alice/(\w+)"
    results["source"] = "/home/alice/patients/labels.csv"
    results["corpus"] |= {"name": "labels", "synthetic": False, "data": None, "homepage": "https://example.org/a/b"}
    reason = "FileNotFoundError: no such file: '/home/alice/patients/Ses01F_impro01_F000.wav'"
    seed = results["folds"][0]["seed"]
    results["missing"] = [{"fold": 5, "seed": seed, "reason": reason}, {"fold": 4, "seed": seed, "reason": "not run"}]
    results["summary"]["folds"] = 4
    (run_dir / CHECKSUMS).unlink()  # the change is meant
    write_json(run_dir / "results.json", results)
    repository(hub, finished, hub_model_id="org/model").push(run_dir)
    files = hub.files["org/model"]
    assert set(files) - UPLOADED == {path.name for path in fold.glob("*.py")} - {"secrets.py"}
    home = (encoder, encoder.parent, run_dir, ROOT, Path.home() / "x")
    for name, data in files.items():
        assert not [secret for secret in (*SECRETS, *map(str, home)) if secret.encode() in data], name
    card = files["README.md"].decode()
    assert "--corpus labels.csv" in card and "--encoder enc" in card and "(https://example.org/a/b)" in card
    assert "Missing: fold 5: FileNotFoundError\n" in files["results.md"].decode()
    assert "Missing: fold 4: not run" in card


@pytest.mark.parametrize("name", [ENCODER_SHARD, "config.json", "modeling_shift_ser.py", None])
def test_links_in_place_of_a_model_s_files_are_refused(finished, run_dir, tmp_path, name):
    fold = run_dir / f"fold{choose_fold(finished[1])[0]['fold']}"
    path = fold / name if name else fold
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"of the run, not a link"):
        stage_upload(run_dir, repo_id="me/model")
    assert not (run_dir / "hub").exists() and not list(run_dir.glob("*.part"))


@pytest.mark.parametrize("private", [True, False, None])
def test_a_repository_is_private_if_it_is_asked_to_be(hub, finished, run_dir, private):
    repository(hub, finished, hub_model_id="org/model", hub_private_repo=private).push(run_dir)
    assert hub.private["org/model"] is bool(private)


@pytest.mark.parametrize(
    "words",
    [["--hub_token", "s3cret"], ["--hub-token", "s3cret"], ["--hub_token=s3cret"], ["--hub-token=s3cret"],
     ["--hub_tok", "s3cret"], ["--hub-t=s3cret"], ["--note", TOKEN], [f"--run_name=a{TOKEN}"]],
)  # fmt: skip
def test_a_token_is_never_shown(words):
    shown = same_command(["demo", *words, "--hub_model_id", "me/model"])
    assert "s3cret" not in shown and TOKEN not in shown and "..." in shown
    assert shown.endswith("--hub_model_id me/model") and shown.startswith("shift-ser train demo --")


@pytest.mark.parametrize(
    ("request_", "status", "told"),
    [
        ("POST .*/commit/", 403, "403"),
        ("POST .*/commit/", 500, "500"),
        ("POST .*/commit/", None, "disconnected"),
        ("PUT /lfs/", None, "disconnected"),
        ("PUT /lfs/", 403, "403"),
        ("POST .*/batch", 503, "503"),
        ("POST /api/repos/create", 403, "403"),
    ],
)
def test_a_failed_upload_leaves_all_whole_and_the_next_call_goes_on(hub, finished, run_dir, request_, status, told):
    before = contents(run_dir)
    target = repository(hub, finished, hub_model_id="org/model")
    hub.fail(request_, status=status, times=30)  # more than the client's retries of three files
    with pytest.raises(PushError, match=rf"(?s)upload to 'org/model' failed: .*{told}.*The run is whole in .*again"):
        target.push(run_dir)
    assert not hub.files.get("org/model")
    assert {name: data for name, data in contents(run_dir).items() if not name.startswith("hub/")} == before
    hub.failures.clear()
    hub.requests.clear()
    sent = set(hub.objects)
    target.push(run_dir)
    assert set(hub.files["org/model"]) >= UPLOADED
    again = {request.split("/")[-1] for request in hub.requests if request.startswith("PUT")}
    assert not again & sent and again | sent == set(hub.objects)


def test_a_push_that_the_user_stops_tells_how_to_go_on(hub, finished, run_dir, monkeypatch):
    target = repository(hub, finished, hub_model_id="org/model")
    monkeypatch.setattr(target.api, "upload_folder", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(PushError, match=r"failed: KeyboardInterrupt\nThe run is whole in .*\. The same command again"):
        target.push(run_dir)


def test_a_second_push_sends_nothing(hub, finished, run_dir):
    target = repository(hub, finished)
    target.push(run_dir)
    head = dict(hub.heads)
    hub.requests.clear()
    target.push(run_dir)
    assert hub.heads == head
    assert not [request for request in hub.requests if request.startswith("PUT") or "/commit/" in request]


def test_an_interrupted_layout_leaves_the_last_one(finished, run_dir, monkeypatch):
    folder = stage_upload(run_dir, repo_id="me/model")
    before = contents(folder)
    monkeypatch.setattr(hub_module, "run_card", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        stage_upload(run_dir, repo_id="me/other")
    assert contents(folder) == before
    assert not list(run_dir.glob("hub.*"))


def test_the_repository_is_named_after_the_run_in_the_users_namespace(hub, finished, encoder):
    name = f"shiftformer-{encoder.name}-synthetic"
    assert repository(hub, finished).repo_id == f"{USER}/{name}"
    assert repository(hub, finished, hub_model_id="mine").repo_id == f"{USER}/mine"
    assert repository(hub, finished, hub_model_id="org/mine").repo_id == "org/mine"


def test_what_cannot_be_pushed_is_told_before_training(hub, finished, monkeypatch):
    with pytest.raises(ValueError, match="push_to_hub needs a token, got none: set HF_TOKEN"):
        repository(hub, finished, token=None)
    with pytest.raises(
        ValueError, match=r"push_to_hub needs a token that http://127\.0\.0\.1:\d+ knows, got Invalid user token"
    ):
        repository(hub, finished, token="hf_wrong")
    with pytest.raises(ValueError, match="Repo id must"):
        repository(hub, finished, hub_model_id="a/b/c")
    hub.fail("GET /api/whoami-v2", status=None)
    with pytest.raises(ValueError, match=r"push_to_hub needs the Hub, but http://127\.0\.0\.1:\d+ does not answer"):
        repository(hub, finished)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="push_to_hub needs the Hub, but HF_HUB_OFFLINE is set"):
        repository(hub, finished)
    assert not hub.files


def test_the_fold_that_stands_for_the_run_is_chosen_without_its_test_score(finished):
    results = finished[1]
    chosen, why = choose_fold(results)
    best = [result["validation"]["ua"] for result in results["folds"]]
    assert chosen["fold"] == 1 + int(np.argmax(best)) and f"{max(best):.2%}" in why
    swapped = [{**result, "test": {"wa": -result["test"]["wa"], "ua": 0.0}} for result in results["folds"]]
    again, same_why = choose_fold({**results, "folds": swapped})
    assert (again["fold"], same_why) == (chosen["fold"], why)
    authors = {**results, "folds": [{**result, "validation": None} for result in results["folds"][1:]]}
    assert choose_fold(authors)[0]["fold"] == 2 and "nothing was selected" in choose_fold(authors)[1]


def test_of_equal_folds_the_first_is_chosen_and_a_score_is_shown_as_its_tables_show_it():
    folds = [{"fold": fold, "validation": {"ccc": ccc}} for fold, ccc in ((1, 0.25), (2, 0.75), (3, 0.75))]
    told = choose_fold({"settings": {"selection_metric": "ccc"}, "folds": folds})
    assert told == (folds[1], ", which has the best CCC on its validation set (0.750)")


def test_the_code_of_a_model_is_found_also_where_it_names_a_repository(finished, run_dir):
    fold = run_dir / "fold1"
    files = model_files(fold)
    code = {path.name for path in files if path.suffix == ".py"}
    assert {"configuration_shift_ser.py", "modeling_shift_ser.py", "pipeline_shift_ser.py", "heads.py"} <= code
    for path in (fold / "config.json", fold / "preprocessor_config.json"):
        config = read_json(path)
        config["auto_map"] = {name: f"someone/model--{value}" for name, value in config["auto_map"].items()}
        config["auto_map"]["AutoTokenizer"] = [None, None]  # as transformers writes what there is none of
        (fold / CHECKSUMS).unlink(missing_ok=True)
        write_json(path, config)
    assert model_files(fold) == files


def test_folds_that_are_missing_are_counted_before_the_hub_is_asked(run_dir):
    results = read_json(run_dir / "results.json")
    (run_dir / CHECKSUMS).unlink()
    write_json(run_dir / "results.json", results | {"missing": [{"fold": 4}, {"fold": 5}]})
    with pytest.raises(ValueError, match="must hold a finished run, got 2 missing folds"):
        push_to_hub(run_dir)


def test_of_several_seeds_the_best_fold_s_folder_is_laid_out(finished, run_dir):
    results = read_json(run_dir / "results.json")
    seeded = [{**result, "seed": seed} for seed in (0, 1) for result in results["folds"]]
    seeded[7] = {**seeded[7], "validation": {"wa": 0.9, "ua": 2.0, "f1": 0.9}}
    summary = summarise(seeded, num_folds=10)
    settings = {**results["settings"], "seeds": [0, 1]}
    (run_dir / CHECKSUMS).unlink()  # the change is meant
    write_json(run_dir / "results.json", {**results, "folds": seeded, "settings": settings, "summary": summary})
    (run_dir / "seed1").mkdir()
    (run_dir / "fold3").rename(run_dir / "seed1" / "fold3")
    folder = stage_upload(run_dir, repo_id="me/model")
    assert (folder / HEAD_SHARD).read_bytes() == (run_dir / "seed1/fold3" / HEAD_SHARD).read_bytes()
    card = ModelCard((folder / "README.md").read_text(encoding="utf-8"))
    assert "those of fold 3 of seed 1**" in card.text and "Mean over seeds 0, 1" in card.text
    wa = card.data.eval_results[0]
    assert wa.metric_args["std_over_seeds"] == 0 and wa.metric_name == "WA, mean of 5 folds (test_blind)"


def test_a_run_of_some_folds_claims_no_result(hub, finished, run_dir):
    results = read_json(run_dir / "results.json")
    summary = {**results["summary"], "folds": 1}
    (run_dir / CHECKSUMS).unlink()  # the change is meant
    write_json(run_dir / "results.json", {**results, "folds": results["folds"][2:3], "summary": summary})
    card = ModelCard((stage_upload(run_dir, repo_id="me/part") / "README.md").read_text(encoding="utf-8"))
    assert card.data.eval_results is None
    assert "Only 1 of 5 folds are done" in card.text and "those of fold 3**" in card.text


def push_from_a_trainer(hub, folder, output_dir, monkeypatch) -> None:
    """The stock Trainer's own push of the model and feature extractor of a folder, to `org/trained`."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
    hub_options = {"push_to_hub": True, "hub_model_id": "org/trained", "hub_token": hub.token}
    args = TrainingArguments(str(output_dir), use_cpu=True, report_to=[], **hub_options)
    model = AutoModelForAudioClassification.from_pretrained(folder)
    Trainer(model, args, processing_class=AutoFeatureExtractor.from_pretrained(folder)).push_to_hub()
    assert set(hub.files["org/trained"]) >= {"model.safetensors", "config.json", "preprocessor_config.json"}


LOAD = """
import sys, json, re
sys.modules["shift_ser"] = None
import torch
from huggingface_hub import hf_hub_download
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

card = open(hf_hub_download("org/model", "README.md"), encoding="utf-8").read()
examples = re.findall("```python\\n(.*?)```", card, flags=re.DOTALL)[::-1]

speech = torch.load("speech.pt")
kinds, logits = [], []
for remote in (True, False):
    if not remote:
        del sys.modules["shift_ser"]
        import shift_ser
    for name in ("org/model", "org/trained"):
        model = AutoModelForAudioClassification.from_pretrained(name, trust_remote_code=remote)
        with torch.no_grad():
            logits.append(model(*speech).logits)
    AutoFeatureExtractor.from_pretrained("org/trained", trust_remote_code=remote)
    kinds.append(type(model).__module__)
    namespace = {}
    exec(examples.pop(0), namespace)  # the card's own lines
    kinds.append(namespace["classify"]("speech.wav"))
torch.save(logits, "logits.pt")
print(json.dumps(kinds))
"""


@pytest.mark.slow
def test_from_the_command_line_to_another_process(hub, finished, encoder, small_corpus, run_dir, tmp_path, monkeypatch):
    """The same command as the finished run's, with `--push_to_hub`: nothing is trained, the first try is refused."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        **{"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")},
        **{"HF_TOKEN": hub.token, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    }
    words = f"--encoder {encoder} --corpus {small_corpus} --output_dir {run_dir} --cache_dir {tmp_path / 'none'}"
    words += " --num_train_epochs 2 --learning_rate 1e-3 --per_device_train_batch_size 8"
    words += " --push_to_hub --hub_model_id org/model"
    command = [sys.executable, "examples/run_ser.py", *words.split()]
    settings = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 120}
    hub.fail("POST .*/commit/", status=403)
    refused = subprocess.run(command, **settings)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "Results, models and figures:" in refused.stdout and "Forbidden" in refused.stderr
    assert f"shift-ser train {words}" in refused.stderr
    assert not (tmp_path / "none").exists(), "frames were made: something was trained"

    repository(hub, finished, hub_model_id="org/model").push(run_dir)
    fold = choose_fold(finished[1])[0]["fold"]
    push_from_a_trainer(hub, run_dir / f"fold{fold}", tmp_path / "trainer", monkeypatch)
    speech = speech_batch([16000, 12000])
    torch.save(speech, tmp_path / "speech.pt")
    sf.write(tmp_path / "speech.wav", speech[0][0].numpy(), 22050)
    loaded = subprocess.run([sys.executable, "-c", LOAD], **{**settings, "cwd": tmp_path})
    assert loaded.returncode == 0, loaded.stderr
    remote, scores, ours, same_scores = json.loads(loaded.stdout.splitlines()[-1])
    assert remote.startswith("transformers_modules.") and ours == "shift_ser.model.modeling_shift_ser"
    assert scores == same_scores and sum(entry["score"] for entry in scores) == pytest.approx(1)
    model = AutoModelForAudioClassification.from_pretrained(run_dir / f"fold{fold}")
    with torch.no_grad():
        expected = model(*speech).logits
    found = torch.load(tmp_path / "logits.pt")
    assert len(found) == 4 and all(torch.equal(logits, expected) for logits in found)
