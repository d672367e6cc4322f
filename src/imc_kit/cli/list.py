"""The command `imc-kit list`."""

from dataclasses import dataclass

from imc_kit.cli.command import Command
from imc_kit.config import PRESETS, feature_pipeline, pipeline_names
from imc_kit.runtime import weights


@dataclass(frozen=True)
class ListNames(Command):
    """List the presets, the detectors and matchers that fit, and the files that they lack."""

    def run(self) -> int:
        known = {name: config.weight_files() for name, config in PRESETS.items()}
        known |= {name: feature_pipeline(name).weight_files() for name in pipeline_names()}
        width = max(map(len, known))
        print(f"{'name':<{width}}  weight files")
        for name, files in known.items():
            lacking = " ".join(weights.missing(files))
            said = f"missing: imc-kit weights get {lacking}" if lacking else "here" if files else "none needed"
            print(f"{name:<{width}}  {said}")
        print("'imc-kit compare' takes these names; 'imc-kit solve' takes --preset, --detector and --matcher")
        return 0
