import os
import shutil

import pytest
import torch
from conftest import speech_batch, tiny_model
from safetensors.torch import load_file, save_file

from shift_ser import ShiftForSequenceClassification
from shift_ser.evaluation.run_folder import read_json
from shift_ser.training import feature_cache
from shift_ser.training.saved_model import ENCODER_SHARD, HEAD_SHARD, save_model, share_shard


def answers(folder) -> torch.Tensor:
    speech, mask = speech_batch([4000, 3000])
    with torch.no_grad():
        return ShiftForSequenceClassification.from_pretrained(folder)(speech, attention_mask=mask).logits


def saved(folder, run, *, seed=0, **options):
    """A saved model of a frozen encoder that is the same for all seeds; only the head is another."""
    model = tiny_model(freeze_encoder=True, **options)
    with torch.no_grad():
        model.classifier.bias.add_(seed)
    save_model(model, folder, weights=model.state_dict(), run=run)
    return model


def places(*folders) -> list[int]:
    return [os.stat(folder / ENCODER_SHARD).st_ino for folder in folders]


def test_a_run_stores_its_frozen_encoder_once_and_each_folder_can_be_copied_out(finished, tmp_path):
    run, _ = finished
    folders = [fold.folder for fold in run.fold_runs]
    assert len(set(places(*folders))) == 1 and os.stat(folders[0] / ENCODER_SHARD).st_nlink >= 5
    copy = shutil.copytree(folders[1], tmp_path / "copy")
    assert places(copy) != places(folders[1])
    assert torch.equal(answers(copy), answers(folders[1]))
    assert not torch.equal(answers(copy), answers(folders[2]))


def test_shards_load_as_what_was_saved_and_hold_all_of_it_once(tmp_path):
    model = saved(tmp_path / "a", tmp_path)
    speech, mask = speech_batch([4000, 3000])
    with torch.no_grad():
        assert torch.equal(answers(tmp_path / "a"), model(speech, attention_mask=mask).logits)
    model.save_pretrained(tmp_path / "whole")
    sizes = [os.path.getsize(tmp_path / "a" / name) for name in (ENCODER_SHARD, HEAD_SHARD)]
    assert 0 <= sum(sizes) - os.path.getsize(tmp_path / "whole" / "model.safetensors") < 500  # a second header
    assert not (tmp_path / "a" / "model.safetensors").exists()
    index = read_json(tmp_path / "a" / "model.safetensors.index.json")
    weights = model.state_dict()
    assert index["weight_map"].keys() == weights.keys()
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in weights.values())


def test_without_hard_links_each_folder_has_a_copy(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    saved(tmp_path / "a", tmp_path)
    saved(tmp_path / "b", tmp_path, seed=1)
    assert len(set(places(tmp_path / "a", tmp_path / "b"))) == 2
    assert not torch.equal(answers(tmp_path / "a"), answers(tmp_path / "b"))
    assert not list(tmp_path.rglob("*.part"))


def test_only_the_same_bytes_are_shared_and_saving_again_leaves_others_alone(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    saved(first, tmp_path)
    content = bytearray((first / ENCODER_SHARD).read_bytes())
    content[-1] ^= 1
    (first / ENCODER_SHARD).write_bytes(content)  # a bit that the disk turned
    saved(second, tmp_path)
    assert len(set(places(first, second))) == 2
    for path in (first, second):  # also where the times do not tell
        os.utime(path / ENCODER_SHARD, (0, 0))
    share_shard(second / ENCODER_SHARD, tmp_path)
    assert len(set(places(first, second))) == 2
    saved(first, tmp_path)  # trained again
    assert len(set(places(first, second))) == 1
    before = answers(second)
    model = ShiftForSequenceClassification.from_pretrained(first)
    with torch.no_grad():
        next(model.shift_ser.encoder.parameters()).add_(1)
    save_model(model, first, weights=model.state_dict(), run=tmp_path)
    assert len(set(places(first, second))) == 2 and torch.equal(answers(second), before)


def test_no_link_is_made_to_a_link(tmp_path):
    saved(tmp_path / "elsewhere", tmp_path / "elsewhere")
    (tmp_path / "run" / "a").mkdir(parents=True)
    (tmp_path / "run" / "a" / ENCODER_SHARD).symlink_to(tmp_path / "elsewhere" / ENCODER_SHARD)
    saved(tmp_path / "run" / "b", tmp_path / "run")
    assert not (tmp_path / "run" / "b" / ENCODER_SHARD).is_symlink()
    saved(tmp_path / "run" / "c", tmp_path / "run")
    assert len(set(places(tmp_path / "run" / "b", tmp_path / "run" / "c"))) == 1


def test_a_trained_encoder_is_saved_whole_and_takes_the_place_of_shards(tmp_path):
    saved(tmp_path / "a", tmp_path)
    model = tiny_model(freeze_encoder=False, seed=3)
    save_model(model, tmp_path / "a", weights=model.state_dict(), run=tmp_path)
    assert [path.name for path in (tmp_path / "a").glob("model*.safetensors*")] == ["model.safetensors"]


@pytest.mark.parametrize("shard", [ENCODER_SHARD, HEAD_SHARD])
def test_a_shard_of_whole_numbers_is_refused_by_name(shard, tmp_path):
    saved(tmp_path / "a", tmp_path)
    tensors = load_file(tmp_path / "a" / shard)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name].to(torch.int8)}, tmp_path / "a" / shard, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=f"{shard}' must hold floating point weights, but '{name}' is of I8"):
        ShiftForSequenceClassification.from_pretrained(tmp_path / "a")


def test_folds_that_read_one_layer_keep_no_other_and_are_scored_from_what_they_keep(
    cross_validate, finished, tmp_path, monkeypatch
):
    flags = ["--folds", 1, 2, "--encoder_layer", 1, "--variant", "linear", "--cache_dir", tmp_path / "frames"]
    results = cross_validate(tmp_path / "run", *flags).run()
    folders = [tmp_path / "run" / f"fold{fold}" for fold in (1, 2)]
    whole = load_file(finished[0].output_dir / "fold1" / ENCODER_SHARD)
    left = {name for name in whole if "encoder.layers.1." not in name}
    assert load_file(folders[0] / ENCODER_SHARD).keys() == left < whole.keys()
    assert len(set(places(*folders))) == 1
    config = ShiftForSequenceClassification.from_pretrained(folders[1]).config
    assert config.encoder_config.num_hidden_layers == config.encoder_layer == 1
    assert results["settings"]["fingerprints"] == finished[1]["settings"]["fingerprints"]  # of the encoder as it came
    monkeypatch.setattr(feature_cache, "_write", lambda *_: pytest.fail("encoded again"))
    again = cross_validate(tmp_path / "run", *flags, "--evaluate_only", "true").run()
    assert [fold["test"] for fold in again["folds"]] == [fold["test"] for fold in results["folds"]]


def test_a_weighted_layer_sum_keeps_all_layers(tmp_path):
    model = tiny_model(use_weighted_layer_sum=True)
    names = set(model.state_dict())
    model.shift_ser.drop_unread_layers()
    assert set(model.state_dict()) == names and model.config.encoder_config.num_hidden_layers == 2
