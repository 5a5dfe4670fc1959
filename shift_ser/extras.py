"""Which extra of the package brings a module that is not installed."""

import re
from importlib.metadata import PackageNotFoundError, requires

_DISTRIBUTIONS = {"sklearn": "scikit_learn", "yaml": "pyyaml"}  # modules that are named differently
_DEFAULT = "train"


def missing_module(module: str | None) -> str:
    r"""What to install for a module.

    Args:
        module: Its name, with or without sub-modules, as `ModuleNotFoundError.name` has it.

    Example:
        >>> missing_module("peft.tuners")
        'this needs the package \'peft\': pip install "shift-ser[peft]"'
    """
    name = str(module).partition(".")[0]
    return f'this needs the package {name!r}: pip install "shift-ser[{_extra(name)}]"'


def _extra(module: str) -> str:
    """The first extra in whose requirements, as the installed package states them, a module is."""
    try:
        stated = requires("shift-ser") or []
    except PackageNotFoundError:  # a source tree that was never installed
        stated = []
    wanted = _DISTRIBUTIONS.get(module, module).lower().replace("-", "_")
    for requirement in stated:
        found = re.match(r"""([\w.-]+).*extra == ['"](\w+)['"]""", requirement)
        if found and found[1].lower().replace("-", "_") == wanted:
            return found[2]
    return _DEFAULT
