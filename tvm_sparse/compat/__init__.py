"""The interfaces of other engines, in front of ours."""
