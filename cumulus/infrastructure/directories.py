"""Directories of nodes, looked at over SSH as one of their users."""

from __future__ import annotations

from pathlib import Path

from cumulus.backends.swarm.node_engine import ShellEngine
from cumulus.errors import BackendError
from cumulus.nodes import workers
from cumulus.nodes.settings import SshSettings
from cumulus.resources.fields import STORED
from cumulus.resources.key import Document
from cumulus.resources.node import GPUNode


def word_on_node(home: Path, node: Document, user: str, uid: int, directory: str, word: str) -> str:
    """See `service.infrastructure.WordsOnNodes`."""
    shell = workers.shell(home, SshSettings().key_path, GPUNode.model_validate(node, context=STORED))
    if shell is None:
        return "it is not reached over SSH"
    try:
        said = ShellEngine(shell).programs("", {"words": [[user, uid, directory, word]]})["words"]
        return str(said[0])
    except BackendError as error:
        return str(error)
    except (KeyError, IndexError, TypeError):
        return "it answers in a way unknown here"
    finally:
        shell.close()
