"""What a module reports at the end of a validation: the same examples in one batch and in several, on a copy."""

from __future__ import annotations

import contextlib
import io
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from lightning_recipe.callbacks._averaged import MILD_NAMES, NOISE, PARTS, Parts, Suspect, differ, scalars
from lightning_recipe.callbacks._kept_metrics import names_in
from lightning_recipe.callbacks._metric_names import is_no_mean, is_of_training, words
from lightning_recipe.record.tensors import leading_size
from lightning_recipe.trial.first_examples import examples_between
from lightning_recipe.trial.rehearsal import CannotRehearseError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from lightning_recipe.run import Run
    from lightning_recipe.trial.rehearsal import Answer, Rehearsal

HOOK = "on_validation_epoch_end"
LEAVES_TRACES = {
    *("open", "save", "savez", "savefig", "dump", "write", "writerow", "writelines", "makedirs", "mkdir", "unlink"),
    *("to_csv", "to_json", "to_parquet", "imsave", "imwrite", "save_image", "write_text", "write_image", "rename"),
    *("save_checkpoint", "run", "system", "post", "put", "append_row", "all_gather", "barrier", "gather"),
}
"""Names in the code of a hook that is not run on a copy: files and other processes know nothing of copies."""


def can_be_asked(run: Run) -> bool:
    """Whether what the module does at the end of a validation may be done on a copy."""
    module = run.module
    one = len(run.val_loaders) == 1 and run.trainer.world_size == 1 and run.trainer.num_val_batches[0] > 1
    if not one or not is_overridden(HOOK, module):
        return False
    names = set[str]().union(*(each for hook in (HOOK, *_AROUND) for each in names_in(type(module), hook)))
    return names.isdisjoint(LEAVES_TRACES)


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

    def validated(several: Sequence[Any]) -> None:
        with contextlib.suppress(Exception):  # nothing may be left of that batch
            getattr(module, HOOK)()
        module.on_validation_epoch_start()
        for index, batch in enumerate(several):
            place = [index] * is_param_in_hook_signature(module.validation_step, "batch_idx", min_args=2)
            output = module.validation_step(batch, *place)
            module.on_validation_batch_end(output, batch, index)
        again.logged.clear()
        getattr(module, HOOK)()

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
    size = leading_size(batch) or 0
    count = PARTS if size >= 2 * PARTS else 2
    ends = [size * i // count for i in range(count + 1)]
    parts = [examples_between(batch, *between) for between in pairwise(ends)]
    if size < count or any(part is batch for part in parts):
        return {}
    try:
        whole, together = reported(again, [batch]), reported(again, parts)
        single = [reported(again, [part]) for part in parts]
    except CannotRehearseError:  # a step may want whole batches
        return {}
    shares = [(stop - start) / size for start, stop in pairwise(ends)]
    found = {}
    for name in names:
        if all(name in values for values in (whole, together, *single)):
            of = Parts(shares, [values[name] for values in single], whole[name])
            plain = sum(of.values) / count
            if differ(together[name], whole[name]) > NOISE >= min(differ(together[name], m) for m in (of.mean, plain)):
                found[Suspect(name, "", "", not MILD_NAMES.isdisjoint(words(name)))] = of
    return found
