"""Hugging Face transformers: a callback for its Trainer.

from cumulus.checkpoint.adapters.transformers import CumulusCheckpoint

trainer = Trainer(..., callbacks=[CumulusCheckpoint()])
trainer.train(resume_from_checkpoint=CumulusCheckpoint.newest())
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from transformers import TrainerCallback

from .. import api


class CumulusCheckpoint(TrainerCallback):  # type: ignore[misc]
    """Lets the Trainer save where a checkpoint is due, and makes each checkpoint that it saves one of Cumulus."""

    @staticmethod
    def newest() -> str | None:
        """What `Trainer.train(resume_from_checkpoint=…)` takes: the newest whole checkpoint; None where there is
        none."""
        found = api.latest()
        return None if found is None else found.path

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if api.should_checkpoint():
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """The Trainer has written it, all ranks have: but it may be half there after a crash. What is committed shares
        its files where both are on one file system, so that nothing is written twice."""
        source = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
        with api.saving(state.global_step, shared=True) as directory:
            if state.is_world_process_zero:
                shutil.copytree(source, directory, copy_function=_link_or_copy, dirs_exist_ok=True)
        api.exit_if_ending()
        return control


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)
