"""The command line: `shift-ser demo | train | evaluate | predict | timeline | compare | study | check | export | ...`.

Exit codes: 0 if everything asked for was done, 1 if something failed or is incomplete, 2 if the command was not
understood (an unknown command, flag, recipe or folder).
"""

from .commands import cli

__all__ = ["cli"]
