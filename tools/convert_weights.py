#!/usr/bin/env python
"""Convert weights: `jaxdepth convert` as a script.

python tools/convert_weights.py SOURCE TARGET [--no-tokenizer]
"""

import sys

from jaxdepth.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
