"""A set of studies, run one after the other and ended in one bundle; a single study has no bundle."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..evaluation.public import public_name
from ..recipes import find_study
from ..training.arguments import DataArguments, parse_arguments, read_yaml, refuse_unknown
from .bundle import write_bundle
from .grid import StudyPlan, plan_study
from .study import Study, run_study

SET_KEYS = ("studies", "output_dir")
BUNDLE_FOLDER = "bundle"


@dataclass(frozen=True)
class PlannedSet:
    """What is to be run.

    Attributes:
        name: As it was asked for.
        plans: The studies by name, each in the folder `output_dir/NAME` if this is a set.
        asked: Those of them that are to be run now.
        corpus: In place of what the files say.
        output_dir: Folder of the set; `None` if this is a single study.
    """

    name: str
    plans: dict[str, StudyPlan]
    asked: list[str]
    corpus: str | None
    output_dir: Path | None

    @property
    def source(self) -> str:
        """Where the corpus of the first cell lies."""
        words = next(iter(next(iter(self.plans.values())).cells.values()))
        data_args: DataArguments = parse_arguments(words)[1]
        return data_args.corpus


@dataclass(frozen=True)
class DoneSet:
    """What a set came to: each study that was run, and the bundle if there is one."""

    studies: dict[str, Study]
    bundle: Path | None


def plan_set(
    name: str | Path,
    *,
    output_dir: str | Path | None = None,
    corpus: str | Path | None = None,
    parts: Sequence[str] = (),
) -> PlannedSet:
    """Plan a study, or a set of them: a file with a list of `studies`; nothing is run.

    Args:
        name: YAML file or name of one that ships with the package.
        output_dir: Folder, in place of the one in the file.
        corpus: Where the corpus lies, in place of what the files say.
        parts: Of a set, the studies to run now; default: all. The bundle holds what is whole of all.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file breaks a rule, or a part is none of the set.
    """
    path = find_study(name)
    content = read_yaml(path, kind="study")
    told = None if corpus is None else str(corpus)
    if "studies" not in content:
        if parts:
            raise ValueError(f"part must be of a set of studies, {str(path)!r} is one study, got {parts[0]!r}")
        plan = plan_study(path, output_dir=output_dir, corpus=corpus)
        return PlannedSet(str(name), {path.stem: plan}, [path.stem], told, None)
    refuse_unknown(content, SET_KEYS, where=f"study {str(path)!r}")
    files = {Path(each).stem: _beside(path, each) for each in content["studies"]}
    for part in parts:
        if part not in files:
            raise ValueError(f"part must be one of {list(files)}, got {part!r}")
    folder = Path(output_dir or content.get("output_dir") or Path("runs") / path.stem)
    plans = {stem: plan_study(file, output_dir=folder / stem, corpus=corpus) for stem, file in files.items()}
    return PlannedSet(str(name), plans, list(parts) or list(plans), told, folder)


def _beside(path: Path, study: str) -> Path:
    """A study of a set: a file beside the set's, or one that ships with the package."""
    own = path.parent / study
    return own if own.is_file() else find_study(study)


def run_set(planned: PlannedSet, *, jobs: int = 1) -> DoneSet:
    """Run what is not there yet of the studies that are asked for; then write the bundle of a set.

    Args:
        planned: What `plan_set` returned.
        jobs: Cells that run at the same time.
    """
    studies = {name: run_study(planned.plans[name], title=name, jobs=jobs) for name in planned.asked}
    if planned.output_dir is None:
        return DoneSet(studies, None)
    corpus = [] if planned.corpus is None else ["--corpus", public_name(planned.corpus)]
    command = shlex.join(["shift-ser", "study", Path(planned.name).stem, *corpus])
    bundle = write_bundle(
        planned.output_dir / BUNDLE_FOLDER,
        planned.plans,
        title=Path(planned.name).stem,
        corpus=planned.source,
        command=command,
    )
    return DoneSet(studies, bundle)
