"""The learner: feedback, self-play, losses, adapters and models. Knows nothing of the network."""

from __future__ import annotations

import os
import sys

# Before torch is loaded: oneDNN keeps a kernel, and its memory, for each of the last 1,024 shapes, which is hundreds of
# megabytes where lengths differ all the time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

# Before torch is loaded, too: its threads wait for each other some thousand times a second, and keep a core busy for
# up to a millisecond each time. Where another program wants that core, all of them come to wait for one that does not
# run. Four thousand turns are long enough for a quiet machine.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")

# Where they are installed, PEFT and transformers import these for whoever imports them: seconds at every start, and
# warnings on stderr. Only `training.quantization` needs them, and takes them out of hiding.
for _name in ("bitsandbytes", "torchao"):
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]
