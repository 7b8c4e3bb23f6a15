"""From a configured name to a folder and a `ModelSpec`; loads no weights.

`resolve` finds the folder, `spec` reads it.
"""
