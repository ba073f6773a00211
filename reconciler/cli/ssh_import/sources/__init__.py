"""Finds ssh commands in texts: shell scripts, crontabs, units, container files. Text in, values out; runs nothing."""
