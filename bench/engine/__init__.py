"""The training loop, one for all methods, as a generator of epoch reports. Knows torch; no Ray, MLflow or Optuna."""

VERSION = 3  # bumped when a number changes; part of a run's identity
