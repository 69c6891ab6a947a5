"""LangChain's own agent around a policy under replay, and what replay did while it runs.

pip install visreplay langchain
python examples/langchain_agent.py
"""

from langchain.agents import create_agent

from visreplay.agent import ReplayChatModel, protocol_tools, question
from visreplay.replay_core import EMBEDDED, Method, embedded_config
from visreplay.tasks.registry import get_task

# The tiny pair that ships. For a 7B pair:
#     model = ReplayChatModel.from_pretrained(
#         "ChenShawn/DeepEyes-7B", "Qwen/Qwen2.5-VL-7B-Instruct", dialect="deepeyes"
#     )
model = ReplayChatModel.from_pretrained(
    str(EMBEDDED / "policy"),
    str(EMBEDDED / "base"),
    replay=embedded_config(Method.TOKEN),
    dialect="embedded",
    max_tokens=128,
)
# The tools that the policy was trained on; they look at the pictures of the conversation.
agent = create_agent(model, tools=protocol_tools(model))

task = get_task("visual-search-medium")
sample = task.load(task.sample_ids()[0])  # a picture of 1344 x 1344 px, too small to read at once
asked = question(model, sample.question, sample.images)  # paths do as well: ["photo.jpg"]
print(sample.question)

for mode, part in agent.stream({"messages": [asked]}, stream_mode=["custom", "updates"]):
    if mode == "custom":  # replay ran, and the policy begins to write
        replay = part["replay"]
        print(
            f"step {part['step'] + 1}  {replay['new_visual_tokens']} new visual tokens, "
            f"KL {replay['kl_before']:.4f} -> {replay['kl_after']:.4f} nats; "
            f"{part['known_tokens']} of {part['context_tokens']} tokens were known"
        )
    else:
        for update in part.values():
            update["messages"][-1].pretty_print()
print(f"\nexpected: {sample.answer}")
