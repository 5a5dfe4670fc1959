"""What of a run others may read: no path of this machine, no token, no name of a recording."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_START = r"(?:~|\.{1,2}|[A-Za-z]:)?[\\/]|~"  # how paths begin that are not just names: /a  ~/a  ../a  C:\a  \\host\a
_PATH = re.compile(rf"(?:{_START})")
_IN_TEXT = re.compile(rf"(?<![\w:/\\.~])(?:{_START})[^\s'\"`,;()<>|]+")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")
_HOME = re.compile(r"[\\/](home|Users|root)[\\/]", re.IGNORECASE)
_PATTERNS = ("speaker_regex", "columns", "labels", "exclude")  # settings that look like paths and are none
_KIND = re.compile(r"\w+(?:Error|Exception|Interrupt|Failed|Warning|Exit)\b|not run")


def public_name(path: str) -> str:
    r"""A file, folder or name of the Hub as others may read it: of a path only its last part.

    Example:
        >>> public_name("facebook/hubert-base-ls960"), public_name("../../home/alice/enc"), public_name(r"C:\alice\enc")
        ('facebook/hubert-base-ls960', 'enc', 'enc')
    """
    if not _PATH.match(path) and "\\" not in path:
        return path
    return re.split(r"[\\/]+", path.rstrip("\\/"))[-1].lstrip("~")


def public_text(text: str) -> str:
    """A text with paths cut down to their last part, and tokens of the Hub hidden.

    Example:
        >>> public_text("no file at '/home/alice/a.wav', see https://example.org/help")
        "no file at 'a.wav', see https://example.org/help"
    """
    return _TOKEN.sub("...", _IN_TEXT.sub(lambda match: public_name(match[0]), text))


def public_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """What `results.json` holds, without paths and tokens; a fold that failed keeps the kind of its error only."""
    public = _public(results)
    public["settings"]["encoder"] = public_name(results["settings"]["encoder"])
    public["source"] = public_name(results["source"]).rpartition("/")[2] or results["corpus"]["name"]
    public["missing"] = [dict(entry, reason=_kind(entry["reason"])) for entry in results["missing"]]
    return public


def _kind(reason: str) -> str:
    match = _KIND.match(reason)
    return match[0] if match else "failed"


def _public(value: Any, *, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _public(item, key=name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_public(item, key=key) for item in value]
    if not isinstance(value, str):
        return value
    if key in _PATTERNS:
        return "..." if _HOME.search(value) else _TOKEN.sub("...", value)
    return public_text(value)


def hide_token(words: Sequence[str]) -> list[str]:
    """The words of a command line to show: as they were given, but for the token, however its option is written.

    Example:
        >>> hide_token(["--hub-token=secret", "--seed", "1"]), hide_token(["--hub_tok", "secret"])
        (['--hub-token=...', '--seed', '1'], ['--hub_tok', '...'])
    """
    shown, hide = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        is_token = len(name) > 6 and "--hub_token".startswith(f"--{name[2:].replace('-', '_')}")
        if hide and not word.startswith("--"):
            word = "..."
        elif is_token and equals:
            word = f"{name}=..."
        hide = is_token and not equals
        shown.append(_TOKEN.sub("...", word))
    return shown
