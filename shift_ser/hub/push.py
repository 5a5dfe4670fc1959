"""A finished run to the Hub: one model with its code, card, results and figure, in one commit."""

import os
import shutil
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_import_files

from ..corpora.corpus import CorpusInfo
from ..evaluation.metrics import score_of
from ..evaluation.public import public_results
from ..evaluation.run_folder import (
    FINAL,
    RESULTS,
    TABLE,
    check_file,
    check_model_files,
    fold_folder,
    main_figure,
    read_json,
    write_json,
    write_text,
)
from ..training.arguments import RunArguments
from .model_card import repository_name, results_text, run_card

CONFIGS = ("config.json", "preprocessor_config.json")
HANDLER, REQUIREMENTS = "handler.py", "requirements.txt"  # of Inference Endpoints
NEEDED = "soundfile>=0.12\nsoxr>=0.5\n"  # by the handler, beside torch and transformers
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"


class PushError(RuntimeError):
    """A failed upload; the run on disk is complete."""


class HubRepository:
    """The repository that a run will be pushed to; making one asks the Hub who we are, before any training.

    Args:
        run_args: Whose `hub_model_id`, `hub_token` and `hub_private_repo` are read. Without a token there, it is the
            one of `HF_TOKEN` or of `hf auth login`.
        settings: The run's; without `hub_model_id` the repository is named after them, in the user's own namespace.
        corpus: What the run's corpus says of itself.
        api: The Hub to talk to; default: that of `HF_ENDPOINT`, else huggingface.co.

    Attributes:
        repo_id: `namespace/name`.

    Raises:
        ValueError: If the Hub cannot be asked (offline mode, no token, a token it refuses) or the name is none.
    """

    def __init__(
        self,
        run_args: RunArguments | Namespace,
        *,
        settings: Mapping[str, Any],
        corpus: CorpusInfo,
        api: HfApi | None = None,
    ) -> None:
        self.api = api or HfApi(token=run_args.hub_token)
        self.private = run_args.hub_private_repo
        name = run_args.hub_model_id or repository_name(settings, corpus=corpus.name)
        validate_repo_id(name)
        user = self._user()
        self.repo_id = name if "/" in name else f"{user}/{name}"

    def _user(self) -> str:
        """Our name on the Hub."""
        if is_offline_mode():
            raise ValueError("push_to_hub needs the Hub, but HF_HUB_OFFLINE is set: unset it, or push later")
        try:
            return self.api.whoami()["name"]
        except LocalTokenNotFoundError as error:
            raise ValueError(
                "push_to_hub needs a token, got none: set HF_TOKEN, run `hf auth login`, or give --hub_token"
            ) from error
        except HfHubHTTPError as error:
            raise ValueError(f"push_to_hub needs a token that {self.api.endpoint} knows, got {error}") from error
        except Exception as error:  # the Hub's client lets those of its HTTP library through
            raise ValueError(f"push_to_hub needs the Hub, but {self.api.endpoint} does not answer: {error}") from error

    def push(self, output_dir: str | Path) -> str:
        """Upload a finished run in one commit; files that an earlier try has brought over are not sent again.

        Args:
            output_dir: The run's folder; `hub/` in it will hold what is uploaded.

        Returns:
            Address of the repository.

        Raises:
            PushError: If the Hub refuses, the connection breaks or the user does. Nothing in the run's folder is
                lost, the repository is as it was, and calling again goes on.
        """
        try:
            folder = stage_upload(output_dir, repo_id=self.repo_id)
            url = self.api.create_repo(self.repo_id, private=self.private, exist_ok=True)
            self.api.upload_folder(repo_id=self.repo_id, folder_path=folder, commit_message="Push a finished run")
        except (Exception, KeyboardInterrupt) as error:  # whatever it was: say that nothing is lost and how to go on
            raise PushError(
                f"the upload to {self.repo_id!r} failed: {_causes(error)}\nThe run is whole in {str(output_dir)!r}."
                " The same command again pushes it, without training."
            ) from error
        return str(url)


def push_to_hub(
    output_dir: str | Path, *, repo_id: str | None = None, token: str | None = None, private: bool | None = None
) -> str:
    """Push a finished run: one model with its code, card, results and figure, in one commit.

    Args:
        output_dir: The run's folder.
        repo_id: `name` or `namespace/name`; default: named after head, encoder and corpus, in your own namespace.
        token: Of the Hub; default: that of `HF_TOKEN` or of `hf auth login`.
        private: Whether a new repository is private; `None`: as the namespace has it.

    Returns:
        Address of the repository.

    Raises:
        FileNotFoundError: If there is no finished run.
        ValueError: If folds are missing, the Hub cannot be asked, or the name is none.
        PushError: If the upload fails; the run's folder is as it was.
    """
    results = read_json(Path(output_dir) / RESULTS)
    if results["missing"]:
        raise ValueError(f"output_dir must hold a finished run, got {len(results['missing'])} missing folds")
    named = Namespace(hub_model_id=repo_id, hub_token=token, hub_private_repo=private)
    return HubRepository(named, settings=results["settings"], corpus=CorpusInfo(**results["corpus"])).push(output_dir)


def _causes(error: BaseException) -> str:
    """What an error and its cause say: the error of the Hub's client names the file, the cause gives the reason."""
    said = str(error).strip() or type(error).__name__
    return said if error.__cause__ is None else f"{said} ({_causes(error.__cause__)})"


def stage_upload(output_dir: str | Path, *, repo_id: str) -> Path:
    """Lay out in `output_dir/hub` what the repository will hold; the folder is the old or the new one, never half.

    Only what is named here is uploaded, whatever else lies in the run's folder: predictions, which contain the
    corpus's labels, notes and checkpoints are not. Links are not followed.

    Args:
        output_dir: Folder of a run with `results.json`.
        repo_id: Name by which the card's examples load the model.

    Returns:
        The folder: model, feature extractor and code (those of the final model, else of the chosen fold, see
        `choose_fold`), `README.md`, `results.json`, `results.md`, `confusion.png` (of dimensions alone
        `values.png`); `handler.py` and what it needs,
        `requirements.txt`, for Inference Endpoints.

    Raises:
        ValueError: If one of these is missing, a link, or not as the run wrote it.
    """
    output_dir = Path(output_dir)
    results = read_json(output_dir / RESULTS)
    told: dict[str, Any]
    if results.get("final"):
        source, told = output_dir / FINAL, {"final": True}
    else:
        result, why = choose_fold(results)
        source, told = output_dir / fold_folder(result, seeds=results["settings"]["seeds"]), {"of": result, "why": why}
    folder, part = output_dir / "hub", output_dir / f"hub.{os.getpid()}.part"
    public = public_results(results)
    check_model_files(source)
    check_file(output_dir / main_figure(results))
    try:
        part.mkdir()
        for path in [*model_files(source), output_dir / main_figure(results)]:
            shutil.copyfile(_own_file(path), part / path.name)
        write_text(part / "README.md", run_card(results, model=repo_id, **told))
        write_json(part / RESULTS, public)
        write_text(part / TABLE, results_text(public))
        shutil.copyfile(Path(__file__).with_name(HANDLER), part / HANDLER)
        write_text(part / REQUIREMENTS, NEEDED)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def model_files(folder: Path) -> list[Path]:
    """The files of a saved model: configurations, weights, and the code that its configurations name.

    Raises:
        ValueError: If the folder is a link, or one of them is missing.
    """
    if folder.is_symlink():
        raise ValueError(f"{folder} must be a folder of the run, not a link to another place")
    configs = [_own_file(folder / name) for name in CONFIGS]
    weights = {WEIGHTS}
    if (folder / WEIGHTS_INDEX).is_file():
        weights = {WEIGHTS_INDEX, *read_json(_own_file(folder / WEIGHTS_INDEX))["weight_map"].values()}
    modules = {name.split("--")[-1].split(".")[0] for config in configs for name in _classes(read_json(config))}
    code = {_own_file(folder / f"{module}.py") for module in modules}
    for path in list(code):
        code |= {Path(found) for found in get_relative_import_files(path)}
    return [*configs, *(folder / name for name in sorted(weights)), *sorted(code)]


def _classes(config: Mapping[str, Any]) -> list[str]:
    """Classes that a configuration has loaded from the code beside it, as `module.Class`."""
    named: list[str] = []
    for value in config.get("auto_map", {}).values():
        named += [name for name in (value if isinstance(value, list) else [value]) if name]
    return named + [pipeline["impl"] for pipeline in config.get("custom_pipelines", {}).values()]


def _own_file(path: Path) -> Path:
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path} must be a file of the run, not {'a link' if path.is_symlink() else 'missing'}")
    return path


def choose_fold(results: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The fold (and seed) whose model stands for the run, and why; never chosen by a test score.

    Under `test_blind` it is the one with the best score on its validation set (of equals, the first), under `authors`,
    where nothing selects, the first one.

    Returns:
        Its entry in `folds`, and a clause that ends the sentence "These weights are those of fold 1".

    Example:
        >>> folds = [{"fold": 1, "validation": {"ua": 0.5}}, {"fold": 2, "validation": {"ua": 0.75}}]
        >>> choose_fold({"settings": {"protocol": "test_blind", "selection_metric": "ua"}, "folds": folds})
        ({'fold': 2, 'validation': {'ua': 0.75}}, ', which has the best UA on its validation set (75.00%)')
    """
    settings, folds = results["settings"], results["folds"]
    if folds[0]["validation"] is None:
        return folds[0], ", the first, after its last epoch: nothing was selected"
    metric = settings["selection_metric"]
    best = max(folds, key=lambda result: result["validation"][metric])
    shown = score_of(metric)
    score = f"{shown.shown(best['validation'][metric])}{'%' if shown.percent else ''}"
    return best, f", which has the best {shown.title} on its validation set ({score})"
