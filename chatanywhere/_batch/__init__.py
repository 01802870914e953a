"""`map()`: many prompts, some at a time, under limits, with a journal that survives what ends the program."""
