"""`python -m rsna_e2e.cli VERB`."""

import sys

from rsna_e2e.cli import main

sys.exit(main())
