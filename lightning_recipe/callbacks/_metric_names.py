"""What the name of a logged number says about it."""

from __future__ import annotations

import re

HIGHER = {
    *("acc", "accuracy", "top1", "top5", "f1", "fbeta", "fscore", "auroc", "auc", "aupr", "auprc", "mcc", "kappa"),
    *("precision", "recall", "sensitivity", "specificity", "iou", "miou", "jaccard", "map", "mrr", "ndcg"),
    *("r2", "psnr", "ssim", "bleu", "rouge", "meteor", "cider", "chrf", "bertscore", "pesq", "stoi"),
    *("hit", "hits", "hitrate", "ap", "tpr", "tnr", "pck", "pearson", "spearman", "kendall", "cindex"),
}
"""Words for what is the better the higher it is."""
LOWER = {
    *("loss", "losses", "error", "errors", "err", "errs", "cost", "regret", "mse", "rmse", "nmse", "nrmse", "mae"),
    *("mape", "smape", "nll", "nlpd", "crps", "perplexity", "ppl", "wer", "cer", "fid", "kid", "lpips", "brier", "ece"),
    *("bce", "xent", "crossentropy", "logloss", "fpr", "fnr", "eer", "mpjpe", "mase", "wape", "rmsle", "hausdorff"),
}
"""Words for what is the better the lower it is."""
SCORES = {"score", "scores", "dice"}
"""Words for what is the better the higher it is as a rule: they put the others in doubt, and say nothing alone."""
AMONG_THE_FIRST = r"(?<![a-z])(hr|p|r|success)@\d"
"""Short for what is found among the first few, which says nothing without their number."""
TURNED = {
    "neg",
    "negative",
    "minus",
    "inv",
    "inverse",
    "ratio",
    "gain",
    "improvement",
    "diff",
    "delta",
    "drop",
    "gap",
    "std",
}
"""Words that turn the meaning of the others round, or take it away."""
OVERLAPS = {"iou", "miou", "jaccard", "dice"}
"""Words for shares of what overlaps: of many pixels a batch is nearly as good as all, of few it is not."""
NO_MEANS = {
    *("f1", "fscore", "fbeta", "auroc", "auc", "aupr", "auprc", "ap", "roc", "mcc", "kappa", "matthews"),
    *("rmse", "rmsle", "perplexity", "ppl", "r2", "pearson", "spearman", *OVERLAPS),
}
"""Words for numbers of a set of examples that are no mean over them."""


def words(name: str) -> list[str]:
    """The words of a name, in lower case.

    Example:
        >>> words("val/F1Score_epoch"), words("valAcc"), words("top-5 accuracy")
        (['val', 'f1', 'score', 'epoch'], ['val', 'acc'], ['top', '5', 'accuracy'])

    """
    return re.findall(r"[a-z]+\d*|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())


def better(name: str) -> str:
    """The mode in which something of this name is to be monitored, ``"min"`` or ``"max"``, or ``""`` if it isn't said.

    Example:
        >>> better("val_acc"), better("val/loss"), better("acc_loss"), better("neg_loss"), better("brier_score")
        ('max', 'min', '', '', '')
        >>> better("hit@10"), better("val_HR@10"), better("hr"), better("val_AP50"), better("fpr@95")
        ('max', 'max', '', 'max', 'min')

    """
    said = {*words(name), *words(name.lower())}  # mAP
    said |= {word.rstrip("0123456789") for word in said}
    higher = bool(said & HIGHER) or re.search(AMONG_THE_FIRST, name.lower()) is not None
    lower = bool(said & LOWER)
    if higher == lower or said & TURNED or "1-" in name or (lower and said & SCORES):
        return ""
    return "max" if higher else "min"


def is_no_mean(name: str) -> bool:
    """Whether a name says that it is a metric whose value for a set is no mean over its batches.

    Example:
        >>> is_no_mean("val_f1"), is_no_mean("val_average_precision"), is_no_mean("val_acc"), is_no_mean("f1_loss")
        (True, True, False, False)

    """
    said = words(name)
    return (not NO_MEANS.isdisjoint(said) and "loss" not in said) or "average_precision" in "_".join(said)


def is_of_training(name: str) -> bool:
    """Whether a name begins with that of the training stage.

    Example:
        >>> is_of_training("train_loss"), is_of_training("val_loss")
        (True, False)

    """
    return words(name)[:1] in (["train"], ["training"])


def is_a_share(name: str) -> bool:
    """Whether a name says that it is a share of the examples: an accuracy.

    Example:
        >>> is_a_share("val_acc"), is_a_share("val_loss")
        (True, False)

    """
    return not {"acc", "accuracy"}.isdisjoint(words(name)) and better(name) == "max"
