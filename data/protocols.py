"""How sides are drawn, by name: one test side, or five folds whose test sides together are all patients."""

FOLDS = {"holdout": 1, "kfold5": 5}
PROTOCOLS = tuple(FOLDS)
NO_TEST = "no_test"  # of data that a network is trained on before it is judged on others: every row trains or validates
ONE_SIDE = tuple(name for name, folds in FOLDS.items() if folds == 1)
