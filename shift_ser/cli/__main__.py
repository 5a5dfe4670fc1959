"""`python -m shift_ser.cli`, which `accelerate launch -m` needs."""

from .commands import cli

if __name__ == "__main__":
    cli(prog_name="shift-ser")
