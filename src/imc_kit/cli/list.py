"""The command `imc-kit list`."""

from dataclasses import dataclass

from imc_kit.cli.command import Command
from imc_kit.config import PRESETS, feature_pipeline, pipeline_names
from imc_kit.runtime import weights


@dataclass(frozen=True)
class ListNames(Command):
    """List the presets, all detectors and matchers that work together, and the files that they lack."""

    def run(self) -> int:
        known = {name: config.weight_files() for name, config in PRESETS.items()}
        known |= {name: feature_pipeline(name).weight_files() for name in pipeline_names()}
        rows = []
        for name, files in known.items():
            lacking = weights.missing(files)
            get = f"missing: imc-kit weights get {' '.join(lacking)}"
            rows.append((name, get if lacking else "here" if files else "none needed"))
        width = max(map(len, known))
        for name, said in [("preset or DETECTOR+MATCHER", "weight files"), *rows]:
            print(f"{name:<{width}}  {said}")
        print("'imc-kit compare' takes these names; 'imc-kit solve' takes --preset, --detector and --matcher")
        return 0
