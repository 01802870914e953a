"""One exchange over HTTP under one deadline. Knows nothing of chat."""
