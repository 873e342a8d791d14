"""What every test file shares."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `import goldens`, under importlib import mode
