"""How well the programs are shut in: the back end in use, and what it leaves open.

In: nothing. Out: `Level`, which is printed and stored with every result.
"""

from dataclasses import dataclass

__all__ = ["Level"]


@dataclass(frozen=True)
class Level:
    """One back end, whether it works on this machine, and what it does not hold."""

    backend: str
    """`bubblewrap`, `landlock` or `none`."""
    usable: bool
    reason: str = ""
    """Why it is not usable."""
    drops_user: bool = False
    """Whether a run as root goes on as the user nobody."""
    landlock_abi: int = 0
    gaps: tuple[str, ...] = ()
    """What this level leaves open, in words."""

    @property
    def facts(self) -> dict[str, object]:
        """What a result file records."""
        return {
            "backend": self.backend,
            "drops_user": self.drops_user,
            "landlock_abi": self.landlock_abi,
            "gaps": list(self.gaps),
        }

    @property
    def line(self) -> str:
        """The one line that is printed before anything is run."""
        if not self.usable:
            return f"sandbox: {self.backend} is not usable here: {self.reason}"
        open_to = f"; open: {'; '.join(self.gaps)}" if self.gaps else ""
        if self.backend == "none":
            return f"NO SANDBOX: generated code runs with your rights{open_to}"
        return f"sandbox: {self.backend} with seccomp and limits{open_to}"
