"""The prose of model cards: what holds for every model, by scenario and protocol; heads and corpora bring their own."""

SCENARIOS = {
    "feature_extraction": "Speech emotion recognition with `{encoder}`, frozen, under a {head} head: {description}.",
    "fine_tuning": "Speech emotion recognition with `{encoder}`, {adapted}, under a {head} head: {description}.",
}
ALL_LAYERS = "fine-tuned but for its convolutions"
LAST_LAYERS = "fine-tuned in its last {count} layers"
ADAPTERS = {"lora": "adapted by LoRA", "dora": "adapted by DoRA"}
ADAPTED = "{kind} of rank {rank}, merged into its weights"
COST = (
    "A fold trained {trained:,} of {parameters:,} parameters, took {seconds:.0f} s on average (a frozen encoder's one"
    " pass over the corpus not counted) and {memory:,.0f} MB of memory at most. "
)
NOT_TRAINED = """**Not trained yet: this command trains it.** There are no weights and no scores here until
someone with a licence for IEMOCAP runs it; the run then writes this card anew.

```bash
shift-ser train {recipe} --corpus IEMOCAP_full_release
```

With `--push_to_hub --hub_model_id NAMESPACE/{name}` the finished run goes to the Hub.
The examples below load what it leaves here."""
USE = """## How to use

With the package `shift_ser` installed:

```python
import shift_ser  # registers the model with the Auto classes
from transformers import pipeline

read_and_classify = shift_ser.ShiftAudioClassificationPipeline
classify = pipeline("audio-classification", model="{model}", pipeline_class=read_and_classify)
print(classify("speech.wav"))  # any rate, any number of channels; arrays and bytes too
```

Without it, the code that lies beside the weights does the same (files need `soundfile` and `soxr`); read it before you
trust it:

```python
from transformers import pipeline

classify = pipeline("audio-classification", model="{model}", trust_remote_code=True)
print(classify("speech.wav"))
```

The model takes 16 kHz speech with its mask, which the feature extractor always gives."""
EPOCHS = {
    "last": "last",
    "selected": "selected on a validation set",
    "refit": "selected on a validation set, then trained anew on train and validation set",
}
SCORED_FOLDS = "models of the folds, each on speakers it never heard; this model saw every speaker"
DATA = (
    "The data is {corpus}; licence: {licence}. No audio, transcript or label of it ships with this model. The code is"
    " Apache-2.0; whether and how weights may be shared and used follows the licence of the data and the encoder's own."
)
INTENDED = (
    "Research on speech emotion recognition: comparing heads and encoders under one protocol, repeating the paper,"
    " studying errors, on speech of people who agreed to it."
)
MISUSE = (
    "Do not infer the emotions of people who have not consented to it: not of callers, applicants, pupils, patients or"
    " suspects. Do not decide about a person by what this model says: it labels how speech was perceived, not what"
    " someone feels, and no score of it is evidence of intent, health or honesty."
)
ACT = (
    "The EU AI Act (Regulation (EU) 2024/1689, Article 5(1)(f)) forbids systems that infer emotions of people at work"
    " and in education, but for medical or safety reasons. Other laws apply elsewhere."
)
LIMITS = (
    "The model heard one corpus, {corpus}: expect less from other speakers, languages, microphones and situations."
    " Everything it hears gets one of its labels. Training hears only the beginning of a long utterance. Scores differ"
    " from fold to fold. Probabilities were not calibrated; differences between groups of speakers were not measured."
)
SPEAKERS_UNKNOWN = (
    "**Speakers are not told apart**: nobody knows whether a person in a test set was heard in training, so expect less"
    " from new speakers."
)
CITATION = """## Citation

Shen, Liu, Wang, Wang, Zhou: *Temporal Shift Module with Pretrained Representations for Speech Emotion Recognition*,
Intelligent Computing 3:0073, 2024, [doi 10.34133/icomputing.0073](https://doi.org/10.34133/icomputing.0073)."""
