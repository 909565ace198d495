"""What was computed on the way from inputs to outputs, as autograd remembers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


def operations(outputs: Sequence[Tensor]) -> Iterator[Any]:
    """The nodes of the autograd graph behind `outputs`.

    Example:
        >>> import torch
        >>> [type(node).__name__ for node in operations([torch.ones(2, requires_grad=True).softmax(0)])]
        ['SoftmaxBackward0', 'AccumulateGrad']

    """
    seen, waiting = set(), [tensor.grad_fn for tensor in outputs]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(parent for parent, _ in node.next_functions)


def cuts_convolution(output: Tensor) -> bool:
    """Whether a tensor is a part of what a convolution put out, cut off by slices.

    Example:
        >>> import torch
        >>> x = torch.nn.Conv1d(1, 1, 3, padding=2)(torch.ones(1, 1, 9))
        >>> cuts_convolution(x[..., 2:]), cuts_convolution(x), cuts_convolution(x.relu()[..., 2:])
        (True, False, False)

    """
    cut, node = False, output.grad_fn
    while node is not None and type(node).__name__.startswith("Slice"):
        cut, node = True, node.next_functions[0][0]
    while node is not None and type(node).__name__.startswith(("Squeeze", "Unsqueeze")):
        node = node.next_functions[0][0]
    return cut and type(node).__name__.startswith("Convolution")


def softmax_over_batch(outputs: Sequence[Tensor], batch_size: int) -> bool:
    """Whether some softmax was taken over the examples, other than one that weighs examples for examples.

    Example:
        >>> import torch
        >>> x = torch.randn(4, 3, requires_grad=True)
        >>> softmax_over_batch([x.softmax(0)], 4), softmax_over_batch([x.softmax(1)], 4)
        (True, False)

    """
    for node in operations(outputs):
        if _is_softmax(node):
            shape, dim = _taken_over(node)
            if shape[dim] == batch_size and shape.count(batch_size) == 1:
                return True
    return False


def softmax_over_queries(outputs: Sequence[Tensor], positions: int) -> bool:
    """Whether the weights of an attention sum to one over those who ask, not over what they ask.

    Example:
        >>> import torch
        >>> scores = torch.randn(2, 4, 4, requires_grad=True)
        >>> softmax_over_queries([scores.softmax(1)], 4), softmax_over_queries([scores.softmax(2)], 4)
        (True, False)

    """
    taken = [_taken_over(node) for node in operations(outputs) if _is_softmax(node)]
    return any(shape[-2:] == [positions] * 2 and dim % len(shape) == len(shape) - 2 for shape, dim in taken)


def _taken_over(node: Any) -> tuple[list[int], int]:
    """The shape of what a softmax gave, and its dimension."""
    dim = node._saved_dim  # noqa: SLF001 - autograd names what it saves so
    return list(node._saved_result.shape), dim - (2**64 if dim >= 2**63 else 0)  # noqa: SLF001 - negative is unsigned


def _is_softmax(node: Any) -> bool:
    """Whether `node` is a softmax, not the gradient of one in a network that takes gradients itself."""
    return "SoftmaxBackward" in type(node).__name__ and hasattr(node, "_saved_result")


def attention_over_batch(outputs: Sequence[Tensor], batch_size: int) -> tuple[bool, bool]:
    """Whether examples attend to each other, and whether that happens for several positions apart.

    The first alone may be meant; the second is what attention does whose batch and sequence were swapped. Only
    `scaled_dot_product_attention` tells positions from heads.

    Example:
        >>> import torch
        >>> x = torch.randn(4, 3, 2, requires_grad=True)  # batch, sequence, features
        >>> y = x.transpose(0, 1).unsqueeze(1)
        >>> attention_over_batch([torch.nn.functional.scaled_dot_product_attention(y, y, y)], 4)
        (True, True)

    """
    found = swapped = False
    for node in operations(outputs):
        name = type(node).__name__
        if _is_softmax(node):
            found |= tuple(node._saved_result.shape[-2:]) == (batch_size, batch_size)  # noqa: SLF001
        elif "ScaledDotProduct" in name and node._saved_query.shape[-2] == batch_size:  # noqa: SLF001
            found, swapped = True, swapped or node._saved_query.shape[0] > 1  # noqa: SLF001
    return found, swapped


def batch_norm_in_function(outputs: Sequence[Tensor], batch_size: int) -> bool:
    """Whether the batch's own statistics were used to normalise it, layers having been set to running ones.

    Example:
        >>> import torch
        >>> x = torch.randn(4, 3, requires_grad=True)
        >>> batch_norm_in_function([torch.nn.functional.batch_norm(x, None, None, training=True)], 4)
        True

    """
    return any(
        "BatchNorm" in type(node).__name__
        and getattr(node, "_saved_training", True)
        and node._saved_input.shape[0] == batch_size  # noqa: SLF001
        for node in operations(outputs)
    )
