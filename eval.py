"""Re-evaluate a recorded run or a bare checkpoint: `python eval.py run=runs/X [data=...] [evaluator=...]`."""

import sys

from clarion import launch

if __name__ == "__main__":
    sys.exit(launch.evaluate(sys.argv[1:]))
