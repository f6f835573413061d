"""The toy feature set, as fixtures."""

from tests.toy import eight_pairs, make_world, tiny

__all__ = ["eight_pairs", "make_world", "tiny"]
