"""The parts of tools/gpu_check.py: `python -m gpu_parts PART --out FOLDER`."""
