"""Names that say that something is a secret: variables that are not stored, files that are not copied."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import PurePosixPath

# `max_tokens` and `tokenizer` are words of machine learning, `hf_token` is not
SECRET_NAME = re.compile(
    r"token(?!s|i[sz])|secret|passw|passphrase|credential|bearer|authorization"
    r"|(api|access|auth|private|ssh|signing|encryption|license)[-_.]?key|(^|[-_.])(key|pwd|auth)$",
    re.IGNORECASE,
)
SECRET_FOLDERS = frozenset({".aws", ".azure", ".gcloud", ".gnupg", ".kube", ".ssh"})
SECRET_FILES = (
    *(".env*", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    *(".netrc", "_netrc", ".git-credentials", ".pgpass", ".pypirc", ".npmrc", ".htpasswd", "credentials.json"),
)


def looks_secret(name: str) -> bool:
    """Whether a file (its path relative to the project) is of a kind that holds passwords or keys, by its name."""
    path = PurePosixPath(name.lower())
    if SECRET_FOLDERS.intersection(path.parts[:-1]) or any(fnmatch(path.name, p) for p in SECRET_FILES):
        return True
    return path.name.startswith("id_") and not path.suffix  # as ssh-keygen names keys; `id_map.py` is code
