"""How chats are written and read. Knows nothing of sockets."""
