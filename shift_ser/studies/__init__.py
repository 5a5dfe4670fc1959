"""Studies: grids of runs, their tables and figures."""
