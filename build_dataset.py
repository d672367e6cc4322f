"""Builds the offline kit for Kaggle: `python build_dataset.py --help`, and docs/kaggle.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from imc_kit.kaggle.build import main

sys.exit(main())
