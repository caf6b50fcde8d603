# %% [markdown]
# ## Install
#
# Takes the kit beside this notebook, or clones release `{release}`, and installs what is missing;
# the first time takes some minutes. torch and the kernel stay as they are, so no restart is needed,
# and a machine without a GPU does not download what needs one. If it was cut off, run it again.
#
# * Colab: *Runtime → Change runtime type → T4 GPU*; the tiny model needs none.
# * Kaggle: *Settings → Internet on*, and *GPU T4 x2* (current torch has no kernels for a P100). The
#   notebook trains on the first card; `!torchrun --nproc_per_node 2 -m ocrkit train` uses both.

# %%
import importlib.util
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

here = Path.cwd()
places = (here, *here.parents, here / "ocrkit", here / "ocrkit-src", Path(sys.prefix).parent)
kit = next((p for p in places if (p / "notebooks" / "install.py").is_file()), None)
package = importlib.util.find_spec("ocrkit")
if kit is None and (package is None or package.origin is None):
    shutil.rmtree("ocrkit-part", ignore_errors=True)
    clone = "git clone --quiet --depth 1 --branch {release} {repository}"
    cloned = subprocess.run([*clone.split(), "ocrkit-part"], capture_output=True, text=True)
    if cloned.returncode:
        sys.exit(f"`{clone}` failed, so nothing is installed: {' '.join(cloned.stderr.split())}")
    kit = Path("ocrkit-part").rename("ocrkit-src")
if kit:
    runpy.run_path(str(kit / "notebooks" / "install.py"))["main"]()
