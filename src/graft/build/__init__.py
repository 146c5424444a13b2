"""From a plain configuration to an experiment: validation, then assembly."""
