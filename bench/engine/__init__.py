"""The training loop, one for all methods, as a generator of epoch reports. Knows torch; no Ray, MLflow or Optuna."""
