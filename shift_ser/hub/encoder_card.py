"""The card of an adapted encoder, from what `adaptation.json` says of it."""

import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from ..evaluation.public import public_name, public_text
from ..evaluation.run_folder import ADAPTATION, read_json, write_text
from ..training.options import settings_words

_CARD = """---
{data}
---

# {name}, adapted to {corpus}, fold {fold}

`{encoder}` after {steps} more steps of pretraining ({objective}) on {utterances} utterances ({hours} h) of {corpus},
without their labels: the training set of fold {fold}, plan `{plan}`. It has heard nothing of that fold's
validation and test sets; `{file}` holds a hash of each recording that it has heard, and `shift-ser train` refuses to
evaluate it on one of them.

Loss on the validation set, same masks: {before} before, {after} after. It says how well masked frames are told, nothing
about emotion.

```bash
{command}
```

It is an ordinary encoder: `AutoModel.from_pretrained` loads it. Its licence is that of `{encoder}` and of the corpus;
ask their owners before you share it.
"""


def write_encoder_card(folder: str | Path) -> str:
    """Write `README.md` into an adapted encoder's folder.

    Args:
        folder: It holds `adaptation.json`.

    Returns:
        One line that says what lies there.
    """
    record = read_json(Path(folder) / ADAPTATION)
    settings = record["settings"]
    encoder = public_name(settings["encoder"])
    loss = {
        name: "not measured" if value is None else f"{value:.3f}" for name, value in record["validation_loss"].items()
    }
    known: dict[str, Any] = {"library_name": "transformers", "tags": ["audio", "speech", "task-adaptive-pretraining"]}
    if "/" in encoder:
        known["base_model"] = encoder
    words = [public_text(word) for word in settings_words(settings)]
    text = _CARD.format(
        data=ModelCardData(**known).to_yaml(),
        name=encoder.rpartition("/")[2],
        encoder=encoder,
        objective=settings["objective"],
        file=ADAPTATION,
        command=shlex.join(["shift-ser", "adapt", *words, "--folds", str(record["fold"])]),
        **{name: record[name] for name in ("corpus", "fold", "steps", "utterances", "hours", "plan")},
        **loss,
    )
    write_text(Path(folder) / "README.md", text)
    return f"{folder}: loss on the validation set {loss['before']} before, {loss['after']} after"
