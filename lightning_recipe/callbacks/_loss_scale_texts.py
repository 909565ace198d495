"""What is said where probabilities, logits and logarithms stand in each other's place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_recipe.finding import Outcome, Status

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_recipe.record.loss_graph import Node
    from lightning_recipe.record.step import LossCall

RAW = "give {} the logits: take the {} out of the network, and apply it where probabilities are shown or measured"


def twice(node: Node, again: str, function: str) -> Outcome:
    """A squashing function is applied to what came out of another one."""
    classes = node.shape[node.dim] if again == "a softmax" and node.dim is not None else 0
    lowest = math.log(1 + (classes - 1) / math.e) if classes else math.log(1 + 1 / math.e)
    over = f"over {classes} classes " if classes else ""
    return Outcome(
        Status.FAILED,
        "probabilities",
        f"probabilities stand where logits belong: {again} is applied to what comes out of {function}, so that {over}"
        f"no probability gets above {math.exp(-lowest):.3g}, and the loss of a right answer stays above {lowest:.3g}",
        RAW.format("it", function),
        {"lowest": lowest, "classes": classes},
    )


def equal_to_probabilities(call: LossCall, prediction: Tensor) -> Outcome:
    """What enters a loss that wants logits has the values of probabilities."""
    classes = prediction.shape[1]
    lowest = math.log(1 + (classes - 1) / math.e)
    return Outcome(
        Status.FAILED,
        "probabilities",
        f"probabilities enter {call.name}, which wants logits: all rows lie between 0 and 1 and sum to 1, so that over "
        f"{classes} classes its loss can't fall below {lowest:.3g}",
        RAW.format("it", "softmax"),
        {"lowest": lowest, "classes": classes},
    )


def no_logarithm(function: str) -> Outcome:
    """Probabilities enter a loss that wants their logarithms."""
    return Outcome(
        Status.FAILED,
        "probabilities",
        f"probabilities enter a loss that wants their logarithms: what comes out of {function} lies between 0 and 1",
        "log_softmax in the place of softmax" if function == "softmax" else "logsigmoid in the place of sigmoid",
        {"highest": 1.0},
    )


def of_one() -> Outcome:
    """A softmax goes over a single output."""
    return Outcome(
        Status.FAILED,
        "constant_loss",
        "a softmax over a single output is 1 whatever the network puts out: there is nothing to learn",
        "a sigmoid for yes or no, no softmax for a number, or as many outputs as classes",
        {"outputs": 1.0},
    )


def no_signs(name: str, share: float) -> Outcome:
    """Targets that are to be -1 and 1 are 0 and 1."""
    return Outcome(
        Status.FAILED,
        "constant_loss",
        f"the targets of {name} are to be -1 and 1, but these are 0 and 1: for the {share:.0%} that are 0 it is the "
        "same whatever the network puts out",
        "2 * target - 1 as the target",
        {"share": share},
    )


def logits(largest: float, wanted: str, function: str) -> Outcome:
    """What a layer puts out is taken for something that has bounds."""
    return Outcome(
        Status.FAILED,
        "logits_as_probabilities",
        f"what a layer puts out, up to {largest:.3g}, enters a loss that wants {wanted}: it falls without end",
        f"apply {function} to it first",
        {"largest": largest},
    )


def no_probabilities(name: str, least: float) -> Outcome:
    """Targets that are to be probabilities are what a layer puts out."""
    return Outcome(
        Status.FAILED,
        "logits_as_probabilities",
        f"the targets of {name} go down to {least:.3g}: they are no probabilities, as what a teacher puts out before "
        "its softmax",
        "the softmax of the targets, of the same temperature as that of the predictions",
        {"least": least},
    )


def clamped(outside: float) -> Outcome:
    """What a layer puts out is clamped to between 0 and 1."""
    return Outcome(
        Status.FAILED,
        "logits_as_probabilities",
        f"what a layer puts out is clamped to be taken for probabilities; {outside:.0%} of it lay outside, and gets no "
        "gradient",
        "apply a sigmoid in place of the clamp, or give logits to binary_cross_entropy_with_logits",
        {"outside": outside},
    )


def interchanged(what: str) -> Outcome:
    """The arguments of a divergence stand in each other's place."""
    return Outcome(
        Status.FAILED,
        "kl_arguments_interchanged",
        f"the arguments of kl_div stand in each other's place: its input is {what}",
        "kl_div(log-probabilities of the network, probabilities of the target)",
        {"highest": 1.0},
    )
