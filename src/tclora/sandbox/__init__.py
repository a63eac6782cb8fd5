"""Running code that a model wrote: in a jail, with the verdict made outside it.

In: the text of a program, and a test where there is one. Out: an `Outcome`. The jail is bubblewrap, else Landlock, each
with a seccomp filter of our own; where neither is to be had, nothing is run. See docs/sandbox.md for what is promised.
"""

from tclora.sandbox.level import Level
from tclora.sandbox.limits import Limits
from tclora.sandbox.many import run_many
from tclora.sandbox.numeric import numeric_value
from tclora.sandbox.outcome import Opaque, Outcome
from tclora.sandbox.sandbox import Sandbox, available

__all__ = ["Level", "Limits", "Opaque", "Outcome", "Sandbox", "available", "numeric_value", "run_many"]
