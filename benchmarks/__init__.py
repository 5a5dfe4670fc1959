"""What the README's speed table was made with (`python -m benchmarks.speed`), and a test by killing a run."""
