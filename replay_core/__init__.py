"""Activation Replay for vision-language models: two models, tokens and activations.

    pair = load_pair("policy", "base", replay_layers=16)
    with ReplaySession(pair, ReplayConfig()) as session:
        batch = pair.processor(text=prompt, images=[image], return_tensors="pt")
        session.append(Segment.from_processor(batch, pair.policy))
        print(session.generate(max_new_tokens=256).text)

Method: arXiv 2511.19972. This package knows nothing of agents, tools or tasks.
"""

import lazy_loader

# The names and where they come from stand in __init__.pyi; each is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
