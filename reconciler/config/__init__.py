"""tunnels.yaml -> what is desired: reading, checking, merging and watching the files.

`load` is the way in (`Config`, `load_files`, `load_text`), `watch` says when to load again, `effective` prints a
configuration with its defaults filled in, `schema` has the JSON Schema.
"""
