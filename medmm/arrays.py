"""Array aliases: the one file in which arrays get their type.

Plain numpy aliases, since importing jaxtyping costs 0.2 CPU-seconds and this file is on the scoring path;
the docstring that uses an alias states shape, unit and range.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating]
Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.integer]
Bools: TypeAlias = npt.NDArray[np.bool_]
Array: TypeAlias = npt.NDArray[np.generic]
