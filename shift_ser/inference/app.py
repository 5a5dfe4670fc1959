"""A page for a model: upload or record speech, see and hear what it hears when; needs gradio (extra `app`)."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ..model.pipeline_shift_ser import ShiftAudioClassificationPipeline
from .blocks import SpeechBlocks, open_speech
from .predict import require_labels
from .timeline import timeline_of
from .timeline_files import write_timeline
from .timeline_options import TimelineOptions, checked
from .timeline_page import CSS, SCRIPT, Envelope, timeline_page

logger = logging.getLogger(__name__)

FORMATS = (".csv", ".TextGrid", ".vtt")  # that can be downloaded
_AT_ONCE = 2  # recordings that are heard at the same time; others wait
_KEPT = 3600  # seconds that uploads are kept
_SECTIONS = ("Misuse", "Limits")  # of a model's card, shown on the page


def card_words(model: str) -> tuple[str, str]:
    """The heading of a model's card, and what it says of misuse and limits, as Markdown; empty if it has no card.

    Args:
        model: Folder of a saved model, or its name on the Hub.
    """
    path = Path(model) / "README.md"
    if not Path(model).is_dir():
        try:
            path = Path(hf_hub_download(model, "README.md"))
        except (EntryNotFoundError, OSError) as error:
            logger.warning("%s has no card that can be read: %s", model, error)
            return "", ""
    if not path.is_file():
        return "", ""
    first, *sections = path.read_text(encoding="utf-8").split("\n## ")
    title = next((line[2:].strip() for line in first.splitlines() if line.startswith("# ")), "")
    parts = dict(part.split("\n", 1) for part in sections if "\n" in part)
    return title, "\n\n".join(f"**{name}.** {parts[name].strip()}" for name in _SECTIONS if name in parts)


def make_app(
    classifier: ShiftAudioClassificationPipeline, *, title: str, limits: str = "", max_seconds: float = 600.0,
    **options: Any,
) -> Any:  # fmt: skip
    """The page, as Gradio's `Blocks`; `launch_app` shows it. Several may use it at once.

    Args:
        classifier: What `load_classifier` gives.
        title: Heading of the page.
        limits: What the model must not be taken for, Markdown.
        max_seconds: Longest recording that is heard.
        **options: Those of `TimelineOptions`.

    Raises:
        ImportError: If gradio is not installed.
        ValueError: If an option is none or out of its range, or the model has no labels.
    """
    gradio = _gradio()
    require_labels(classifier.model.config, "a page")
    chosen = checked(TimelineOptions, options)

    def hear(path: str | None) -> tuple[str, Any]:
        if path is None:
            return "", gradio.update(value=None, visible=False)
        try:
            page, files = _hear(classifier, path, max_seconds=max_seconds, options=chosen)
        except (ImportError, ValueError, OSError) as error:
            message = str(error).replace(f"{path!r}", "the file").replace(path, "the file")
            raise gradio.Error(message, duration=None, title="This recording cannot be heard") from error
        return page, gradio.update(value=files, visible=bool(files))

    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as app:
        gradio.Markdown(
            f"# {title}\n\nThe emotions of a recording of up to {max_seconds / 60:g} minutes, and when each is heard."
        )
        recording = gradio.Audio(
            sources=["upload", "microphone"], type="filepath", label="Recording", elem_id="recording"
        )
        button = gradio.Button("Listen", variant="primary", elem_id="listen")
        page = gradio.HTML(css_template=CSS, js_on_load=SCRIPT, apply_default_css=False, elem_id="heard")
        files = gradio.File(label="Download", visible=False, file_count="multiple", elem_id="files")
        if limits:
            gradio.Markdown(limits, elem_id="limits")
        given = {"inputs": recording, "outputs": [page, files], "concurrency_limit": _AT_ONCE, "api_name": "timeline"}
        button.click(hear, **given)
        recording.clear(lambda: ("", gradio.update(value=None, visible=False)), outputs=[page, files], api_name=False)
    return app


def launch_app(
    app: Any, *, host: str = "127.0.0.1", port: int | None = None, max_megabytes: int = 50, block: bool = True
) -> str:
    """Serve the page.

    Args:
        app: What `make_app` gives.
        host: Address to listen on; `0.0.0.0`: all.
        port: Default: the first free one from 7860 on.
        max_megabytes: Largest file that is taken.
        block: Whether to wait until Ctrl-C.

    Returns:
        The page's address.
    """
    theme = _gradio().themes.Soft(primary_hue="blue")
    _, address, _ = app.queue(max_size=32).launch(
        server_name=host, server_port=port, max_file_size=f"{max_megabytes}mb", prevent_thread_lock=True, theme=theme,
        footer_links=[], quiet=True, share=False, show_error=True, ssr_mode=False,
    )  # fmt: skip
    logger.info("%s", address)
    if block:
        app.block_thread()
    return address


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ImportError('a page needs gradio: pip install "shift-ser[app]"') from error
    return gradio


def _hear(
    classifier: ShiftAudioClassificationPipeline, path: str, *, max_seconds: float, options: TimelineOptions
) -> tuple[str, list[str]]:
    """The page of one recording, and the files to download."""
    envelope = Envelope()
    reading = {**classifier._preprocess_params, "max_seconds": max_seconds}
    rate = classifier.feature_extractor.sampling_rate
    with _watched(path, envelope, sampling_rate=rate, **reading) as speech:
        found = timeline_of(classifier, speech, options)
    page = timeline_page(found, envelope.peaks(), source=f"/gradio_api/file={quote(path)}")
    if not found.segments:
        return page, []
    folder = Path(tempfile.mkdtemp(prefix="timeline-", dir=Path(path).parent))  # Gradio's, which it clears
    names = [folder / f"{Path(path).stem}{suffix}" for suffix in FORMATS]
    for name in names:
        write_timeline(found, name)
    return page, list(map(str, names))


@contextmanager
def _watched(path: str, envelope: Envelope, **reading: Any) -> Iterator[SpeechBlocks]:
    """A recording whose blocks are drawn, too, while they are read."""
    with open_speech(path, **reading) as speech:

        def blocks() -> Iterator[np.ndarray]:
            for block in speech.blocks:
                envelope.add(block)
                yield block

        yield SpeechBlocks(Path(path).name, speech.seconds, blocks())
