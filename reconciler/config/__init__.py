"""Turns tunnels.yaml into the desired state: reads, checks, merges and watches the files.

`load` is the entry point (`Config`, `load_files`, `load_text`). `watch` reports changes of the files. `effective_json`
formats a configuration with its defaults filled in. `schema` has the JSON Schema.
"""
