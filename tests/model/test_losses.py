"""The losses against torch and audmetric, and each kind of target in the model: padded, saved, served."""

import audmetric
import numpy as np
import pytest
import torch
from conftest import speech_batch, tiny_model
from torch.nn import functional
from transformers import pipeline

from shift_ser import ShiftFeatureExtractor, ShiftForSequenceClassification
from shift_ser.model.losses import PROBLEM_TYPES, classification_loss, concordance, problem_loss, to_scale

LABELS = {0: "angry", 1: "sad", 2: "valence", 3: "arousal"}
DIMENSIONS = {"dimensions": ["valence", "arousal"], "dimension_means": [3.0, 40.0], "dimension_stds": [0.5, 10.0]}
OPTIONS = {
    "single_label_classification": {"num_labels": 4},
    "soft_label_classification": {"num_labels": 4},
    "regression": {"num_labels": 2, **DIMENSIONS, "id2label": {0: "valence", 1: "arousal"}},
    "multi_task": {"num_labels": 4, **DIMENSIONS, "id2label": LABELS},
}


def model_of(problem_type, **options):
    return tiny_model("shiftformer", problem_type=problem_type, **OPTIONS[problem_type], **options)


@pytest.fixture(scope="module")
def logits():
    return torch.randn(9, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def classes():
    return torch.arange(9) % 4


@pytest.fixture(scope="module")
def shares():
    return torch.rand(9, 4, generator=torch.Generator().manual_seed(1)).softmax(dim=-1)


WEIGHT = torch.tensor([1.0, 0.2, 3.0, 0.5])


@pytest.mark.parametrize("options", [{}, {"weight": WEIGHT}, {"label_smoothing": 0.1, "weight": WEIGHT}])
def test_losses_are_those_of_torch(options, logits, classes, shares):
    for targets in (classes, shares):
        expected = functional.cross_entropy(logits, targets, **options)
        assert classification_loss(logits, targets, **options) == expected
        focal = classification_loss(logits, targets, focal_gamma=1e-9, **options)  # the other way of computing it
        torch.testing.assert_close(focal, expected)


def test_focal_loss_is_its_formula_and_has_gradients_where_an_answer_is_sure(logits, classes):
    p = logits.softmax(dim=-1)[torch.arange(9), classes]
    torch.testing.assert_close(
        classification_loss(logits, classes, focal_gamma=2.0), (-((1 - p) ** 2) * p.log()).mean()
    )
    sure = torch.tensor([[90.0, 0.0]], requires_grad=True)
    classification_loss(sure, torch.tensor([0]), focal_gamma=0.5).backward()
    assert sure.grad.isfinite().all()


def test_concordance_is_that_of_audmetric():
    generator = np.random.default_rng(0)
    for scale in (1.0, 20.0):
        values, targets = 3 + scale * generator.standard_normal((2, 50, 3))
        values += 0.8 * (targets - values)
        found = concordance(torch.tensor(values), torch.tensor(targets))
        expected = [audmetric.concordance_cc(targets[:, column], values[:, column]) for column in range(3)]
        np.testing.assert_allclose(found, expected, rtol=1e-8)
    constant = torch.full((5, 1), 2.0, requires_grad=True)
    value = concordance(constant, torch.full((5, 1), 2.0)).sum()
    value.backward()
    assert value == 0 and constant.grad.isfinite().all()


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_model_loss_adds_up_over_batches(problem_type, shares):
    """And is the sum of its parts."""
    model = model_of(problem_type)
    speech, mask = speech_batch([3000, 2000, 2500])
    labels = {
        "single_label_classification": torch.tensor([0, 3, 1]),
        "soft_label_classification": shares[:3],
        "regression": torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 4.0]]),
        "multi_task": torch.tensor([[1.0, 0.0, 1.0, 2.0], [0.0, 1.0, 3.0, 1.0], [0.0, 1.0, 2.0, 4.0]]),
    }[problem_type]
    output = model(speech, attention_mask=mask, labels=labels)
    parts = []
    if PROBLEM_TYPES[problem_type].classes:
        own = labels[:, :2] if problem_type == "multi_task" else labels
        parts.append(functional.cross_entropy(output.logits[:, : own.shape[-1] if own.dim() == 2 else 4], own))
    if PROBLEM_TYPES[problem_type].dimensions:
        parts.append(1 - concordance(output.logits[:, -2:], labels[:, -2:]).mean())
    torch.testing.assert_close(output.loss, sum(parts))
    half = problem_loss(output.logits, labels, config=model.config, num_items_in_batch=2 * labels.numel())
    torch.testing.assert_close(half, output.loss / 2)


@pytest.mark.parametrize("problem_type", list(PROBLEM_TYPES)[1:])
def test_padded_is_alone_saved_is_loaded_and_served(problem_type, tmp_path):
    model = model_of(problem_type)
    speech, mask = speech_batch([4000, 2500])
    with torch.no_grad():
        together = model(speech, attention_mask=mask).logits
        alone = model(speech[1:, :2500], attention_mask=mask[1:, :2500]).logits
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path)
    ShiftFeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    loaded = ShiftForSequenceClassification.from_pretrained(tmp_path)
    for name in ("problem_type", "id2label", *DIMENSIONS):
        assert getattr(loaded.config, name) == getattr(model.config, name)
    with torch.no_grad():
        assert torch.equal(loaded(speech, attention_mask=mask).logits, together)
    classify = pipeline("audio-classification", model=str(tmp_path), top_k=4)
    told = classify({"array": speech[0].numpy(), "sampling_rate": 16000})
    names = [entry["label"] for entry in told]
    values = dict(zip(model.config.id2label.values(), together[0].tolist(), strict=True))
    dimensions = model.config.dimensions or []
    assert names[len(names) - len(dimensions) :] == dimensions and len(told) == model.config.num_labels
    for entry in told[len(names) - len(dimensions) :]:
        assert entry["score"] == pytest.approx(values[entry["label"]], abs=1e-4)
    if problem_type != "regression":
        assert sum(entry["score"] for entry in told[: len(names) - len(dimensions)]) == pytest.approx(1)


def test_values_are_on_the_scale_of_the_corpus():
    model = model_of("multi_task")
    outputs = torch.tensor([[1.0, -1.0, 0.5, 2.0]])
    assert to_scale(outputs, model.config).tolist() == [[1.0, -1.0, 3.25, 60.0]]
    assert to_scale(outputs[:, 2:], model_of("regression").config).tolist() == [[3.25, 60.0]]


def test_dimensions_name_themselves():
    assert tiny_model("linear", problem_type="regression", num_labels=3, id2label=None).config.id2label == {
        0: "valence", 1: "arousal", 2: "dominance"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": ["valence"]}, "dimensions must be left out with single_label_classification"),
        ({"problem_type": "regression", "dimensions": ["valence", "valence"]}, "must be different names"),
        ({"problem_type": "multi_task"}, "num_labels must be left out beside id2label, or be its length 5, got 2"),
        ({"problem_type": "multi_task", "num_labels": 4, "id2label": {0: "calm", 1: "valence", 2: "arousal",
          3: "dominance"}}, "two classes or more, then the dimensions"),
        ({"problem_type": "multi_task", "id2label": LABELS, "num_labels": 4, "dimensions": ["valence", "arousal"],
          "dimension_means": [1.0]}, "deviations above 0"),
        ({"problem_type": "ranking"}, "problem_type"),
    ],
)  # fmt: skip
def test_outputs_that_are_none_are_refused(options, message):
    with pytest.raises(Exception, match=message):
        tiny_model("linear", **({"num_labels": 2} | options))


def test_labels_of_another_kind_are_refused():
    model = model_of("regression")
    speech, mask = speech_batch([2000])
    with pytest.raises(ValueError, match="labels of regression must be floats of shape"):
        model(speech, attention_mask=mask, labels=torch.tensor([1]))
