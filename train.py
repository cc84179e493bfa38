"""Train, predict, evaluate, record: `python train.py model=yolo11x data=erm_full` (see --help)."""

import sys

from clarion import launch

if __name__ == "__main__":
    sys.exit(launch.train(sys.argv[1:]))
