"""Activation Replay for vision-language models: two models, tokens and activations.

    >>> from PIL import Image
    >>> from visreplay.replay_core import ReplaySession, load_pair
    >>> pair = load_pair("embedded", device="cpu")
    >>> with ReplaySession(pair, "token") as session:
    ...     report = session.append("What is here?", images=[Image.new("RGB", (224, 224), "red")])
    ...     generation = session.generate(max_new_tokens=16)
    >>> report.kl_after < report.kl_before
    True

Method: arXiv 2511.19972. This package knows nothing of agents and tasks, and of the tools only
how an image is loaded.
"""

import lazy_loader

# The names and their modules are listed in __init__.pyi; each is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
