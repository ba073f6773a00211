"""Reads shell text: words, commands, and which programs they start. Runs nothing."""
