"""A Gradio Space: put this folder into a Space of the Hub and set its variable MODEL to a model's name."""

import os

from shift_ser import load_classifier
from shift_ser.inference.app import card_words, launch_app, make_app

MODEL = os.environ.get("MODEL", "runs/demo/fold1")
MAX_SECONDS = float(os.environ.get("MAX_SECONDS", "600"))

title, limits = card_words(MODEL)
app = make_app(load_classifier(MODEL), title=title or MODEL, limits=limits, max_seconds=MAX_SECONDS)

if __name__ == "__main__":
    launch_app(app, host="0.0.0.0")
