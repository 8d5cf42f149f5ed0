"""Which candidates the next policy is trained on."""

from typing import TYPE_CHECKING

from raft_core.selection.base import Selector
from raft_core.selection.registry import SELECTORS

if TYPE_CHECKING:
    SelectionConfig = Selector
else:
    SelectionConfig = SELECTORS.union()
