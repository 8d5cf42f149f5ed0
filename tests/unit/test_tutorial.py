"""What the tutorial shows is what happens."""

import re
import subprocess
import sys
from pathlib import Path

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def test_the_algorithm_prints_what_the_tutorial_says() -> None:
    text = TUTORIAL.read_text()
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert program is not None
    shown = re.search(r"```\n(0: reward.*?)```", text, re.DOTALL)
    assert shown is not None
    done = subprocess.run([sys.executable, "-c", program[1]], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == shown[1]
