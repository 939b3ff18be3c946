"""
What the code costs, measured.

Python looks for modules beside the script that it runs first, and would find
C{benchmarks/dns.py} where dnspython's C{dns} is meant. So the first import of
this package ends that.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).parent.resolve()]
