"""What a module reports at the end of a validation: the same examples in one batch and in several, on a copy."""

from __future__ import annotations

import contextlib
import dis
import inspect
import io
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torchmetrics import Metric

from lightning_recipe.callbacks._averaged import MILD_NAMES, NOISE, Parts, Suspect, differ, parted, scalars
from lightning_recipe.callbacks._metric_names import is_no_mean, is_of_training, words
from lightning_recipe.trial.rehearsal import CannotRehearseError
from lightning_recipe.trial.stand_ins import Logged

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Answer, Rehearsal

HOOK = "on_validation_epoch_end"
LEAVES_TRACES = {
    *("open", "save", "savez", "savefig", "dump", "write", "writerow", "writelines", "makedirs", "mkdir", "unlink"),
    *("to_csv", "to_json", "to_parquet", "imsave", "imwrite", "save_image", "write_text", "write_image", "rename"),
    *("save_checkpoint", "run", "system", "post", "put", "append_row", "all_gather", "barrier", "gather"),
}
"""Names in the code of a hook that is not run on a copy: files and other processes know nothing of copies."""


KNOWN = {
    *("builtins", "collections", "functools", "itertools", "math", "operator", "statistics", "typing", "warnings"),
    *("lightning", "numpy", "pytorch_lightning", "scipy", "sklearn", "torch", "torchmetrics"),
}
"""Packages that a hook may use which is run on a copy. Others may draw, or send to a server what is logged."""
FOLLOWED = 3
"""Functions that call one another, and are read to find out."""


def can_be_asked(run: Run) -> bool:
    """Whether what the module does at the end of a validation may be done on a copy."""
    module = run.module
    one = len(run.val_loaders) == 1 and run.trainer.world_size == 1
    hooks = (HOOK, *_AROUND) if one and is_overridden(HOOK, module) else ()
    return bool(hooks) and all(_leaves_no_trace(type(module), hook) for hook in hooks)


def _leaves_no_trace(kind: type, method: str) -> bool:
    """Whether a method, and all that it calls by name, uses `KNOWN` packages only, and nothing that leaves traces."""
    function = inspect.unwrap(getattr(kind, method))
    return isinstance(function, FunctionType) and _keeps_to_itself(function, kind, FOLLOWED)


def _keeps_to_itself(function: FunctionType, kind: type, depth: int) -> bool:
    if function.__module__.partition(".")[0] in KNOWN:
        return True
    codes = list(_codes(function.__code__))
    names = set[str]().union(*(code.co_names for code in codes))
    imports = any(i.opname == "IMPORT_NAME" for code in codes for i in dis.get_instructions(code))
    if not depth or imports or not names.isdisjoint(LEAVES_TRACES):
        return False
    used = [function.__globals__[name] for name in names if name in function.__globals__]
    used += inspect.getclosurevars(function).nonlocals.values()
    used += [method for name in names if isinstance(method := getattr(kind, name, None), FunctionType)]
    return all(
        _keeps_to_itself(inspect.unwrap(value), kind, depth - 1)
        if isinstance(value, FunctionType)
        else any(value is own for own in kind.__mro__)
        or (_package(value) in KNOWN and not isinstance(value, (list, dict, set)))
        for value in used
    )


def _package(value: Any) -> str:
    """Where a module or a class is from, or the class of anything else."""
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", type(value).__module__)
    return str(name).partition(".")[0]


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Some code, and that of the functions within it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)


_AROUND = ("on_validation_epoch_start", "on_validation_batch_end")


def reported(again: Rehearsal, batches: Sequence[Any], answers: Mapping[str, Answer] | None = None) -> dict[str, float]:
    """The numbers that are logged at the end of a validation of these batches.

    Args:
        again: The copy, which may hold a batch that was validated before: it is taken to its end first.
        batches: What is validated.
        answers: By the names of modules, what they put out instead of what they compute.

    Raises:
        CannotRehearseError: If the module's hooks raise.

    """
    module = again.module

    def logged_metrics() -> list[Metric]:
        metrics = {id(one.value): one.value for one in again.logged if isinstance(one.value, Metric)}
        return list(metrics.values())

    def validated(several: Sequence[Any]) -> None:
        with contextlib.suppress(Exception):  # nothing may be left of that batch
            getattr(module, HOOK)()
        for metric in logged_metrics():
            metric.reset()  # as Lightning does
        module.on_validation_epoch_start()
        for index, batch in enumerate(several):
            place = [index] * is_param_in_hook_signature(module.validation_step, "batch_idx", min_args=2)
            output = module.validation_step(batch, *place)
            module.on_validation_batch_end(output, batch, index)
        again.logged.clear()
        getattr(module, HOOK)()
        for metric in logged_metrics():
            names = [one.name for one in again.logged if one.value is metric]
            value = metric.compute() if metric.update_count else None  # while it holds these batches
            again.logged += [Logged(name, value, on_epoch=None, mean=True) for name in names]

    module.__dict__["validated_again"] = validated
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            again.step(list(batches), method="validated_again", answers=answers)
    finally:
        del module.__dict__["validated_again"]
    return scalars(again.logged)


def suspects(values: Collection[str], of_steps: Collection[str]) -> list[str]:
    """The numbers that are no means, as their names say, and that no step logs.

    Example:
        >>> suspects(["val_r2", "val_loss", "val_f1", "train_f1"], ["val_f1"])
        ['val_r2']

    """
    return [name for name in values if is_no_mean(name) and not is_of_training(name) and name not in of_steps]


def in_parts(again: Rehearsal, batch: Any, names: Collection[str]) -> dict[Suspect, Parts]:
    """The numbers that are the mean of those of the batches: of a batch, and of its parts one by one."""
    parts, shares = parted(batch)
    if not parts:
        return {}
    try:
        whole, together = reported(again, [batch]), reported(again, parts)
        single = [reported(again, [part]) for part in parts]
    except CannotRehearseError:  # a step may want whole batches
        return {}
    found = {}
    for name in names:
        if all(name in values for values in (whole, together, *single)):
            of = Parts(shares, [values[name] for values in single], whole[name])
            plain = sum(of.values) / len(parts)
            if differ(together[name], whole[name]) > NOISE >= min(differ(together[name], m) for m in (of.mean, plain)):
                found[Suspect(name, "", "", not MILD_NAMES.isdisjoint(words(name)))] = of
    return found
