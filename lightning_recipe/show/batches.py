"""A batch as a file that anybody can read: safetensors, where that is installed, else numpy's archive. No pickle."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


def write(tensors: Mapping[str, Tensor], path: Path) -> Path:
    """Write the dense tensors of a batch.

    Args:
        tensors: By the path in the batch.
        path: Without a suffix.

    Returns:
        The file: ``.safetensors`` or ``.npz``.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write({"[0]": torch.ones(2)}, Path(folder) / "batch").stem
        'batch'

    """
    dense = {name: t.detach().to("cpu", copy=True) for name, t in tensors.items() if t.layout is torch.strided}
    named = {"_".join(re.findall(r"\w+", name)) or "batch": tensor.contiguous() for name, tensor in dense.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if find_spec("safetensors") is not None:
        path = path.with_suffix(".safetensors")
        import_module("safetensors.torch").save_file(named, path)
    else:
        path = path.with_suffix(".npz")
        arrays = {name: (t.float() if t.dtype is torch.bfloat16 else t).numpy() for name, t in named.items()}
        np.savez(path, allow_pickle=False, **arrays)
    return path
