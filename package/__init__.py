"""Agents that think with images, steered by Activation Replay (arXiv 2511.19972).

>>> import visreplay as vr
>>> from PIL import Image
>>> pair = vr.load_pair("embedded", device="cpu")
>>> image = Image.new("RGB", (224, 224), "red")
>>> answer = pair.generate("What is here?", images=[image], replay="token", max_new_tokens=16)
>>> answer.finish_reason in ("stop", "length")
True
"""

from importlib.metadata import version

import lazy_loader

# The names and their modules are listed in __init__.pyi; each is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("visreplay")
__all__ += ["__version__"]
