"""What tables and pictures call a metric."""

TITLES = {
    "auroc_mean": "AUROC",
    "kappa": "kappa",
    "accuracy": "accuracy",
    "activation_precision_lesion": "map on lesion",
    "activation_precision_lesion_predicted": "map of predicted class on lesion",
    "best_blind_lesion": "best blind map on lesion",
    "best_blind_fine": "best blind map on fine annotation",
    "activation_precision_fine": "map on fine annotation",
    "counterfactual_sign": "right answer to edits",
    "counterfactual_sign_random": "random weights to edits",
    "tpr_at_fppi_0.25": "TPR at 0.25 FPPI",
    "tpr_at_fppi_0.5": "TPR at 0.5 FPPI",
    "tpr_at_fppi_1": "TPR at 1 FPPI",
    "tpr_at_fppi_2": "TPR at 2 FPPI",
    "best_blind_tpr": "best blind map, TPR at 1 FPPI",
    "tpr_max": "highest TPR",
    "fppi_max": "FPPI at the highest TPR",
    "tpr_chosen": "TPR at validation's threshold",
    "fppi_chosen": "FPPI at validation's threshold",
}


def metric_title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))
