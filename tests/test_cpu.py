import os
import subprocess
import sys

import pytest

from shift_ser import cpu as memory

PROGRAM = """
import importlib.util, resource, sys
spec = importlib.util.spec_from_file_location("memory", sys.argv[2])  # the file alone: nothing else is needed
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)
print(memory.keep_freed_memory() if sys.argv[1] == "keep" else False)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"1" * 2**25
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults() + faults())
"""


def run(word: str, **variables: str) -> tuple[str, int]:
    """What keep_freed_memory returned, and the page faults of two further blocks of 32 MiB."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM, word, memory.__file__]
    done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True)
    returned, faults = done.stdout.split()
    return returned, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_used_again_without_page_faults():
    returned, faults = run("keep")
    assert returned == "True" and faults < 10
    assert run("leave")[1] > 10  # even in huge pages of 2 MiB


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_the_environment_says_is_left_alone():
    assert run("keep", MALLOC_TOP_PAD_="0")[0] == "False"
