"""How sides are drawn, by name: one test side, or five folds whose test sides together are all patients."""

FOLDS = {"holdout": 1, "kfold5": 5}
PROTOCOLS = tuple(FOLDS)
ONE_SIDE = tuple(name for name, folds in FOLDS.items() if folds == 1)
