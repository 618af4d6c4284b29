"""What this project undoes of PyTorch Geometric's internals, with its reason."""

from __future__ import annotations

import inspect
import tempfile
from pathlib import Path

from torch_geometric.nn import MessagePassing


def remove_generated_source(convolution: MessagePassing) -> None:
    """Delete the file of generated code that PyG leaves in the temporary folder.

    PyG writes the ``propagate`` of a class of convolutions to a file there, imports it, and never deletes it: each
    process that makes a model would leave one, and a Ray worker is a process. No upstream issue about it is known to
    this project.
    """
    source = Path(inspect.getfile(convolution.propagate))
    # where it generates nothing, that is a file of PyG itself
    if source.parent == Path(tempfile.gettempdir()):
        source.unlink(missing_ok=True)
