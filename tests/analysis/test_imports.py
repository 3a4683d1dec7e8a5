import subprocess
import sys

import thoughtlens.analysis


def test_analysis_leaves_torch_and_matplotlib_out():
    code = "import sys, thoughtlens.analysis; print([m for m in ('torch', 'matplotlib', 'zarr') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_everything_exported_exists():
    assert all(hasattr(thoughtlens.analysis, name) for name in thoughtlens.analysis.__all__)
