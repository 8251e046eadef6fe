"""Paths and URIs as people give them: `~` is expanded, and no secret is taken.

A URI is recorded and shown, so it must hold no secret.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from urllib.parse import parse_qsl, unquote, urlsplit

from bebert_ray.errors import UserError

PARAMETERS = {
    *("region", "scheme", "endpoint_override", "allow_bucket_creation", "allow_bucket_deletion"),
    *("replication", "buffer_size", "default_block_size", "user", "retry_limit_seconds"),
    *("enable_tls", "tls", "blob_storage_authority", "dfs_storage_authority"),
    *("blob_storage_scheme", "dfs_storage_scheme", "tenant_id", "client_id", "allow_delayed_open"),
    *("check_directory_existence_before_creation", "force_virtual_addressing", "use_mmap"),
}
"""What the query of a URI may set: what pyarrow's file systems take that is no secret."""

# The user of these is a container, or a name without a password.
_WITH_USER = ("abfs", "abfss", "hdfs", "viewfs")
_TOKEN = re.compile(r"(?:hf|ghp|gho|github_pat|sk)_[A-Za-z0-9_]{16,}|AKIA[0-9A-Z]{16}")
# Possessive, and from the first letter of a word on: a long text takes no longer than it must.
_ADDRESS = re.compile(r"(?<![A-Za-z0-9+.-])([0-9+.-]*+)([A-Za-z][A-Za-z0-9+.-]*+://)(\S*)")
HIDDEN = "…"
LONGEST_NAME, LONGEST_PATH = 255, 4095
"""In bytes: what Linux and most file systems allow."""


def check_no_secret(text: str) -> None:
    """Refuse an address with what may be a secret; the message does not repeat it.

    Args:
        text: a path, a URI, or a name such as `hub:owner/name`.

    Raises:
        UserError: there is a password, a user where none belongs, a token, a fragment, or a
            parameter that is not among `PARAMETERS`.

    Example:
        >>> check_no_secret("s3://bucket/run?region=eu-west-1")
        >>> check_no_secret("s3://bucket/run?secret_key=abc")
        Traceback (most recent call last):
            ...
        bebert_ray.errors.UserError: s3://bucket/run?…: an address is shown and recorded: ...
    """
    where = _secret_in(text)
    if where:
        raise UserError(
            f"{hidden(text)[:150]}: an address is shown and recorded: leave the {where} out, and "
            "give credentials in the environment, as AWS_SECRET_ACCESS_KEY, HF_TOKEN or what the "
            "store has for them. In the name of a file write %23 for # and %3F for ?"
        )


def hidden(text: str) -> str:
    """The text, or what may be shown of it: all but passwords, tokens, queries and fragments.

    Example:
        >>> hidden("output=https://me:pw@host/run?sig=abc#d")
        'output=https://…@host/run?…#…'
    """
    shown = _ADDRESS.sub(_without_secrets, text)
    if shown == text and _secret_in(text):
        shown = re.sub(r"[?#].*", HIDDEN, shown, flags=re.DOTALL)
    return _TOKEN.sub(HIDDEN, shown)


def _without_secrets(found: re.Match[str]) -> str:
    before, head, rest = found.groups()
    if not _secret_in(head + rest):
        return found[0]
    rest, hash_sign, _ = rest.partition("#")
    rest, question, _ = rest.partition("?")
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    # A password may hold a slash or what else does not belong there.
    _, at_in_path, path_after = path.rpartition("@")
    if at_in_path and ":" in rest.partition("@")[0]:
        at, host, slash, path = "@", path_after, "", ""
    keeps_user = bool(at) and head[:-3].lower() in _WITH_USER and ":" not in user
    shown_user = (user if keeps_user else HIDDEN) + at if at else ""
    ends = (question and f"?{HIDDEN}") + (hash_sign and f"#{HIDDEN}")
    return f"{before}{head}{shown_user}{host}{slash}{path}{ends}"


def _secret_in(text: str) -> str:
    """Which part of an address may be a secret; empty if none is."""
    if _TOKEN.search(unquote(text)):
        return "token"
    if "://" not in text:
        if text.startswith("hub:") and re.search(r"[?#]", text):
            return "query or fragment"
        return ""
    try:
        parts = urlsplit(text.strip())
    except ValueError:
        return "password, query or fragment" if re.search(r"[@?#]", text) else ""
    scheme = parts.scheme.lower()
    if "@" in parts.netloc:
        user = parts.netloc.rpartition("@")[0]
        if ":" in unquote(user):
            return "password"
        if scheme not in _WITH_USER:
            return "user"
    elif "@" in parts.path and ":" in text.partition("://")[2].partition("@")[0]:
        return "password"
    if parts.fragment:
        return "fragment"
    if not parts.query:
        return ""
    pairs = parse_qsl(parts.query.replace(";", "&"), keep_blank_values=True)
    if not pairs:
        return "query"
    for name, value in pairs:
        if name.lower() not in PARAMETERS:
            known_kind = re.fullmatch(r"[A-Za-z_]{1,24}", name) and "=" in parts.query
            return f"parameter {name} of the query" if known_kind else "query"
        if "@" in value:
            return "password in the query"
    return ""


def expand(text: str) -> str:
    """A path with its leading `~` or `~name` replaced by the home directory; all else as it is.

    Raises:
        UserError: there is no such user, or no home directory is known; or the path holds a zero
            byte, or bytes that are not UTF-8, which a record cannot hold; or it is too long.

    Examples:
        >>> expand("s3://bucket/~run"), expand("runs/~old")
        ('s3://bucket/~run', 'runs/~old')
    """
    check_utf8(text)
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise UserError(
            f"the home directory of {ascii(text)[:200]} is not known; set HOME, or give an "
            "absolute path (./~… for a file of that name)"
        )
    if "://" not in path:
        name = max(path.split("/"), key=len)
        if len(name.encode()) > LONGEST_NAME or len(path.encode()) > LONGEST_PATH:
            raise UserError(
                f"the path {path[:60]}… has {len(path):,} letters; a file system takes names of "
                f"{LONGEST_NAME} bytes and paths of {LONGEST_PATH:,}"
            )
    return path


def is_utf8(text: str) -> bool:
    r"""Whether text can be written as UTF-8: it holds no lone surrogate.

    Examples:
        >>> is_utf8("ä"), is_utf8("\ud83d")
        (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_utf8(path: str) -> None:
    """Refuse a path that no record and no file system of pyarrow can hold.

    Raises:
        UserError: it has bytes that are not UTF-8, or a zero byte.
    """
    if "\0" in path or not is_utf8(path):
        shown = ascii(path)[:200]
        raise UserError(f"the path {shown} is not UTF-8 text; rename it, or give a link to it")


def ensure_home() -> None:
    """Set HOME to an empty directory, until this process ends, if no home directory is known.

    A container's user may have none, and Ray cannot even be imported then.
    """
    if os.path.expanduser("~") == "~":
        home = tempfile.mkdtemp(prefix="bebert-ray-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HOME"] = home
