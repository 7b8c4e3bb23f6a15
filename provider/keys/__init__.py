"""API keys, as settings and the keys file hold them: one a line, with what each may do after it.

    sha256:5ca24005b740717ba4f3f6bc48a230700e68c2a4b11ecedb96f169f4efaf1f21 name=search models=small tier=interactive

The key comes first, as its SHA-256 or in clear; `NAME=VALUE` words follow, quoted as in a shell where a value has
blanks. Empty lines and lines that begin with `#` say nothing.
"""

from provider.keys.file import FILE_SETTING, ApiKey, add_key, parse_key, read_keys, read_keys_file, revoke_keys
from provider.keys.rights import TASKS, rights_text

__all__ = [
    "FILE_SETTING",
    "TASKS",
    "ApiKey",
    "add_key",
    "parse_key",
    "read_keys",
    "read_keys_file",
    "revoke_keys",
    "rights_text",
]
