"""Conversations: what has been said, the turn that is being made, and the files that they are saved in."""
