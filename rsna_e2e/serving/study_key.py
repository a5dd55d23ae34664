"""The name under which a study is shown, in place of its StudyInstanceUID."""

import hashlib


def study_key(study_uid: str) -> str:
    """Return the 16 hexadecimal digits under which a study is shown: of a hash of its StudyInstanceUID, or of the name
    of the file that stands for one. Who can guess that can check it."""
    return hashlib.sha256(study_uid.encode()).hexdigest()[:16]
