"""LangChain's own agent around a policy with replay, and the replay report of every step.

pip install visreplay langchain
python examples/langchain_agent.py
"""

from langchain.agents import create_agent

from visreplay.agent import ReplayChatModel, protocol_tools, question
from visreplay.tasks import get_task

# The tiny pair that ships. A 7B pair: "ChenShawn/DeepEyes-7B", "Qwen/Qwen2.5-VL-7B-Instruct".
model = ReplayChatModel.from_pretrained("embedded")
# The tools of the policy's training; they work on the pictures of the conversation.
agent = create_agent(model, tools=protocol_tools(model))

task = get_task("visual-search-medium")
sample = task.load(task.sample_ids()[0])  # 1344 x 1344 px; its text is too small to read at first
message = question(model, sample.question, sample.images)  # or paths: ["photo.jpg"]
print(sample.question)

for mode, part in agent.stream({"messages": [message]}, stream_mode=["custom", "updates"]):
    if mode == "custom":  # replay has run, and the policy begins to write
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
