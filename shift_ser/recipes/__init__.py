"""What ships with the package: recipes and studies in YAML, found by name, and the demo's encoder."""

import difflib
import os
from pathlib import Path

_HERE = Path(__file__).parent
DEMO_ENCODER = "demo_encoder"


def recipe_names() -> list[str]:
    """Names of the recipes that `shift-ser train` knows, sorted."""
    return sorted(path.stem for path in _HERE.glob("*.yaml"))


def study_names() -> list[str]:
    """Names of the studies that `shift-ser study` knows, sorted."""
    return sorted(path.stem for path in (_HERE / "studies").glob("*.yaml"))


def find_recipe(name_or_path: str | os.PathLike) -> Path:
    """The file of a recipe: a path to one, or the name of one that ships with the package.

    Raises:
        FileNotFoundError: If there is neither; tells the likely name.

    Example:
        >>> find_recipe("demo").name
        'demo.yaml'
    """
    return _find(name_or_path, _HERE, recipe_names(), kind="recipe")


def find_study(name_or_path: str | os.PathLike) -> Path:
    """The file of a study: a path to one, or the name of one that ships with the package.

    Raises:
        FileNotFoundError: If there is neither; tells the likely name.
    """
    return _find(name_or_path, _HERE / "studies", study_names(), kind="study")


def find_encoder(name_or_path: str) -> str:
    """What `from_pretrained` loads for an encoder: the shipped folder for `demo_encoder`, else the argument itself."""
    if name_or_path == DEMO_ENCODER and not Path(name_or_path).exists():
        return str(_HERE / DEMO_ENCODER)
    return name_or_path


def _find(name_or_path: str | os.PathLike, folder: Path, names: list[str], *, kind: str) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    if str(name_or_path) in names:
        return folder / f"{name_or_path}.yaml"
    close = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"those that ship with the package are {', '.join(names)}"
    raise FileNotFoundError(f"{kind} must be a YAML file or the name of one, there is none at {str(path)!r}; {hint}")
