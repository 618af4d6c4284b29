"""The model's mathematics and its file format. Users import ``BulkFormer`` from here."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretrain.model.bulkformer import BulkFormer

__all__ = ["BulkFormer"]


def __getattr__(name: str) -> Any:
    # only when it is asked for: torch and PyG take seconds, and most modules of this package do without the model
    if name == "BulkFormer":
        from pretrain.model.bulkformer import BulkFormer

        return BulkFormer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
