"""Agents that think with images, steered by Activation Replay (arXiv 2511.19972).

import visreplay as vr

agent = vr.VisualAgent.from_pretrained("embedded")
print(agent.run("Which character is on the green marker?", images=["scene.png"]).answer)
"""

from importlib.metadata import version

import lazy_loader

# The names and where they come from stand in __init__.pyi; each is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("visreplay")
__all__ += ["__version__"]
