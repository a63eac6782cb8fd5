"""Shutting the process in, before it sees the program.

In: what the harness decided. Out: what is in force, for the harness to compare with what it asked for. Any step that
fails raises, and the process ends without having read the program.
"""

import os
import resource

__all__ = ["confine"]

_NOBODY = 65534


def confine(settings: dict) -> dict:
    """Give up rights, one after the other, as `settings` says.

    Keys: `backend`; `parent`, the id of the process to die with, or 0; `drop_user`; `readable`, paths; `cpu_s`;
    `memory_bytes`.
    """
    if settings["backend"] == "none":
        _set_limits(settings, strict=False)
        return {"backend": "none", "abi": 0, "uid": os.getuid()}
    # Only here, so that a machine that is not Linux can run `none`.
    from tclora.sandbox.inside.landlock import allow_reading_only
    from tclora.sandbox.inside.rights import die_with, drop_capabilities, forbid_new_rights
    from tclora.sandbox.inside.seccomp import install

    if settings["drop_user"]:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    # After the change of user, which clears it.
    die_with(settings["parent"])
    _set_limits(settings, strict=True)
    drop_capabilities()
    forbid_new_rights()
    abi = allow_reading_only(settings["readable"]) if settings["backend"] == "landlock" else 0
    install(os.getpid())
    return {"backend": settings["backend"], "abi": abi, "uid": os.getuid()}


def _set_limits(settings: dict, *, strict: bool) -> None:
    wanted = {
        # The signal of the first can be caught; that of the second, a second later, cannot.
        "RLIMIT_CPU": (settings["cpu_s"], settings["cpu_s"] + 1),
        "RLIMIT_AS": (settings["memory_bytes"],) * 2,
        "RLIMIT_FSIZE": (0, 0),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_NOFILE": (64, 64),
        "RLIMIT_NPROC": (0, 0),
        "RLIMIT_MEMLOCK": (0, 0),
        "RLIMIT_MSGQUEUE": (0, 0),
    }
    for name, pair in wanted.items():
        try:
            resource.setrlimit(getattr(resource, name), pair)
        except (AttributeError, ValueError, OSError):
            # Outside Linux some limits do not exist; there is no promise there either.
            if strict:
                raise
