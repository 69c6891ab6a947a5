"""One step of Activation Replay with real numbers, in cells to read from top to bottom.

python examples/walkthrough.py   (or cell by cell in an editor that knows `# %%`)
"""

# %% [markdown]
# A *base* model was trained further with verifiable rewards and became the *policy*. That taught it
# to look closer, but also changed its activations at pictures, most of all where the base was sure.
# Activation Replay (arXiv 2511.19972) moves these activations back, at test time.

# %%
import json
import re

import torch
from PIL import Image

from visreplay.replay_core import ReplaySession, Segment, load_pair
from visreplay.tasks import get_task

torch.set_num_threads(1)  # the tiny pair gains nothing from more

# For a 7B pair: load_pair("ChenShawn/DeepEyes-7B", "Qwen/Qwen2.5-VL-7B-Instruct",
# replay="token"); calls, boxes and the reply's tags below are the tiny pair's.
pair = load_pair("embedded", device="cpu")
config = pair.replay_config("token")
session = ReplaySession(pair, config)


def segment(text: str, picture: Image.Image) -> Segment:
    """Tokenise text with one picture in it."""
    batch = pair.processor(text=[text], images=[picture], return_tensors="pt")
    return Segment.from_processor(batch, pair.policy)


# %% [markdown]
# ## A picture becomes tokens
# The scene has 1344 x 1344 pixels. The model sees it at 224 x 224, as 8 x 8 visual tokens: too
# coarse to read a character.

# %%
task = get_task("visual-search-medium")
sample = task.load(task.sample_ids()[0])
scene = sample.images[0]
assert isinstance(scene, Image.Image)
turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}
prompt = pair.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
first = segment(prompt, scene)
grid = pair.policy.token_grid(first.blocks[0])
print(f"{sample.question}\n{scene.size} px are {len(first)} tokens, of which {grid} are visual")

# %% [markdown]
# ## The base reads it; replay; the policy reads it
# `append` does all three. The base's logit lens gives an entropy for every visual token and layer;
# the lower part of each layer (here: half; in the paper, below 0.4 of the maximum) is the set S.

# %%
report = session.append(first)
block = session.blocks[0]
print("base entropy in layer 0, in nats (* is in the low-entropy set):")
entropies, chosen = block.entropy_LT[0].reshape(grid[1:]), block.chosen_LT[0].reshape(grid[1:])
for row, marks in zip(entropies.tolist(), chosen.tolist(), strict=True):
    print("  ".join(f"{h:.2f}{'*' if low else ' '}" for h, low in zip(row, marks, strict=True)))

# %% [markdown]
# ## What replay did
# An offset is added to the embeddings of the visual tokens, and optimised until the policy's lens
# agrees with the base's on S. The weights stay as they are.

# %%
print("KL(base || policy) on S before each step:")
print("  ".join(f"{kl:.5f}" for kl in block.kl_path))
print(f"before {report.kl_before:.5f}, after {report.kl_after:.5f} nats; {report.seconds:.2f} s")

# %% [markdown]
# ## The policy writes
# Its own tokens are not replayed. They stay in the context exactly as it wrote them.

# %%
reply = session.generate(max_new_tokens=128)
print(reply.text)

# %% [markdown]
# ## The crop of its call enters the context
# Base, replay and policy process only the new tokens. All earlier positions stay in the KV caches
# of both models, and their replay is frozen.

# %%
call = json.loads(re.findall(r"<tool_call>(.*?)</tool_call>", reply.text)[-1])
left, top, right, bottom = (round(x * scene.width / 8) for x in call["arguments"]["bbox_2d"])
crop = scene.crop((left, top, right, bottom)).resize((168, 168), Image.Resampling.LANCZOS)
second = segment(
    "\n<|im_start|>user\n<tool_response><|vision_start|><|image_pad|><|vision_end|></tool_response>"
    "<|im_end|>\n<|im_start|>assistant\n",
    crop,
)
known = session.length
added = session.append(second)
print(f"{call['name']} {call['arguments']}: {known} tokens were known, {len(second)} are new")
print(f"KL {added.kl_before:.5f} -> {added.kl_after:.5f} nats on {added.new_visual_tokens} tokens")

# %% [markdown]
# Up to rounding, a session that reads everything at once gives the same result.

# %%
with ReplaySession(pair, config) as whole:
    before = whole.append(first)
    whole.extend_generated(list(reply.token_ids))
    after = whole.append(second)
    apart = (whole.next_logits - session.next_logits).abs().max()
print(f"from scratch: {before.seconds + after.seconds:.2f} s instead of {added.seconds:.2f} s")
print(f"the next token's logits differ by at most {apart:.1e}")

# %%
answer = session.generate(max_new_tokens=32).text
print(f"{answer}\nexpected: {sample.answer}")
session.close()
